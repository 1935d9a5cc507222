//! The administrator's commands over the admin API of a server elsewhere: the same output as on the
//! server itself, and clear errors.

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::support::{BINARY, Folder, Server};

const PHONE: &str = "+967771234567";

/// A file that only its owner reads, as a token should be kept.
pub fn private_file(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Somewhere without a database of its own.
pub struct Elsewhere {
    pub folder: Folder,
    pub url: String,
}

impl Elsewhere {
    pub fn new(server: &Server, token: &str) -> Elsewhere {
        let folder = Folder::new();
        private_file(&folder.path().join("token"), &format!("{token}\n"));
        Elsewhere { folder, url: server.base.clone() }
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ESH3AR") {
                command.env_remove(name);
            }
        }
        // Nothing here may be opened: it would be in the way of what is asked elsewhere.
        command.env("ESH3AR__DATA_DIR", self.folder.path().join("none")).env("NO_COLOR", "1");
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.asking(arguments).output().unwrap()
    }

    /// The command, not run yet.
    pub fn asking(&self, arguments: &[&str]) -> Command {
        let mut command = self.command();
        command
            .arg("--url")
            .arg(&self.url)
            .arg("--token-file")
            .arg(self.folder.path().join("token"));
        command.args(arguments);
        command
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["-o", "json"]].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {error}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn every_command_says_elsewhere_what_it_says_on_the_server() {
    let server = Server::start().await;
    let root = server.user("root", "Admin");
    let shop = server.user("Shop", "SendMessages,Chat");
    server.phone(PHONE);
    let elsewhere = Elsewhere::new(&server, &root);
    let sent = server.send(&shop, PHONE, "on its way").await;
    let opened = json!({ "phone": PHONE });
    let talk = server.api(&shop).post("/api/v1/conversations", &opened).await.unwrap().body;
    let talk = talk["id"].as_str().unwrap();
    for n in 0..3 {
        let path = format!("/api/v1/conversations/{talk}/messages");
        server.api(&shop).post(&path, &json!({ "content": format!("{n}") })).await.unwrap();
    }
    for arguments in [
        &["user", "list"][..],
        &["user", "show", "shop"],
        &["mobile", "list"],
        &["mobile", "show", PHONE],
        &["token", "list", "--mobile", PHONE],
        &["message", "list", "--from", "Shop", "--limit", "2"],
        &["message", "show", &sent],
        &["message", "explain", &sent],
        &["conversation", "list", "--phone", PHONE],
        &["conversation", "show", talk, "--messages", "2"],
        &["dlq", "list"],
        &["audit", "delivery"],
    ] {
        for format in ["json", "table"] {
            let arguments = [arguments, &["-o", format]].concat();
            let here = server.run(&arguments);
            let there = elsewhere.run(&arguments);
            assert!(there.status.success(), "{arguments:?}: {}", said(&there));
            let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(text(&there), text(&here), "{arguments:?}");
            assert!(!text(&there).is_empty());
        }
    }
    let export = ["conversation", "export", talk];
    assert_eq!(elsewhere.run(&export).stdout, server.run(&export).stdout);
    // Changes, which the server then has.
    let made = elsewhere.json(&["user", "add", "From afar", "--permission", "Chat"]);
    assert_eq!(server.run_json(&["user", "show", "From afar"]), made);
    let token = elsewhere.json(&["token", "create", "--user", "From afar", "--expires", "1h"]);
    let path = "/api/v1/conversations";
    let secret = token["token"].as_str().unwrap();
    assert_eq!(server.request("GET", path, Some(secret), None).await.0, 200);
    let id = token["id"].as_str().unwrap();
    let next = elsewhere.json(&["token", "rotate", id, "--overlap", "10m"]);
    assert_eq!(next["replaces"], json!(id));
    assert!(elsewhere.run(&["token", "revoke", next["id"].as_str().unwrap()]).status.success());
    let added = elsewhere.json(&["mobile", "add", "+967770000001", "--verified"]);
    assert_eq!(added["status"], "verified");
    let send = ["message", "send", "--from", "Shop", "--to", PHONE, "from afar"];
    assert_eq!(elsewhere.json(&send)["status"], "pending");
    let reason = "moved: نعم";
    let closed = elsewhere.json(&["conversation", "close", talk, "--reason", reason]);
    assert_eq!(closed["status"], "closed");
    assert_eq!(elsewhere.json(&["user", "disable", "From afar", "--yes"])["name"], "From afar");
    let log = elsewhere.json(&["audit", "access", "--actor", "root", "--action", "conversation"]);
    assert_eq!(
        (&log[0]["action"], &log[0]["reason"]),
        (&json!("conversation.close"), &json!(reason))
    );
}

