//! Dead letters: listed, put back exactly once, deleted, expired.

use std::collections::HashSet;

use esh3ar::{
    app::{
        App, Clock, Settings,
        delivery::dead_letters::{BulkOutcome, DeadLetterAction},
    },
    store::{Store, dead_letters::DeadLetterFilter},
};
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::support::{
    Server, acknowledge, id, next_messages, number, operator, run, run_json, settings,
};

const PHONE: &str = "+967771234567";
/// Fails a delivery after one attempt.
const HASTY: &[(&str, &str)] =
    &[("ESH3AR__RETRY__ACKNOWLEDGE_TIMEOUT", "100ms"), ("ESH3AR__RETRY__ATTEMPTS", "0")];

/// Sends to a connected phone that does not acknowledge, until all have failed.
async fn fail(server: &Server, shop: &str, to: &str, count: usize) -> Vec<String> {
    let phone = server.phone(to);
    let _hub = server.hub(&phone).await;
    let mut sent = Vec::new();
    for n in 0..count {
        sent.push(server.send(shop, to, &format!("lost {n}")).await);
    }
    for id in &sent {
        server.wait_status(shop, id, "failed").await;
    }
    sent
}

#[tokio::test]
async fn a_dead_letter_is_shown_put_back_and_delivered() {
    let server = Server::start_with(HASTY).await;
    let shop = server.user("shop", "SendMessages");
    let admin = server.user("admin", "Admin");
    let sent = fail(&server, &shop, PHONE, 1).await.remove(0);
    let letters = run_json(&server.data(), &["dlq", "list"]);
    let letter = &letters[0];
    assert_eq!(letter["messageId"], json!(sent));
    assert_eq!(letter["class"], "recipient");
    assert_eq!(letter["kind"], "delivery");
    assert_eq!(letter["to"], PHONE);
    assert_eq!(letter["from"], "shop");
    // The same objects over HTTP, for administrators only.
    let (status, page) =
        server.request("GET", "/api/v1/admin/dead-letters", Some(&admin), None).await;
    assert_eq!((status, &page["items"][0]), (200, letter));
    let (status, _) = server.request("GET", "/api/v1/admin/dead-letters", Some(&shop), None).await;
    assert_eq!(status, 403);
    let letter = letter["id"].as_str().unwrap();
    let path = format!("/api/v1/admin/dead-letters/{letter}");
    let (status, shown) = server.request("GET", &path, Some(&admin), None).await;
    assert_eq!((status, &shown["messageId"]), (200, &json!(sent)));
    let explained = run_json(&server.data(), &["message", "explain", &sent]);
    assert_eq!(explained["verdict"]["code"], "failed");
    assert_eq!(explained["verdict"]["next"], format!("esh3ar dlq requeue {letter}"));
    // One that is there and one that is not: partly done.
    let nobody = "01a20a1b-7317-71ae-8f98-eacc86509605";
    let partly = run(&server.data(), &["dlq", "requeue", nobody, letter, "-o", "json"]);
    let text = String::from_utf8_lossy(&partly.stderr).into_owned();
    assert_eq!(partly.status.code(), Some(3), "{text}");
    assert!(text.contains("1 done, 0 failed, 1 not found; hint:"), "{text}");
    let done: Value = serde_json::from_slice(&partly.stdout).unwrap();
    assert_eq!((&done["requeued"], &done["matched"]), (&json!(1), &json!(1)));
    let again = run(&server.data(), &["dlq", "requeue", letter]);
    assert_eq!(again.status.code(), Some(4));
    let mut hub = server.hub(&server.token(&["--mobile", PHONE])).await;
    let (_, found) = next_messages(&mut hub).await;
    assert_eq!(id(&found[0]), sent);
    acknowledge(&mut hub, std::slice::from_ref(&sent)).await;
    server.wait_status(&shop, &sent, "delivered").await;
    let explained = run_json(&server.data(), &["message", "explain", &sent]);
    assert_eq!(explained["verdict"]["code"], "delivered_after_requeue");
    let steps: Vec<&str> = explained["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["step"].as_str().unwrap())
        .collect();
    assert_eq!(steps, ["pending", "sent", "failed", "requeued", "sent", "delivered"]);
    // Each at its own time: what failed had been written before that was found.
    let at = |n: usize| {
        let text = explained["steps"][n]["at"].as_str().unwrap();
        time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).unwrap()
    };
    assert!(at(2) - at(1) >= std::time::Duration::from_millis(100), "{explained}");
    assert!(at(4) >= at(3), "{explained}");
}

