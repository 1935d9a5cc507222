//! Everything of one phone number: given out whole, erased from everywhere, and nobody else's.

use std::os::unix::fs::MetadataExt as _;

use esh3ar::client::HubClient;
use serde_json::{Value, json};

use crate::support::{DEADLINE, Server, acknowledge, id, next_messages, run, run_json};

const GONE: &str = "+967770000001";
const STAYS: &str = "+967770000002";

/// In how many rows of which tables a text stands, whatever tables and columns there are.
pub async fn rows_with(server: &Server, text: &str) -> Vec<(String, i64)> {
    let database = server.database().await;
    let sql = "SELECT relname::text FROM pg_class WHERE relkind = 'r'
               AND relnamespace = 'public'::regnamespace ORDER BY 1";
    let mut found = Vec::new();
    for row in database.query(sql, &[]).await.unwrap() {
        let table: String = row.get(0);
        let sql = format!("SELECT count(*) FROM {table} AS t WHERE strpos(t::text, $1) > 0");
        let count: i64 = database.query_one(&sql, &[&text]).await.unwrap().get(0);
        if count > 0 {
            found.push((table, count));
        }
    }
    found
}

/// What a phone has after a while: messages in every status, talk, a device, a dead letter, keys.
pub async fn a_life(server: &Server, shop: &str, number: &str) -> (HubClient, String) {
    let token = server.phone(number);
    let mut hub = server.hub(&token).await;
    let read = server.send(shop, number, &format!("first to {number}")).await;
    let (_, found) = next_messages(&mut hub).await;
    acknowledge(&mut hub, &[id(&found[0])]).await;
    server.wait_status(shop, &read, "delivered").await;
    let body = json!({ "phone": number });
    let made = server.api(shop).post("/api/v1/conversations", &body).await.unwrap();
    let conversation = made.body["id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/conversations/{conversation}/messages");
    for (who, text) in [(shop, "question"), (&token, "answer"), (shop, "again")] {
        let body = json!({ "content": format!("{text} {number}") });
        server.api(who).post(&path, &body).await.unwrap();
    }
    let body = json!({ "to": number, "content": format!("once to {number}") }).to_string();
    let request = server.http().post(format!("{}/api/v1/messages", server.base));
    let request = request.bearer_auth(shop).header("idempotency-key", number).body(body);
    request.header("content-type", "application/json").send().await.unwrap();
    let database = server.database().await;
    let rows = format!(
        "INSERT INTO device_tokens (id, phone, token, platform)
         VALUES (gen_random_uuid(), '{number}', 'push {number}', 0);
         INSERT INTO messages (id, sender_user_id, recipient_phone, content, status, failure_reason,
                               created_at)
         SELECT gen_random_uuid(), id, '{number}', 'lost', 4, 'silent', now() FROM business_users;
         INSERT INTO dead_letters (id, message_id, generation, kind, class, reason, attempts,
                                   first_error_at, last_error_at)
         SELECT gen_random_uuid(), id, 0, 'delivery', 'recipient', 'silent', 7, now(), now()
         FROM messages WHERE content = 'lost' AND recipient_phone = '{number}';
         INSERT INTO delivery_events (message_id, generation, at, kind)
         SELECT id, 0, now(), 'given_up' FROM messages
         WHERE content = 'lost' AND recipient_phone = '{number}';
         INSERT INTO jobs (id, kind, payload, run_at, created_at)
         VALUES (gen_random_uuid(), 'nobody', '{{\"to\": \"{number}\"}}', now(), now());
         INSERT INTO dead_letters (id, generation, kind, class, reason, attempts, first_error_at,
                                   last_error_at, frame)
         VALUES (gen_random_uuid(), 0, 'frame', 'system', 'unreadable', 1, now(), now(),
                 convert_to('{{\"to\":\"' || ltrim('{number}', '+') || '\"}}', 'UTF8'));"
    );
    database.batch_execute(&rows).await.unwrap();
    (hub, conversation)
}