#[tokio::test]
async fn dead_letters_are_put_back_from_elsewhere_however_many() {
    let server = Server::start().await;
    let root = server.user("root", "Admin");
    server.user("Shop", "SendMessages");
    let elsewhere = Elsewhere::new(&server, &root);
    // More than one call takes, and frames first, which nobody can put back.
    let database = server.database().await;
    database
        .batch_execute(
            "INSERT INTO messages (id, recipient_phone, content, sender_user_id, status, created_at,
                                   content_type, priority)
             SELECT ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, '+967771234567', 'x',
                    (SELECT id FROM business_users WHERE name = 'Shop'), 4, now(), 0, 1
             FROM generate_series(1, 1500) AS n;
             INSERT INTO dead_letters (id, message_id, generation, kind, class, reason, attempts,
                                       first_error_at, last_error_at)
             SELECT id, id, 0, 'delivery', 'recipient', 'made', 6, now(), now() FROM messages;
             INSERT INTO dead_letters (id, generation, kind, class, reason, attempts, first_error_at,
                                       last_error_at, frame)
             SELECT ('00000000-0000-7000-9000-' || lpad(n::text, 12, '0'))::uuid, 0, 'frame', 'system',
                    'made', 1, now(), now(), n::text::bytea FROM generate_series(1, 1200) AS n;",
        )
        .await
        .unwrap();
    let dry = elsewhere.json(&["dlq", "requeue", "--all", "--dry-run"]);
    assert_eq!(dry, json!({ "dryRun": true, "matched": 2700 }));
    let output = elsewhere.run(&["dlq", "requeue", "--all", "--yes", "-o", "json"]);
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&summary["matched"], &summary["requeued"]), (&json!(2700), &json!(1500)));
    assert_eq!(summary["skipped"].as_array().unwrap().len(), 1200);
    let listed = elsewhere.json(&["dlq", "list", "--limit", "250"]);
    assert_eq!(listed.as_array().unwrap().len(), 250, "page after page");
    let absent = "01a20a1b-7317-71ae-8f98-eacc86509605";
    assert_eq!(elsewhere.run(&["dlq", "show", absent]).status.code(), Some(4));
    assert_eq!(elsewhere.run(&["dlq", "delete", absent, "--yes"]).status.code(), Some(4));
}