#[tokio::test]
async fn sixteen_hands_put_each_letter_back_once() {
    const LETTERS: usize = 300;
    let server = Server::start_with(HASTY).await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone(PHONE);
    let hub = server.hub(&phone).await;
    let messages: Vec<Value> =
        (0..LETTERS).map(|n| json!({ "to": PHONE, "content": format!("{n}") })).collect();
    let body = json!({ "messages": messages });
    server.api(&shop).post("/api/v1/messages/batch", &body).await.unwrap();
    let database = server.database().await;
    let deadline = std::time::Instant::now() + crate::support::DEADLINE;
    loop {
        let sql = "SELECT count(*) FROM dead_letters";
        let count: i64 = database.query_one(sql, &[]).await.unwrap().get(0);
        if count == LETTERS as i64 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{count} dead letters\n{}", server.log());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    drop(hub);
    let store = store(&server);
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let settings = Settings { node: None, ..settings() };
    let app = App::start(settings, store, &tracker, &stop);
    let hands: Vec<_> = (0..16)
        .map(|_| {
            let app = app.clone();
            tokio::spawn(async move {
                let filter = DeadLetterFilter {
                    kind: Some("delivery".to_owned()),
                    ..DeadLetterFilter::default()
                };
                app.delivery
                    .change_dead_letters(
                        DeadLetterAction::Requeue,
                        &operator(),
                        &filter,
                        usize::MAX,
                        |_| (),
                    )
                    .await
                    .unwrap()
            })
        })
        .collect();
    let mut outcomes: Vec<BulkOutcome> = Vec::new();
    for hand in hands {
        outcomes.push(hand.await.unwrap());
    }
    assert!(outcomes.iter().all(|outcome| outcome.failed.is_empty()));
    let changed: Vec<_> = outcomes.iter().flat_map(|outcome| &outcome.changed).collect();
    let different: HashSet<_> = changed.iter().collect();
    assert_eq!((changed.len(), different.len()), (LETTERS, LETTERS), "each by one hand");
    let row = database
        .query_one(
            "SELECT count(*), max(generation), (SELECT count(*) FROM delivery_events
             WHERE kind = 'requeued') FROM messages WHERE generation = 1 AND status = 0",
            &[],
        )
        .await
        .unwrap();
    let found: (i64, i32, i64) = (row.get(0), row.get(1), row.get(2));
    assert_eq!(found, (LETTERS as i64, 1, LETTERS as i64));
    stop.cancel();
}

fn store(server: &Server) -> Store {
    let config = server.database_config();
    Store::new(config, 16).unwrap()
}

#[tokio::test]
async fn a_filter_says_which_and_a_dry_run_changes_nothing() {
    let server = Server::start_with(HASTY).await;
    let shop = server.user("shop", "SendMessages");
    let admin = server.user("admin", "Admin");
    fail(&server, &shop, &number(1), 2).await;
    fail(&server, &shop, &number(2), 3).await;
    let data = server.data();
    let to_one = ["--recipient", &number(1)];
    assert_eq!(
        run_json(&data, &[&["dlq", "list"], &to_one[..]].concat()).as_array().unwrap().len(),
        2
    );
    let dry = run_json(&data, &[&["dlq", "delete", "--dry-run"], &to_one[..]].concat());
    assert_eq!(dry, json!({ "dryRun": true, "matched": 2 }));
    // Everything is only meant when it is said.
    assert_eq!(run(&data, &["dlq", "requeue"]).status.code(), Some(2));
    assert_eq!(run(&data, &["dlq", "delete", "--all"]).status.code(), Some(5), "not confirmed");
    let (status, problem) =
        server.request("POST", "/api/v1/admin/dead-letters/delete", Some(&admin), Some("{}")).await;
    assert_eq!((status, problem["code"].as_str()), (400, Some("validation_failed")));
    // Nor is it meant by a text that is in every reason, or in none.
    assert_eq!(run(&data, &["dlq", "delete", "--reason", "", "--yes"]).status.code(), Some(2));
    for body in [r#"{"reason":" "}"#, r#"{"reason":"\u0000"}"#, r#"{"all":true,"kind":"\u0000"}"#] {
        let path = "/api/v1/admin/dead-letters/delete";
        let (status, problem) = server.request("POST", path, Some(&admin), Some(body)).await;
        assert_eq!((status, problem["code"].as_str()), (400, Some("validation_failed")), "{body}");
    }
    let body = json!({ "recipient": number(1), "dryRun": true }).to_string();
    let (_, dry) = server
        .request("POST", "/api/v1/admin/dead-letters/requeue", Some(&admin), Some(&body))
        .await;
    assert_eq!(dry, json!({ "dryRun": true, "matched": 2 }));
    let gone = run_json(&data, &[&["dlq", "delete", "--yes"], &to_one[..]].concat());
    assert_eq!(gone["deleted"], 2);
    // Of one there is no more, whatever others there are.
    let left = run_json(&data, &["dlq", "list"]);
    let path = format!("/api/v1/admin/dead-letters/{}", left[0]["id"].as_str().unwrap());
    let (status, one) = server.request("DELETE", &path, Some(&admin), None).await;
    assert_eq!((status, &one["deleted"], &one["more"]), (200, &json!(1), &json!(false)), "{one}");
    assert_eq!(one["next"], Value::Null, "{one}");
    let body = json!({ "reason": "DID NOT ACKNOWLEDGE", "since": "2020-01-01T00:00:00Z" });
    let (status, done) = server
        .request(
            "POST",
            "/api/v1/admin/dead-letters/requeue",
            Some(&admin),
            Some(&body.to_string()),
        )
        .await;
    assert_eq!((status, &done["requeued"], &done["more"]), (200, &json!(2), &json!(false)));
    assert_eq!(run_json(&data, &["dlq", "list"]), json!([]));
    // Deleted ones stay accounted for, and say so.
    assert_eq!(run_json(&data, &["audit", "delivery"])["balanced"], true);
    let failed = run_json(&data, &["message", "list", "--status", "failed"]);
    let id = failed[0]["id"].as_str().unwrap();
    let explained = run_json(&data, &["message", "explain", id]);
    assert_eq!(explained["verdict"]["code"], "failed_for_good");
}

