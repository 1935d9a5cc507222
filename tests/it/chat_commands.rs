//! Conversations from the command line: administered, and talked in.

use serde_json::{Value, json};

use crate::{
    chat::{PHONE, Talk},
    support::{Server, run_json},
};

#[tokio::test]
async fn an_administrator_lists_shows_puts_away_and_takes_out_conversations() {
    let talk = Talk::new().await;
    for n in 0..3 {
        talk.say(&talk.phone, &format!("question {n}\nwith a second line~[2J")).await;
    }
    // Nobody can say this; an earlier version may have stored it.
    let stored = "UPDATE messages SET content = replace(content, '~', chr(27))";
    talk.server.database().await.execute(stored, &[]).await.unwrap();
    talk.say(&talk.shop, "an answer").await;
    let data = talk.server.data();
    let listed = run_json(&data, &["conversation", "list", "--user", "shop"]);
    assert_eq!((listed[0]["id"].as_str(), &listed[0]["lastSeq"]), (Some(&*talk.id), &json!(4)));
    assert_eq!(
        (&listed[0]["unreadBusiness"], &listed[0]["unreadMobile"]),
        (&json!(3), &json!(1)),
        "{listed}"
    );
    let of = |arguments: &[&str]| {
        let found = run_json(&data, &[&["conversation", "list"], arguments].concat());
        found.as_array().unwrap().len()
    };
    assert_eq!(of(&["--phone", PHONE, "--status", "active"]), 1);
    assert_eq!(of(&["--phone", "+967770000009"]), 0);
    assert_eq!(of(&["--status", "closed"]), 0);
    let shown = run_json(&data, &["conversation", "show", &talk.id, "--messages", "2"]);
    let seqs: Vec<&Value> =
        shown["lastMessages"].as_array().unwrap().iter().map(|m| &m["seq"]).collect();
    assert_eq!((seqs, &shown["messages"]["pending"]), (vec![&json!(3), &json!(4)], &json!(4)));
    let output = crate::support::run(&data, &["conversation", "export", &talk.id]);
    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 4);
    assert_eq!((&lines[3]["content"], &lines[3]["from"]), (&json!("an answer"), &json!("shop")));
    let file = talk.server.folder.path().join("talk.txt");
    let file_name = file.to_str().unwrap();
    let arguments = ["conversation", "export", &talk.id, "--format", "text", "--out", file_name];
    let output = crate::support::run(&data, &arguments);
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("wrote 4 messages to"), "{output:?}");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.starts_with(&format!("Conversation {} between shop and {PHONE}", talk.id)),
        "{text}"
    );
    assert!(text.contains("question 2\n        with a second line [2J\n"), "{text:?}");
    let archived = run_json(&data, &["conversation", "archive", &talk.id]);
    assert_eq!(archived["status"], "archived");
    assert_eq!(run_json(&data, &["conversation", "close", &talk.id])["status"], "closed");
    let said = talk.ask("POST", "/messages", &talk.phone, Some(json!({ "content": "x" }))).await;
    assert_eq!(said.0, 409);
    let exit = |arguments: &[&str]| crate::support::run(&data, arguments).status.code();
    let absent = "01a20a1b-7317-71ae-8f98-eacc86509605";
    assert_eq!(exit(&["conversation", "show", absent]), Some(4));
    assert_eq!(exit(&["conversation", "export", absent]), Some(4));
    assert_eq!(exit(&["conversation", "close", &talk.id, absent]), Some(3));
    assert_eq!(exit(&["conversation", "close", "nonsense"]), Some(4));
    assert_eq!(exit(&["conversation", "close"]), Some(2));
    assert_eq!(exit(&["conversation", "list", "--status", "nonsense"]), Some(2));
}

/// The README's two terminals.
#[tokio::test(flavor = "multi_thread")]
async fn two_terminals_talk() {
    use std::io::{BufRead as _, BufReader, Write as _};

    let server = Server::start().await;
    let data = server.data();
    let may = ["user", "add", "Shop", "--permission", "SendMessages,Chat"];
    run_json(&data, &[&may[..], &["--phone", "+967780000001"]].concat());
    run_json(&data, &["mobile", "add", PHONE, "--verified"]);
    let open = |who: &str, with: &str| {
        let mut command = crate::support::command(&data);
        command.args(["chat", "--as", who, "--with", with]).stdin(std::process::Stdio::piped());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        command.spawn().unwrap()
    };
    let (mut shop, mut phone) = (open("Shop", PHONE), open(PHONE, "+967780000001"));
    let (mut shop_says, mut phone_says) = (shop.stdin.take().unwrap(), phone.stdin.take().unwrap());
    let mut shop_sees = BufReader::new(shop.stdout.take().unwrap()).lines();
    let mut phone_sees = BufReader::new(phone.stdout.take().unwrap()).lines();
    tokio::task::spawn_blocking(move || {
        writeln!(shop_says, "Your order is ready.").unwrap();
        let seen = phone_sees.next().unwrap().unwrap();
        assert!(seen.ends_with("  Shop: Your order is ready."), "{seen}");
        writeln!(phone_says, "Thank you!\nI am on my way.").unwrap();
        for line in ["Thank you!", "I am on my way."] {
            let seen = shop_sees.next().unwrap().unwrap();
            assert!(seen.ends_with(&format!("  {PHONE}: {line}")), "{seen}");
        }
        // Ctrl-D on both.
        drop((shop_says, phone_says));
        for child in [&mut shop, &mut phone] {
            assert!(child.wait().unwrap().success());
        }
    })
    .await
    .unwrap();
    let listed = run_json(&data, &["conversation", "list"]);
    assert_eq!(listed[0]["lastSeq"], 3);
    // A script is told what was refused. A token that is exported is nothing to `--as`.
    run_json(&data, &["conversation", "close", listed[0]["id"].as_str().unwrap()]);
    let mut command = crate::support::command(&data);
    command.args(["chat", "--as", "Shop", "--with", PHONE]).env("ESH3AR_TOKEN", "esh_other");
    command.stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut late = command.spawn().unwrap();
    late.stdin.take().unwrap().write_all(b"too late\n").unwrap();
    let output = late.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(told.contains("not sent: 1 of 1 line"), "{told}");
    let tokens = run_json(&data, &["token", "list"]);
    let tokens = tokens.as_array().unwrap();
    assert_eq!(tokens.len(), 3);
    assert!(tokens.iter().all(|token| !token["revokedAt"].is_null()), "{tokens:?}");
}