fn counts(report: &Value) -> Vec<(String, u64)> {
    let lines = report["erased"].as_array().unwrap().iter();
    lines
        .filter(|line| line["store"] == "database")
        .map(|line| (line["what"].as_str().unwrap().to_owned(), line["count"].as_u64().unwrap()))
        .collect()
}

#[tokio::test]
async fn one_number_is_given_out_and_erased_from_everywhere() {
    let mut server = Server::start().await;
    let shop = server.user("Shop", "SendMessages,Chat");
    let (mut gone, conversation) = a_life(&server, &shop, GONE).await;
    let (stays, _) = a_life(&server, &shop, STAYS).await;
    let others = rows_with(&server, STAYS).await;
    assert!(others.len() > 6, "{others:?}");

    let exported = run(&server.data(), &["mobile", "export", GONE]);
    let lines = String::from_utf8(exported.stdout).unwrap();
    let records: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| records.iter().filter(|r| r["record"] == kind).count();
    let kinds = ["mobileUser", "device", "token", "conversation", "message", "deadLetter"].map(of);
    assert_eq!(kinds, [1, 1, 1, 1, 6, 1], "{lines}");
    assert!(!lines.contains(STAYS) && lines.contains("answer +967770000001"), "{lines}");
    let out = server.folder.path().join("all.json");
    let array = ["mobile", "export", GONE, "-o", "json", "--out", out.to_str().unwrap()];
    assert!(run(&server.data(), &array).status.success());
    assert_eq!(std::fs::metadata(&out).unwrap().mode() & 0o777, 0o600);
    let array: Value = serde_json::from_str(&std::fs::read_to_string(&out).unwrap()).unwrap();
    // When it was here last may have been written in between.
    let lasting = |records: &[Value]| records.iter().filter(|r| r["record"] != "presence").count();
    assert_eq!(lasting(array.as_array().unwrap()), lasting(&records));

    let before = rows_with(&server, GONE).await;
    let dry = server.run_json(&["mobile", "erase", GONE, "--dry-run"]);
    // Only that somebody asked is in the log; when it was here last may have been written in between.
    let without_log = |mut tables: Vec<(String, i64)>| {
        tables.retain(|(table, _)| !table.starts_with("audit_log") && table != "recipients");
        tables
    };
    let after = without_log(rows_with(&server, GONE).await);
    assert_eq!(after, without_log(before), "nothing has changed");
    let log = run_json(&server.data(), &["audit", "access", "--action", "mobile.erase"]);
    assert_eq!(log[0]["details"], json!({ "dryRun": true }), "{log}");
    assert_eq!(run(&server.data(), &["mobile", "erase", GONE]).status.code(), Some(5), "not asked");
    // It goes on talking until it is shut out; of that nothing stays either.
    let token = server.token(&["--mobile", GONE]);
    let talk = server.api(&token);
    let path = format!("/api/v1/conversations/{conversation}/messages");
    let body = json!({ "content": format!("still here {GONE}") });
    talk.post(&path, &body).await.unwrap();
    let talking = tokio::spawn(async move {
        let mut said = 1;
        while talk.post(&path, &body).await.is_ok() {
            said += 1;
            // Under its limit.
            tokio::time::sleep(std::time::Duration::from_millis(60)).await;
        }
        said
    });
    let data = server.data();
    let report = tokio::task::spawn_blocking(move || {
        let reason = "asked by +967770000001";
        run_json(&data, &["mobile", "erase", GONE, "--yes", "--reason", reason])
    });
    let report = report.await.unwrap();
    let said: u64 = talking.await.unwrap();
    let of = |what: &str| counts(&report).into_iter().find(|(n, _)| n == what).unwrap().1;
    assert_eq!(
        ["messages", "conversations", "devices", "deadLetters", "jobs", "idempotencyKeys"].map(of),
        [6 + said, 1, 1, 2, 1, 1],
        "{report}"
    );
    let in_redis = report["erased"].as_array().unwrap().iter().any(|line| line["store"] == "redis");
    assert_eq!((in_redis, &report["missed"]), (crate::support::in_cluster(), &Value::Null));
    // Retries, and when it was here last, may have been written in between.
    let without = |report: &Value| {
        let mut counts = counts(report);
        let other = ["messages", "tokens", "presence", "events", "auditEntries"];
        counts.retain(|(what, _)| !other.contains(&what.as_str()));
        counts
    };
    assert_eq!(without(&dry), without(&report));
    let ended = async { while gone.next().await.is_ok() {} };
    tokio::time::timeout(DEADLINE, ended).await.expect("its connection is closed");
    assert_eq!(rows_with(&server, GONE).await, [], "not in any table");
    let digits: String = GONE.bytes().skip(1).map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(rows_with(&server, &digits).await, [], "nor in a frame, which is shown in hex");
    assert_eq!(rows_with(&server, &conversation).await, [], "nor its conversation");
    let after = rows_with(&server, STAYS).await;
    for (table, count) in others {
        let left = after.iter().find(|(name, _)| *name == table).map_or(0, |(_, left)| *left);
        assert!(left >= count, "the other one is untouched in {table}: {left} of {count}");
    }
    let log = run_json(&server.data(), &["audit", "access", "--action", "mobile.erase"]);
    assert_eq!(log[0]["reason"], "asked by +967*******01", "{log}");
    assert_eq!(log[1]["details"]["begun"], true, "before, and when it is done: {log}");
    let path = format!("/api/v1/conversations/{conversation}");
    assert_eq!(server.request("GET", &path, Some(&shop), None).await.0, 404);
    let books = run_json(&server.data(), &["audit", "delivery"]);
    assert_eq!((&books["balanced"], &books["days"][0]["erased"]), (&json!(true), &json!(6 + said)));

    // What is written when a process stops brings nothing back.
    drop((gone, stays));
    server.stop().await;
    assert_eq!(run(&server.data(), &["mobile", "export", GONE]).status.code(), Some(4));
    assert_eq!(run(&server.data(), &["mobile", "erase", GONE, "--yes"]).status.code(), Some(4));
    server.launch().await;

    // From here on it is a number like any other.
    let later = server.send(&shop, GONE, "welcome").await;
    assert_eq!(server.status(&shop, &later).await, "pending");
    let token = server.phone(GONE);
    let mut hub = server.hub(&token).await;
    let (_, found) = next_messages(&mut hub).await;
    assert_eq!((found.len(), &found[0]["content"]), (1, &json!("welcome")));
    acknowledge(&mut hub, &[id(&found[0])]).await;
    server.wait_status(&shop, &later, "delivered").await;
    let body = json!({ "phone": GONE });
    let again = server.api(&shop).post("/api/v1/conversations", &body).await.unwrap();
    assert_eq!(again.status, 201);
    let books = run_json(&server.data(), &["audit", "delivery"]);
    assert_eq!(books["balanced"], true, "{books}");
}