#[tokio::test]
async fn dead_letters_expire_after_seven_days() {
    let server = Server::start_with(HASTY).await;
    let shop = server.user("shop", "SendMessages");
    let sent = fail(&server, &shop, PHONE, 1).await.remove(0);
    let clock = Clock::standing_at(time::OffsetDateTime::now_utc());
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let settings = Settings { node: None, clock: clock.clone(), ..settings() };
    let app = App::start(settings, store(&server), &tracker, &stop);
    let day = std::time::Duration::from_secs(24 * 3600);
    clock.advance(day * 7 - std::time::Duration::from_secs(60));
    app.delivery.expire_dead_letters().await.unwrap();
    assert_eq!(app.delivery.count_dead_letters(&DeadLetterFilter::default()).await.unwrap(), 1);
    clock.advance(std::time::Duration::from_secs(120));
    app.delivery.expire_dead_letters().await.unwrap();
    assert_eq!(app.delivery.count_dead_letters(&DeadLetterFilter::default()).await.unwrap(), 0);
    stop.cancel();
    let explained = run_json(&server.data(), &["message", "explain", &sent]);
    assert_eq!(explained["verdict"]["code"], "failed_for_good");
    assert_eq!(run_json(&server.data(), &["audit", "delivery"])["balanced"], true);
}

#[tokio::test]
async fn the_books_balance_and_say_when_they_do_not() {
    let server = Server::start_with(HASTY).await;
    server.expect_unbalanced("it deletes rows to see that this is told");
    let shop = server.user("shop", "SendMessages");
    let data = server.data();
    fail(&server, &shop, &number(1), 2).await;
    for n in 0..5 {
        server.send(&shop, &number(2), &format!("{n}")).await;
    }
    let books = run_json(&data, &["audit", "delivery", "--since", "24h"]);
    assert_eq!((&books["balanced"], &books["unaccounted"]), (&json!(true), &json!(0)));
    let day = &books["days"][0];
    assert_eq!(
        (&day["accepted"], &day["pending"], &day["failed"], &day["name"]),
        (&json!(7), &json!(5), &json!(2), &json!("shop"))
    );
    let database = server.database().await;
    // A failure nobody can explain is listed by its id, and repaired.
    let row = database
        .query_one("DELETE FROM dead_letters WHERE id = (SELECT min(id::text)::uuid FROM dead_letters) RETURNING message_id", &[])
        .await
        .unwrap();
    let alone: uuid::Uuid = row.get(0);
    let output = run(&data, &["audit", "delivery", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let books: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(books["discrepancies"][0]["id"], json!(alone));
    assert_eq!(books["discrepancies"][0]["kind"], "failed_without_dead_letter");
    assert!(String::from_utf8_lossy(&output.stderr).contains("hint: run: esh3ar message explain"));
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let settings = Settings { node: None, ..settings() };
    let app = App::start(settings, store(&server), &tracker, &stop);
    assert_eq!(app.admin.repair_discrepancies().await.unwrap(), 1);
    stop.cancel();
    assert_eq!(run_json(&data, &["audit", "delivery"])["balanced"], true);
    // A row that vanished is missed.
    database
        .execute("DELETE FROM messages WHERE id = (SELECT min(id::text)::uuid FROM messages)", &[])
        .await
        .unwrap();
    let output = run(&data, &["audit", "delivery", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let books: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&books["unaccounted"], &books["days"][0]["missing"]), (&json!(1), &json!(1)));
}
