//! Who looked at whose data, who changed what, and why.

use serde_json::{Value, json};

use crate::support::{Server, command, run};

const PHONE: &str = "+967771234567";
const OTHER: &str = "+967770000009";

/// The actions of the log by filter, newest first, without this look at it.
fn actions(server: &Server, filter: &[&str]) -> Vec<String> {
    let found = server.run_json(&[&["audit", "access", "--limit", "200"], filter].concat());
    let entries = found.as_array().unwrap().iter();
    entries.map(|entry| entry["action"].as_str().unwrap().to_owned()).collect()
}

fn newest(server: &Server, action: &str) -> Value {
    server.run_json(&["audit", "access", "--action", action, "--limit", "1"])[0].clone()
}

#[tokio::test]
async fn every_command_is_recorded_with_who_whose_and_why() {
    let server = Server::start().await;
    let shop = server.user("Shop", "SendMessages,Chat");
    server.run_json(&["user", "set", "Shop", "--phone", "+967770000001", "--reason", "moved"]);
    let phone = server.phone(PHONE);
    let id = server.send(&shop, PHONE, "a secret text").await;
    let data = server.data();
    let with = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = command(&data);
        command.envs(server.environment()).envs(environment.iter().copied());
        assert!(command.args(arguments).output().unwrap().status.success(), "{arguments:?}");
    };
    with(&["message", "show", &id, "--reason", "ticket 12: نعم"], &[("ESH3AR_OPERATOR", "ali")]);
    with(&["message", "explain", &id], &[("ESH3AR_OPERATOR", ""), ("SUDO_USER", "omar")]);
    with(&["message", "list"], &[]);
    with(&["mobile", "list"], &[]);
    with(&["mobile", "show", PHONE], &[]);
    with(&["token", "list", "--mobile", PHONE], &[]);
    with(&["user", "list"], &[]);
    with(&["user", "show", "Shop"], &[]);
    with(&["dlq", "list", "--because", "alarm"], &[]);
    with(&["conversation", "list", "--phone", OTHER], &[]);

    let shown = newest(&server, "message.show");
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    assert_eq!(shown["actorKind"], "command");
    // The environment names nobody: the user is the one that the kernel names, before root's process became
    // the service's user.
    let own = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name;
    assert_eq!(shown["actor"], format!("{own}@{host}"));
    assert_eq!(shown["subject"], json!(id));
    assert_eq!(shown["phone"], PHONE);
    assert_eq!(shown["reason"], "ticket 12: نعم");
    assert_eq!(shown["outcome"], "done");
    assert_eq!(newest(&server, "message.explain")["actor"], format!("{own}@{host}"));
    assert_eq!(newest(&server, "user.set")["reason"], "moved");
    assert_eq!(newest(&server, "dead_letter.list")["reason"], "alarm");
    // Lists too are about those whose data they showed, or who were looked for.
    let of_phone = actions(&server, &["--phone", PHONE]);
    for action in
        ["message.list", "mobile.list", "mobile.show", "token.list", "mobile.add", "token.create"]
    {
        assert!(of_phone.iter().any(|known| known == action), "{action} is not in {of_phone:?}");
    }
    assert!(!of_phone.iter().any(|action| action == "conversation.list"));
    assert!(actions(&server, &["--phone", OTHER]).contains(&"conversation.list".to_owned()));
    let by_ali = actions(&server, &["--actor", &format!("ali@{host}")]);
    assert!(by_ali.is_empty(), "{by_ali:?}");
    // A kind of thing stands for all that was done with it.
    assert_eq!(
        actions(&server, &["--action", "message"]),
        ["message.list", "message.explain", "message.show"]
    );
    // Looking at the log is in the log, and what it is about is, too.
    assert_eq!(newest(&server, "audit.access")["details"]["action"], "message");
    // Neither secrets nor contents are.
    let whole = server.run_json(&["audit", "access", "--limit", "500"]).to_string();
    for text in [shop.as_str(), phone.as_str(), "a secret text"] {
        assert!(!whole.contains(text), "{text}");
    }
    // What parties read of their own is not.
    let before = actions(&server, &["--action", "message"]).len();
    for (token, path) in [(&shop, "/api/v1/messages"), (&phone, "/api/v1/messages/pending")] {
        assert_eq!(server.request("GET", path, Some(token), None).await.0, 200);
    }
    assert_eq!(actions(&server, &["--action", "message"]).len(), before);

    let wrong = run(&data, &["audit", "access", "--action", "message.fly"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("message.show"));
    let long = "x".repeat(501);
    assert_eq!(run(&data, &["user", "list", "--reason", &long]).status.code(), Some(2));
}

