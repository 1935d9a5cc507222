//! The commands as scripts use them.

use serde_json::{Value, json};

use crate::support::{Folder, Server, run, run_json};

#[tokio::test]
async fn users_phones_tokens_and_messages_without_a_server() {
    let folder = Folder::seeded();
    let data = folder.data();
    let added = run_json(&data, &["user", "add", "Shop", "--permission", "SendMessages,Chat"]);
    assert!(added["id"].is_string());
    assert_eq!(added["permissions"], json!(["SendMessages", "Chat"]));
    let output = run(&data, &["user", "add", "SHOP"]);
    assert_eq!(output.status.code(), Some(5), "names are unique without case");
    assert_eq!(run(&data, &["user", "add", "x", "--permission", "Fly"]).status.code(), Some(2));
    let mobile = run_json(&data, &["mobile", "add", "+967771234567", "--verified"]);
    assert_eq!(mobile["status"], "verified");
    let again = run_json(&data, &["mobile", "add", "+967771234567", "--verified"]);
    assert_eq!(again["id"], mobile["id"]);
    let plain = run_json(&data, &["mobile", "add", "+967771234567"]);
    assert_eq!(plain["status"], "verified", "adding again takes nothing away");
    assert_eq!(run(&data, &["mobile", "add", "12"]).status.code(), Some(2));
    assert_eq!(run(&data, &["mobile", "show", "+967770000000"]).status.code(), Some(4));

    let token = run_json(&data, &["token", "create", "--user", "shop", "--expires", "1h"]);
    let text = token["token"].as_str().unwrap();
    assert!(text.starts_with("esh_") && token["expiresAt"].is_string());
    let endless = run_json(&data, &["token", "create", "--user", "Shop"]);
    assert_eq!(endless["expiresAt"], Value::Null);
    let phone = run_json(&data, &["token", "create", "--mobile", "+967771234567"]);
    assert!(phone["expiresAt"].is_string());
    let listed = run_json(&data, &["token", "list"]);
    assert_eq!(listed.as_array().unwrap().len(), 3);
    assert!(!listed.to_string().contains(text), "a token is shown once");
    let id = token["id"].as_str().unwrap();
    assert!(run(&data, &["token", "revoke", id]).status.success());
    assert_eq!(run(&data, &["token", "revoke", "nothing"]).status.code(), Some(4));
    assert_eq!(run(&data, &["token", "create"]).status.code(), Some(2));
    assert_eq!(run(&data, &["token", "create", "--user", "nobody"]).status.code(), Some(4));
    run_json(&data, &["mobile", "add", "+967770000002"]);
    let unverified = run(&data, &["token", "create", "--mobile", "+967770000002"]);
    assert_eq!(unverified.status.code(), Some(5));

    let sent = run_json(
        &data,
        &["message", "send", "--from", "Shop", "--to", "+967771234567", "Hello", "--subject", "S"],
    );
    assert_eq!(sent["status"], "pending");
    let id = sent["id"].as_str().unwrap();
    let shown = run_json(&data, &["message", "show", id]);
    assert_eq!(shown["content"], "Hello");
    assert_eq!(shown["timeline"][0]["step"], "pending");
    let listed =
        run_json(&data, &["message", "list", "--to", "+967771234567", "--status", "pending"]);
    assert_eq!(listed[0]["id"], json!(id));
    let lines = run(&data, &["message", "list", "-o", "jsonl"]);
    assert_eq!(String::from_utf8_lossy(&lines.stdout).lines().count(), 1);
    let table = run(&data, &["message", "list"]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.starts_with("ID") && table.contains("Hello"), "{table}");
    let missing = run(&data, &["message", "show", "01a20a1b-7317-71ae-8f98-eacc86509605"]);
    assert_eq!(missing.status.code(), Some(4));
    let error = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(error.starts_with("error: "), "{error}");

    let changed = run_json(&data, &["user", "set", "Shop", "--permission", "Chat"]);
    assert_eq!(changed["permissions"], json!(["Chat"]));
    let refused = run(&data, &["message", "send", "--from", "Shop", "--to", "+967771234567", "x"]);
    assert_eq!(refused.status.code(), Some(5), "a user sends with its own permissions only");
    assert_eq!(run(&data, &["user", "disable", "Shop"]).status.code(), Some(5), "not asked");
    let disabled = run_json(&data, &["user", "disable", "Shop", "--yes"]);
    assert!(disabled["disabledAt"].is_string());
    let again = run_json(&data, &["user", "disable", "Shop", "--yes"]);
    assert_eq!(again["disabledAt"], disabled["disabledAt"]);
    assert_eq!(run(&data, &["token", "create", "--user", "Shop"]).status.code(), Some(5));
    run_json(&data, &["user", "set", "Shop", "--enable", "--permission", "SendMessages"]);
    for lifetime in ["0s", "99999999999d", "soon"] {
        let made = run(&data, &["token", "create", "--user", "Shop", "--expires", lifetime]);
        assert_eq!(made.status.code(), Some(2), "{lifetime}");
    }
    let to = ["message", "send", "--from", "Shop", "--to", "+967771234567"];
    let broken = run(&data, &[&to[..], &["--content-type", "json", "{bad"]].concat());
    assert_eq!(broken.status.code(), Some(2));
    // What could not be shown is no success: a token would be gone for good.
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = crate::support::command(&data);
    let status = command.args(["user", "list"]).stdout(full).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[tokio::test]
async fn commands_work_at_once_and_while_it_serves() {
    let folder = Folder::seeded();
    let data = folder.data();
    let all: Vec<_> = (0..4)
        .map(|n| {
            let data = data.clone();
            std::thread::spawn(move || run_json(&data, &["user", "add", &format!("user {n}")]))
        })
        .collect();
    for one in all {
        assert!(one.join().unwrap()["id"].is_string());
    }
    let server = Server::start_in(folder, &[]).await;
    assert_eq!(run_json(&server.data(), &["user", "list"]).as_array().unwrap().len(), 4);
    let token = server.token(&["--user", "user 2"]);
    assert_eq!(server.request("GET", "/api/v1/messages", Some(&token), None).await.0, 200);
    let output = run(&server.data(), &["user", "disable", "user 2", "--yes"]);
    assert!(output.status.success());
    let base = server.base.clone();
    let gone = async {
        loop {
            let request = crate::support::http().get(format!("{base}/api/v1/messages"));
            if request.bearer_auth(&token).send().await.unwrap().status() == 401 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(crate::support::DEADLINE, gone).await.unwrap();
}

#[tokio::test]
async fn doctor_config_completions_and_manual() {
    let folder = Folder::seeded();
    let data = folder.data();
    run_json(&data, &["user", "add", "Shop"]);
    let checks = run_json(&data, &["doctor"]);
    let names: Vec<&str> =
        checks.as_array().unwrap().iter().map(|check| check["check"].as_str().unwrap()).collect();
    let wanted = "configuration, data folder, disk, open files, certificate, database, connections, \
                  durability, database role, clock, schema, key file, admin tokens, phone numbers, \
                  rabbitmq, redis, mail, registration, service";
    assert_eq!(names.join(", "), wanted);
    assert!(checks.as_array().unwrap().iter().all(|check| check["state"] != "FAIL"), "{checks}");
    let shown = run_json(&data, &["config", "show"]);
    let folder = shown.as_array().unwrap().iter().find(|line| line["key"] == "data_dir").unwrap();
    assert!(folder["from"].as_str().unwrap().contains("--data-dir"), "{folder}");
    assert!(run(&data, &["config", "check"]).status.success());
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&data, &["completions", shell]);
        assert!(output.status.success() && output.stdout.len() > 1000, "{shell}");
    }
    let manual = run(&data, &["man"]);
    assert!(String::from_utf8_lossy(&manual.stdout).contains(".TH"));
    assert_eq!(run(&data, &["no-such-command"]).status.code(), Some(2));
    assert_eq!(run(&data, &["--version"]).status.code(), Some(0));
}

/// What only prints has done nothing when nothing could be written; a reader that goes away early is no fault.
#[tokio::test]
async fn what_was_to_be_printed_and_was_not_is_a_failure() {
    let folder = Folder::new();
    for arguments in [
        &["config", "default"][..],
        &["config", "doc"],
        &["config", "show"],
        &["config", "show", "-o", "json"],
        &["completions", "bash"],
        &["man"],
        &["--help"],
        &["--version"],
        &["help"],
        &["message", "--help"],
        &["message", "help", "send"],
        &["doctor", "--help"],
    ] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = crate::support::command(&folder.data());
        let output = command.args(arguments).stdout(full).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(
            text.contains("error: cannot write standard output: the disk is full")
                && text.contains("hint:"),
            "{text}"
        );
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = crate::support::command(&folder.data());
        let status = command.args(arguments).stdout(writer).status().unwrap();
        assert_eq!(status.code(), Some(0), "{arguments:?} without a reader");
        let output = run(&folder.data(), arguments);
        assert!(output.status.success() && !output.stdout.is_empty(), "{arguments:?}");
    }
}

