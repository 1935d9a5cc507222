//! Starting, stopping, and what is told when it cannot start.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{DEADLINE, Folder, Server, id, next_messages, run, run_json};

#[tokio::test]
async fn it_stops_on_a_signal_with_sockets_open_and_tells_them_to_come_back() {
    let mut server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone("+967771234567");
    let mut hub = server.hub(&phone).await;
    let sent = server.send(&shop, "+967771234567", "unacknowledged").await;
    assert_eq!(id(&next_messages(&mut hub).await.1[0]), sent);
    server.terminate();
    let closing = async {
        loop {
            match hub.next().await {
                Ok(esh3ar::client::HubEvent::Close { error, allow_reconnect }) => {
                    assert_eq!((error, allow_reconnect), (None, true));
                    return;
                }
                Ok(_) => {}
                Err(error) => panic!("no goodbye: {error}"),
            }
        }
    };
    tokio::time::timeout(DEADLINE, closing).await.unwrap();
    drop(hub);
    assert_eq!(server.ended().await, Some(0));
    assert!(!server.data().join("serve.json").exists());
    server.launch().await;
    let mut hub = server.hub(&phone).await;
    assert_eq!(id(&next_messages(&mut hub).await.1[0]), sent, "it waits for the next connection");
}

#[tokio::test]
async fn a_second_server_on_the_folder_is_refused_with_words() {
    let server = Server::start().await;
    let begun = Instant::now();
    let output = run(&server.data(), &["serve", "--listen", "127.0.0.1:0"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(5), "{text}");
    assert!(text.contains("is already in use by process") && text.contains("hint:"), "{text}");
    assert!(begun.elapsed() < DEADLINE);
    assert_eq!(server.request("GET", "/health", None, None).await.0, 200, "the first goes on");
}

#[tokio::test]
async fn a_taken_port_is_told() {
    let server = Server::start().await;
    let folder = Folder::new();
    let address = server.base.strip_prefix("http://").unwrap();
    let output = run(&folder.data(), &["serve", "--listen", address]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot listen on") && text.contains("hint:"), "{text}");
}

#[tokio::test]
async fn a_wrong_configuration_is_told_whole_and_not_started() {
    let folder = Folder::new();
    let file = folder.path().join("esh3ar.toml");
    fs::write(&file, "[http]\nlisten = \"x\"\nlissten = 1\n[queue]\nurl = \"amqp://x\"\n").unwrap();
    let path = file.display().to_string();
    for arguments in [vec!["serve"], vec!["config", "check"], vec!["config", "show"]] {
        let output = run(&folder.data(), &[&["--config", &path], &arguments[..]].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{arguments:?}: {text}");
        assert!(text.contains("did you mean http.listen?"), "{text}");
        assert!(text.contains(":2: http.listen must be"), "{text}");
        assert!(text.contains(":5: queue.url needs cache.url"), "{text}");
    }
    let output = run(&folder.data(), &["--config", "/nowhere.toml", "doctor"]);
    assert_eq!(output.status.code(), Some(78));
}

#[tokio::test]
async fn a_database_that_is_not_there_is_told() {
    let folder = Folder::new();
    let mut command = crate::support::command(&folder.data());
    command.args(["doctor", "-o", "json"]);
    command.env("ESH3AR__DATABASE__URL", "postgres://esh3ar:hunter2@127.0.0.1:1/esh3ar");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let checks: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let database =
        checks.as_array().unwrap().iter().find(|check| check["check"] == "database").unwrap();
    assert_eq!(database["state"], "FAIL");
    assert!(!database["remedy"].as_str().unwrap().is_empty());
    let everything = format!("{output:?}");
    assert!(!everything.contains("hunter2"), "{everything}");
    let mut command = crate::support::command(&folder.data());
    command.args(["user", "list"]);
    command.env("ESH3AR__DATABASE__URL", "postgres://esh3ar:hunter2@127.0.0.1:1/esh3ar");
    assert_eq!(command.output().unwrap().status.code(), Some(69));
}

#[tokio::test]
async fn a_given_database_is_used() {
    // The private database of one appliance is the given database of another.
    let owner = Server::start().await;
    let database = owner.database().await;
    database.batch_execute("CREATE DATABASE given").await.unwrap();
    let socket = owner.data().join("run").display().to_string().replace('/', "%2F");
    let url = format!("postgres://esh3ar@{socket}/given");
    let folder = Folder::new();
    let with_url = |arguments: &[&str]| {
        let mut command = crate::support::command(&folder.data());
        command.args(arguments).env("ESH3AR__DATABASE__URL", &url);
        command.output().unwrap()
    };
    let output = with_url(&["user", "list"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(5), "{text}");
    assert!(text.contains("run: esh3ar migrate"), "{text}");
    assert!(with_url(&["migrate"]).status.success());
    assert!(with_url(&["user", "add", "elsewhere"]).status.success());
    let server = Server::start_in(Folder::new(), &[("ESH3AR__DATABASE__URL", url.as_str())]).await;
    assert!(!server.data().join("postgres").exists(), "no private database beside a given one");
    assert_eq!(server.request("GET", "/health", None, None).await.0, 200);
    let users = run_json(&owner.data(), &["user", "list"]);
    assert_eq!(users, json!([]), "two databases");
}

#[tokio::test]
async fn a_database_without_durability_is_refused() {
    let owner = Server::start().await;
    let database = owner.database().await;
    database.batch_execute("CREATE DATABASE careless").await.unwrap();
    database.batch_execute("ALTER DATABASE careless SET synchronous_commit = off").await.unwrap();
    let socket = owner.data().join("run").display().to_string().replace('/', "%2F");
    let folder = Folder::new();
    let mut command = crate::support::command(&folder.data());
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    command.env("ESH3AR__DATABASE__URL", format!("postgres://esh3ar@{socket}/careless"));
    command.stderr(std::process::Stdio::piped());
    let mut serving = command.spawn().unwrap();
    // One that serves all the same would not end by itself.
    let deadline = Instant::now() + DEADLINE;
    while serving.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            serving.kill().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let output = serving.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("synchronous_commit = off"), "{text}");
}

#[tokio::test]
async fn the_demo_shows_an_acknowledged_message() {
    let folder = Folder::new();
    for _ in 0..2 {
        let output = run(&folder.data(), &["demo", "--once", "--listen", "127.0.0.1:0"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        for step in ["pending", "sent", "delivered"] {
            assert!(text.contains(step), "{text}");
        }
    }
}

#[tokio::test]
async fn logs_are_json_and_hold_no_secrets() {
    let server = Server::start_with(&[("ESH3AR__LOG__LEVEL", "debug")]).await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone("+967771234567");
    let mut hub = server.hub(&phone).await;
    let sent = server.send(&shop, "+967771234567", "secret words").await;
    next_messages(&mut hub).await;
    let path = format!("{}/hub?access_token={phone}", server.base);
    let _ = crate::support::get(path).await.unwrap();
    crate::support::acknowledge(&mut hub, &[sent]).await;
    hub.close().await;
    let log = server.log();
    assert!(log.lines().count() > 3);
    for line in log.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }
    for secret in [&shop, &phone, "771234567", "secret words"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}