#[tokio::test]
async fn a_change_and_its_entry_are_there_together_or_not_at_all() {
    let server = Server::start().await;
    server.run_json(&["user", "add", "Shop"]);
    let database = server.database().await;
    // The log takes nothing more: so nothing may be changed or shown.
    database
        .batch_execute("ALTER TABLE audit_log ADD CONSTRAINT is_full CHECK (false) NOT VALID")
        .await
        .unwrap();
    for arguments in [
        &["user", "add", "Other"][..],
        &["user", "disable", "Shop", "--yes"],
        &["mobile", "add", PHONE, "--verified"],
        &["token", "create", "--user", "Shop"],
        &["user", "show", "Shop"],
        &["user", "list"],
        &["message", "list"],
        &["message", "send", "--from", "Shop", "--to", PHONE, "x"],
    ] {
        let output = server.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?} showed something");
    }
    let count = |table: &'static str| {
        let database = &database;
        async move {
            let sql = format!("SELECT count(*) FROM {table}");
            database.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0)
        }
    };
    assert_eq!(count("business_users WHERE disabled_at IS NULL").await, 1);
    let made = count("mobile_users").await + count("tokens").await + count("messages").await;
    assert_eq!(made, 0);
    database.batch_execute("ALTER TABLE audit_log DROP CONSTRAINT is_full").await.unwrap();
    server.run_json(&["user", "disable", "Shop", "--yes"]);
    assert_eq!(newest(&server, "user.disable")["details"]["enabled"], false);
}

#[tokio::test]
async fn it_is_read_by_page_and_forgets_what_is_old() {
    let server = Server::start().await;
    for n in 0..7 {
        server.run_json(&["mobile", "add", &crate::support::number(n), "--verified"]);
    }
    let mut seen: Vec<String> = Vec::new();
    let mut before: Option<String> = None;
    loop {
        let mut arguments = vec!["audit", "access", "--action", "mobile.add", "--limit", "3"];
        if let Some(before) = &before {
            arguments.extend(["--before", before]);
        }
        let page = server.run_json(&arguments);
        let page = page.as_array().unwrap();
        seen.extend(page.iter().map(|entry| entry["id"].as_str().unwrap().to_owned()));
        before = page.last().map(|entry| entry["id"].as_str().unwrap().to_owned());
        if page.len() < 3 {
            break;
        }
    }
    assert_eq!(seen.len(), 7);
    assert!(seen.is_sorted_by(|newer, older| newer > older), "newest first, each once");

    let store = esh3ar::store::Store::new(server.database_config(), 2).unwrap();
    let client = store.client().await.unwrap();

    // Of what is old only the oldest ids are looked at; what is new stays.
    let database = server.database().await;
    let all = "UPDATE audit_log SET at = at - interval '400 days' WHERE id < $1";
    let limit: uuid::Uuid = seen[2].parse().unwrap();
    let old = database.execute(all, &[&limit]).await.unwrap();
    let before = time::OffsetDateTime::now_utc() - time::Duration::days(365);
    let gone = esh3ar::store::audit::expire(&client, before, 1000).await.unwrap();
    assert_eq!(gone, old);
    assert_eq!(actions(&server, &["--action", "mobile.add", "--since", "1h"]).len(), 3);
    drop(client);
    store.close();
}