/// A name or a text with characters that change the direction does not reach a terminal as it is.
#[tokio::test]
async fn what_changes_the_direction_is_escaped_where_it_is_shown() {
    let server = Server::start().await;
    let shop = server.user("Shop", "SendMessages,Chat");
    let text = "invoice\u{202e}fdp.exe\u{2069} \u{2067}x";
    let sent = server.send(&shop, "+967771234567", text).await;
    let phone = server.phone("+967771234567");
    let body = json!({ "phone": "+967771234567" });
    let talk = server.api(&shop).post("/api/v1/conversations", &body).await.unwrap().body;
    let talk = talk["id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/conversations/{talk}/messages");
    server.api(&shop).post(&path, &json!({ "content": text })).await.unwrap();
    let odd = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    for arguments in [
        &["message", "list"][..],
        &["message", "show", &sent],
        &["message", "explain", &sent],
        &["message", "list", "-o", "json"],
        &["message", "list", "-o", "jsonl"],
        &["message", "show", &sent, "-o", "json"],
        &["conversation", "show", &talk],
        &["conversation", "show", &talk, "-o", "json"],
        &["conversation", "export", &talk, "--format", "text"],
    ] {
        let output = run(&server.data(), arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {error}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!text.contains(odd), "{arguments:?}: {text:?}");
        if arguments.contains(&"list") || arguments.contains(&"export") {
            assert!(
                text.to_lowercase().contains("202e"),
                "{arguments:?} hides that it is there: {text}"
            );
        }
    }
    // JSON says the same as before.
    let listed = server.run_json(&["message", "show", &sent]);
    assert_eq!(listed["content"], json!(text));
    let mut listen = crate::support::command(&server.data());
    let listen = listen
        .args(["listen", "--token", &phone, "--url", &server.base, "--count", "1"])
        .output()
        .unwrap();
    let heard = String::from_utf8_lossy(&listen.stdout).into_owned();
    assert!(heard.contains("\\u{202e}") && !heard.contains(odd), "{listen:?}");
    let wrong = run(&server.data(), &["user", "show", "no\u{202e}body"]);
    assert!(!String::from_utf8_lossy(&wrong.stderr).contains(odd), "{wrong:?}");
    let top = run(&server.data(), &["top", "--once", "-o", "table"]);
    assert!(!String::from_utf8_lossy(&top.stdout).contains(odd), "{top:?}");
}