#[tokio::test]
async fn what_goes_wrong_is_told_apart() {
    let server = Server::start().await;
    let root = server.user("root", "Admin");
    let shop = server.user("Shop", "SendMessages");
    let good = Elsewhere::new(&server, &root);
    let ends = |output: Output, code: i32, text: &str| {
        let error = said(&output);
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.starts_with("error: ") && error.contains(text), "{error}");
        assert!(!error.contains("esh_"), "a token in a message: {error}");
    };
    ends(Elsewhere::new(&server, "esh_wrong").run(&["user", "list"]), 5, "rejected the token");
    ends(Elsewhere::new(&server, &shop).run(&["user", "list"]), 5, "not an administrator's token");
    ends(Elsewhere::new(&server, "").run(&["user", "list"]), 2, "--token-file");
    ends(good.run(&["user", "show", "nobody"]), 4, "no such user");
    ends(good.run(&["user", "add", "Shop"]), 5, "already");
    ends(good.run(&["mobile", "add", "12"]), 2, "phone");
    ends(good.run(&["user", "disable", "root", "--yes"]), 5, "last");
    ends(good.run(&["migrate"]), 2, "works only on the machine");
    ends(good.run(&["message", "list", "--limit", "0"]), 2, "above 0");
    let mut command = good.command();
    command.args(["user", "list", "--url", &good.url, "--token-file", "/dev/zero"]);
    ends(command.output().unwrap(), 78, "longer than 4 KiB");
    for (local, next) in [
        (&["backup", "x"][..], "run esh3ar backup FILE on the server"),
        (&["restore", "x"], "run there: esh3ar restore FILE"),
        (&["init"], "run it on the server"),
    ] {
        ends(good.run(local), 2, next);
        let mut command = good.command();
        command.env("ESH3AR_URL", &good.url).env("ESH3AR_TOKEN", &root).args(local);
        let output = command.output().unwrap();
        assert!(said(&output).contains(next), "{}", said(&output));
        ends(output, 2, "unset ESH3AR_URL");
    }
    let tls =
        Elsewhere { url: good.url.replace("http:", "https:"), ..Elsewhere::new(&server, "x") };
    ends(tls.run(&["user", "list"]), 69, "it does not speak TLS there: use http://");
    ends(good.run(&["user", "list", "--data-dir", "/tmp"]), 2, "--data-dir");
    let away = Elsewhere { url: "http://127.0.0.1:1".to_owned(), folder: Folder::new() };
    private_file(&away.folder.path().join("token"), "esh_x");
    ends(away.run(&["user", "list"]), 69, "cannot reach http://127.0.0.1:1");
    let no_url = Elsewhere { url: "messages.example.org".to_owned(), ..away };
    ends(no_url.run(&["user", "list"]), 2, "not a valid server address");
    // Something that is not esh3ar.
    let other = Elsewhere { url: server.metrics.clone(), ..no_url };
    let output = other.run(&["user", "list"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    // The environment names it as well; a folder that is given stands over it.
    let mut command = good.command();
    command.env("ESH3AR_URL", &good.url).env("ESH3AR_TOKEN", &root);
    let output = command.args(["user", "list", "-o", "json"]).output().unwrap();
    let users: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(users.as_array().unwrap().len(), 2, "{}", said(&output));
    let mut command = crate::support::command(&server.data());
    command.env("ESH3AR_URL", "http://127.0.0.1:1").envs(server.environment());
    assert!(command.args(["user", "list"]).output().unwrap().status.success());
}

#[tokio::test]
async fn a_certificate_is_trusted_by_file_only() {
    use std::os::unix::fs::PermissionsExt as _;
    esh3ar::client::prepare();
    let folder = Folder::seeded();
    let path = folder.path().to_owned();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    crate::listen::certificate(&path, "own");
    let (cert, key) = (path.join("cert.pem"), path.join("key.pem"));
    let server = Server::start_in(
        folder,
        &[
            ("ESH3AR__HTTP__TLS_CERT", cert.to_str().unwrap()),
            ("ESH3AR__HTTP__TLS_KEY", key.to_str().unwrap()),
        ],
    )
    .await;
    let root = server.user("root", "Admin");
    let mut elsewhere = Elsewhere::new(&server, &root);
    elsewhere.url = format!("https://localhost:{}", server.base.rsplit(':').next().unwrap());
    let refused = elsewhere.run(&["user", "list"]);
    assert_eq!(refused.status.code(), Some(69), "{}", said(&refused));
    assert!(said(&refused).contains("certificate"), "{}", said(&refused));
    let users = elsewhere.json(&["user", "list", "--ca-file", cert.to_str().unwrap()]);
    assert_eq!(users[0]["name"], "root");
    let token = path.join("data");
    let output = elsewhere.run(&["user", "list", "--ca-file", token.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78), "{}", said(&output));
}

#[tokio::test]
async fn who_listens_with_a_token_that_is_no_good_is_told() {
    use std::io::{BufRead as _, BufReader};
    let server = Server::start().await;
    let data = server.data();
    let shop = server.user("Shop", "SendMessages");
    let listen = |token: &str| {
        let file = server.folder.path().join("token");
        private_file(&file, token);
        let mut command = crate::support::command(&data);
        command.args(["listen", "--url", &server.base, "--token-file"]).arg(file);
        command.stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let output = listen("bad").wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert!(said(&output).contains("rejected the token; hint: "), "{}", said(&output));
    let mut listening = listen(&shop);
    let mut told = BufReader::new(listening.stderr.take().unwrap()).lines();
    assert!(told.next().unwrap().unwrap().contains("connected to"));
    let tokens = crate::support::run_json(&data, &["token", "list"]);
    let id = tokens[0]["id"].as_str().unwrap();
    assert!(crate::support::run(&data, &["token", "revoke", id]).status.success());
    let ended = tokio::task::spawn_blocking(move || {
        let told: Vec<String> = told.map_while(Result::ok).collect();
        (listening.wait().unwrap().code(), told)
    });
    let (code, told) =
        tokio::time::timeout(crate::support::DEADLINE, ended).await.unwrap().unwrap();
    assert_eq!(code, Some(5), "{told:?}");
    assert!(told.last().unwrap().contains("rejected the token"), "{told:?}");
}