#[tokio::test]
async fn an_altered_or_deleted_entry_is_found() {
    let server = Server::start().await;
    server.run_json(&["user", "add", "Shop", "--reason", "new"]);
    for n in 0..3 {
        server.run_json(&["mobile", "add", &crate::support::number(n), "--verified"]);
    }
    server.run_json(&["mobile", "list"]);
    let kept = server.run_json(&["audit", "head"]).to_string();
    let verified = server.run_json(&["audit", "verify", "--head", &kept]);
    assert_eq!(verified["valid"], true, "{verified}");
    assert_eq!(verified["head"], "contained");
    assert_eq!(verified["last"]["seq"], verified["entries"]);

    // An erasure masks the number, and the log stays verifiable.
    server.run_json(&["mobile", "erase", &crate::support::number(0), "--yes"]);
    let verified = server.run_json(&["audit", "verify", "--head", &kept]);
    assert_eq!(verified["valid"], true, "{verified}");
    assert!(verified["masked"].as_u64().unwrap() > 0);

    let database = server.database().await;
    let faults = || {
        let output = server.run(&["audit", "verify", "--head", &kept, "-o", "json"]);
        assert_eq!(output.status.code(), Some(1));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["valid"], false);
        report["faults"][0]["kind"].as_str().unwrap().to_owned()
    };
    for (falsify, kind) in [
        ("UPDATE audit_log SET reason = 'other' WHERE action = 'user.add'", "altered"),
        ("UPDATE audit_log SET action = 'user.show' WHERE action = 'user.add'", "altered"),
        (
            "DELETE FROM audit_log_phones WHERE entry_id IN
          (SELECT id FROM audit_log WHERE action = 'mobile.list');
          UPDATE audit_log SET erased_phones = NULL WHERE action = 'mobile.list'",
            "altered",
        ),
        // What no erasure has masked.
        ("UPDATE audit_log SET reason = '+967*******99' WHERE action = 'user.add'", "altered"),
        (
            "ALTER TABLE audit_log DISABLE TRIGGER USER;
             INSERT INTO audit_log (id, at, actor_kind, actor, action, subject_kind, outcome)
             VALUES (gen_random_uuid(), now(), 'command', 'nobody', 'user.add', 'user', 'done');
             ALTER TABLE audit_log ENABLE TRIGGER USER",
            "outside",
        ),
        ("DELETE FROM audit_log WHERE action = 'user.add'", "missing"),
        (
            "DELETE FROM audit_log WHERE chain_seq = (SELECT max(chain_seq) FROM audit_log)",
            "missing",
        ),
    ] {
        database.batch_execute("CREATE TABLE kept AS TABLE audit_log").await.unwrap();
        database.batch_execute("CREATE TABLE kept_phones AS TABLE audit_log_phones").await.unwrap();
        database.batch_execute(falsify).await.unwrap();
        assert_eq!(faults(), kind, "{falsify}");
        // As a restore does: without triggers.
        let back = "ALTER TABLE audit_log DISABLE TRIGGER USER;
                    ALTER TABLE audit_log_phones DISABLE TRIGGER USER;
                    DELETE FROM audit_log; INSERT INTO audit_log SELECT * FROM kept;
                    INSERT INTO audit_log_phones SELECT * FROM kept_phones;
                    ALTER TABLE audit_log ENABLE TRIGGER USER;
                    ALTER TABLE audit_log_phones ENABLE TRIGGER USER; DROP TABLE kept, kept_phones";
        database.batch_execute(back).await.unwrap();
        assert_eq!(server.run_json(&["audit", "verify"])["valid"], true, "{falsify}");
    }
    // A chain that was cut together with its head is only found by the head that was kept elsewhere.
    let cut = "DELETE FROM audit_log WHERE chain_seq > 2;
               UPDATE audit_chain_head h SET seq = a.chain_seq, hash = a.chain_hash
               FROM audit_log a WHERE a.chain_seq = 2";
    database.batch_execute(cut).await.unwrap();
    assert_eq!(server.run_json(&["audit", "verify"])["valid"], true);
    assert_eq!(faults(), "not_contained");
}