#[tokio::test]
async fn a_token_comes_from_a_file_or_from_standard_input() {
    use std::{io::Write as _, os::unix::fs::PermissionsExt as _, process::Stdio};
    let server = Server::start().await;
    let shop = server.user("Shop", "SendMessages");
    let phone = server.phone("+967771234567");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{phone}\n")).unwrap();
    let path = file.path().to_str().unwrap();
    let hear = async |source: &[&str], mode: u32| {
        server.send(&shop, "+967771234567", "hello").await;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        let mut listen = crate::support::command(&server.data());
        listen.args(["listen", "--url", &server.base, "--count", "1"]).args(source);
        listen.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = listen.spawn().unwrap();
        writeln!(child.stdin.take().unwrap(), "{phone}").unwrap();
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{source:?}: {error}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("hello"), "{source:?}");
        assert!(!error.contains(&phone), "{source:?}");
        error
    };
    let quiet = hear(&["--token-file", path], 0o600).await;
    assert!(!quiet.contains("others can read") && !quiet.contains("--token is visible"), "{quiet}");
    assert!(hear(&["--token-file", path], 0o644).await.contains("others can read"));
    assert!(!hear(&["--token-file", "-"], 0o600).await.contains("visible"));
    assert!(hear(&["--token", &phone], 0o600).await.contains("--token is visible"));
}