#[tokio::test]
async fn a_phone_is_shut_out_whatever_takes_long_after_that() {
    let server = Server::start().await;
    let token = server.phone(GONE);
    let mut hub = server.hub(&token).await;
    let mut database = server.database().await;
    // The rest of an erasure has to wait for this, and gives up at last.
    let transaction = database.transaction().await.unwrap();
    transaction.batch_execute("LOCK TABLE mobile_users IN EXCLUSIVE MODE").await.unwrap();
    let data = server.data();
    let erase = move || run(&data, &["mobile", "erase", GONE, "--yes"]).status.code();
    let erasing = tokio::task::spawn_blocking(erase.clone());
    let ended = async { while hub.next().await.is_ok() {} };
    tokio::time::timeout(DEADLINE, ended).await.expect("its connection is closed");
    assert!(!erasing.is_finished(), "and nothing else is done yet");
    assert_ne!(erasing.await.unwrap(), Some(0));
    transaction.rollback().await.unwrap();
    let log = server.run_json(&["audit", "access", "--action", "mobile.erase"]);
    assert_eq!(log.as_array().unwrap().len(), 1, "that it was begun is known: {log}");
    assert_eq!(
        tokio::task::spawn_blocking(erase).await.unwrap(),
        Some(0),
        "the same does the rest"
    );
    assert_eq!(rows_with(&server, GONE).await, []);
}
