//! A message that an administrator deletes: nobody is shown or sent it any more, everything still adds up,
//! and it is known who did it and why.

use std::time::Duration;

use esh3ar::client::{HubClient, HubEvent};
use serde_json::{Value, json};

use crate::{
    remote::{Elsewhere, said},
    support::{DEADLINE, Server, acknowledge, id, next_messages, run, wait_for},
};

const PHONE: &str = "+967771234567";

/// Waits for a call of this name, and gives its argument.
async fn called(hub: &mut HubClient, name: &str) -> Value {
    let wanted = async {
        loop {
            if let HubEvent::Invocation { target, mut arguments } = hub.next().await.unwrap()
                && target == name
            {
                return arguments.remove(0);
            }
        }
    };
    tokio::time::timeout(DEADLINE, wanted).await.unwrap_or_else(|_| panic!("no {name}"))
}

async fn books(server: &Server) -> (Value, i64) {
    let books = server.run_json(&["audit", "delivery"]);
    let days = books["days"].as_array().unwrap();
    (books["balanced"].clone(), days.iter().map(|day| day["erased"].as_i64().unwrap()).sum())
}

#[tokio::test]
async fn a_deleted_message_is_gone_for_both_sides_and_accounted_for() {
    let server = Server::start().await;
    let root = server.user("root", "Admin");
    let shop = server.user("Shop", "SendMessages,Chat");
    let phone = server.phone(PHONE);
    let elsewhere = Elsewhere::new(&server, &root);
    let get = |token: &str, path: String| {
        let (server, token) = (&server, token.to_owned());
        async move { server.request("GET", &path, Some(&token), None).await }
    };
    let delete = |id: String, reason: Option<&'static str>| {
        let (server, root) = (&server, &root);
        async move {
            let url = format!("{}/api/v1/admin/messages/{id}", server.base);
            let mut request = server.http().delete(url).bearer_auth(root);
            if let Some(reason) = reason {
                request = request.header("x-reason", reason);
            }
            let answer = request.send().await.unwrap();
            let status = answer.status().as_u16();
            let body: Value =
                serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default();
            (status, body)
        }
    };

    // One that waits: it never comes.
    let waiting = server.send(&shop, PHONE, "taken back").await;
    let kept = server.send(&shop, PHONE, "kept").await;
    let (status, problem) = delete(waiting.clone(), None).await;
    assert_eq!((status, &problem["errors"]["reason"][0]["code"]), (400, &json!("required")));
    assert_eq!(delete(waiting.clone(), Some("sent by mistake")).await.0, 204);
    assert_eq!(delete(waiting.clone(), Some("again")).await.0, 404);
    assert_eq!(delete("018f3a52-7c11-7c3e-9a0d-0242ac120002".into(), Some("x")).await.0, 404);
    assert_eq!(delete("none".into(), Some("x")).await.0, 404);
    for token in [&shop, &phone] {
        for path in ["", "/timeline"] {
            let path = format!("/api/v1/messages/{waiting}{path}");
            assert_eq!(get(token, path.clone()).await.0, 404, "{path}");
        }
        let (_, list) = get(token, "/api/v1/messages".into()).await;
        let ids: Vec<String> = list["items"].as_array().unwrap().iter().map(id).collect();
        assert_eq!(ids, [kept.as_str()], "{list}");
    }
    let (_, pending) = get(&phone, "/api/v1/messages/pending".into()).await;
    assert_eq!(pending["items"].as_array().unwrap().len(), 1, "{pending}");
    let mut hub = server.hub(&phone).await;
    let (_, got) = next_messages(&mut hub).await;
    assert_eq!(got.iter().map(id).collect::<Vec<_>>(), [kept.as_str()]);
    acknowledge(&mut hub, &[kept]).await;
    // A word about it changes nothing.
    assert_eq!(acknowledge(&mut hub, std::slice::from_ref(&waiting)).await, 0);

    // One that is on the screens of both, on its way to a device: each hears of it, and it is not retried.
    let mut sender = server.hub(&shop).await;
    let shown = server.send(&shop, PHONE, "seen for a moment").await;
    let (_, got) = next_messages(&mut hub).await;
    assert_eq!(id(&got[0]), shown);
    // By a command over the database, which is another process than the one with the connections.
    let done = server.run_json(&["message", "delete", &shown, "--reason", "wrong price"]);
    assert_eq!(done, json!({ "id": shown, "deleted": true }));
    for hub in [&mut hub, &mut sender] {
        // Who connected since hears of the first one too.
        let told = loop {
            let told = called(hub, "MessageDeleted").await;
            if told["id"] != json!(waiting) {
                break told;
            }
        };
        assert_eq!(told["id"], json!(shown), "{told}");
        assert!(told["at"].is_string() && told.get("conversationId").is_none(), "{told}");
    }
    assert_eq!(books(&server).await, (json!(true), 2));

    // Its story says who and why, for administrators.
    let story = server.run_json(&["message", "explain", &shown]);
    assert_eq!(story["verdict"]["code"], "deleted");
    let sentence = story["verdict"]["sentence"].as_str().unwrap();
    assert!(sentence.contains("by the command line: wrong price"), "{sentence}");
    let story = elsewhere.json(&["message", "explain", &waiting]);
    let sentence = story["verdict"]["sentence"].as_str().unwrap();
    assert!(sentence.contains("by root: sent by mistake"), "{sentence}");
    let log = server.run_json(&["audit", "access", "--action", "message.delete"]);
    let entries: Vec<(&str, &str, &str)> = log
        .as_array()
        .unwrap()
        .iter()
        .map(|e| {
            (
                e["subjectId"].as_str().or(e["subject"].as_str()).unwrap_or_default(),
                e["outcome"].as_str().unwrap(),
                e["reason"].as_str().unwrap_or_default(),
            )
        })
        .collect();
    assert!(
        entries.iter().any(|(_, outcome, why)| (*outcome, *why) == ("done", "wrong price")),
        "{log}"
    );
    assert!(
        entries.iter().any(|(_, outcome, why)| (*outcome, *why) == ("done", "sent by mistake")),
        "{log}"
    );
    assert!(
        entries.iter().any(|(_, outcome, why)| (*outcome, *why) == ("not_found", "again")),
        "{log}"
    );

    // The command, elsewhere and wrongly.
    let gone = elsewhere.run(&["message", "delete", &shown, "--reason", "x"]);
    assert_eq!(gone.status.code(), Some(4), "{}", said(&gone));
    assert!(said(&gone).contains("already deleted"), "{}", said(&gone));
    assert_eq!(run(&server.data(), &["message", "delete", &shown]).status.code(), Some(2));
    let blank = run(&server.data(), &["message", "delete", &shown, "--reason", " "]);
    assert_eq!(blank.status.code(), Some(2), "{}", said(&blank));
}

#[tokio::test]
async fn chat_goes_on_around_what_was_deleted_and_retention_removes_it() {
    let mut server = Server::start_with(&[("ESH3AR__RETENTION__MESSAGES", "30d")]).await;
    let root = server.user("root", "Admin");
    let shop = server.user("Shop", "SendMessages,Chat");
    let phone = server.phone(PHONE);
    let elsewhere = Elsewhere::new(&server, &root);
    let talk = json!({ "phone": PHONE });
    let talk = server.api(&shop).post("/api/v1/conversations", &talk).await.unwrap().body;
    let path = format!("/api/v1/conversations/{}", talk["id"].as_str().unwrap());
    let say = async |token: &str, text: &str| {
        let body = json!({ "content": text });
        id(&server.api(token).post(&format!("{path}/messages"), &body).await.unwrap().body)
    };
    let mut said = Vec::new();
    for n in 1..=4 {
        said.push(say(&shop, &format!("said {n}")).await);
    }
    let unread = async |token: &str| {
        let found = server.request("GET", &path, Some(token), None).await.1;
        found["unreadCount"].as_i64().unwrap()
    };
    let seqs = async |token: &str| -> Vec<i64> {
        let page = server.request("GET", &format!("{path}/messages"), Some(token), None).await.1;
        page["items"].as_array().unwrap().iter().map(|m| m["seq"].as_i64().unwrap()).collect()
    };
    // Both pages are in the cache, and must not be stale afterwards.
    assert_eq!((unread(&phone).await, seqs(&phone).await), (4, vec![4, 3, 2, 1]));
    assert_eq!(seqs(&shop).await, [4, 3, 2, 1]);
    let mut screen = server.hub(&phone).await;
    next_messages(&mut screen).await;
    elsewhere.json(&["message", "delete", &said[1], "--reason", "typo"]);
    assert_eq!((unread(&phone).await, seqs(&phone).await), (3, vec![4, 3, 1]));
    assert_eq!(seqs(&shop).await, [4, 3, 1]);
    let told = called(&mut screen, "MessageDeleted").await;
    assert_eq!((&told["id"], &told["seq"]), (&json!(said[1]), &json!(2)), "{told}");
    assert_eq!(told["conversationId"], talk["id"]);
    let changed = called(&mut screen, "ConversationChanged").await;
    assert_eq!(changed["unreadCount"], 3, "{changed}");
    // What was read counts no second time, and what is read afterwards is counted without it.
    let api = server.api(&phone);
    api.post(&format!("{path}/read"), &json!({ "upToSeq": 1 })).await.unwrap();
    assert_eq!(unread(&phone).await, 2);
    elsewhere.json(&["message", "delete", &said[0], "--reason", "read already"]);
    assert_eq!((unread(&phone).await, seqs(&phone).await), (2, vec![4, 3]));
    let read = api.post(&format!("{path}/read"), &json!({})).await.unwrap().body;
    assert_eq!((&read["read"], unread(&phone).await), (&json!(2), 0), "{read}");
    let next = say(&shop, "after it").await;
    let (_, got) = next_messages(&mut screen).await;
    assert_eq!((id(&got[0]), &got[0]["seq"]), (next.clone(), &json!(5)));
    let marked = json!({ "messageIds": [said[1], next] });
    let marked = screen.call("MarkRead", vec![marked], DEADLINE).await.unwrap();
    assert_eq!((marked, unread(&phone).await), (json!(1), 0));

    // A failed one goes with its dead letter: nothing puts it back.
    let failed = server.send(&shop, PHONE, "given up").await;
    let database = server.database().await;
    database
        .batch_execute(&format!(
            "UPDATE messages SET status = 4, failure_reason = 'x', next_attempt_at = NULL WHERE id = '{failed}';
             INSERT INTO dead_letters (id, message_id, generation, kind, class, reason, attempts,
                                       first_error_at, last_error_at)
             VALUES (gen_random_uuid(), '{failed}', 0, 'delivery', 'recipient', 'x', 7, now(), now())"
        ))
        .await
        .unwrap();
    elsewhere.json(&["message", "delete", &failed, "--reason", "hopeless"]);
    assert_eq!(elsewhere.json(&["dlq", "list"]), json!([]));
    assert_eq!(books(&server).await, (json!(true), 3));

    // Retention removes the rows: by their deletion, and with retention.messages by their acceptance.
    let count = async || -> i64 {
        database.query_one("SELECT count(*) FROM messages", &[]).await.unwrap().get(0)
    };
    assert_eq!(count().await, 6);
    database
        .batch_execute(&format!(
            "UPDATE messages SET deleted_at = now() - interval '8 days' WHERE id = '{}';
             UPDATE messages SET created_at = now() - interval '31 days' WHERE id = '{}';
             UPDATE ledger_days SET accepted = accepted - 1
             WHERE ctid = (SELECT ctid FROM ledger_days WHERE accepted > 0 LIMIT 1);
             INSERT INTO ledger_days (business_user_id, day, slot, accepted, erased)
             SELECT id, (now() AT TIME ZONE 'UTC' - interval '31 days')::date, 0, 1, 0
             FROM business_users WHERE name = 'Shop'",
            said[1], said[0]
        ))
        .await
        .unwrap();
    server.stop().await;
    server.launch().await;
    let database = server.database().await;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let left: i64 =
            database.query_one("SELECT count(*) FROM messages", &[]).await.unwrap().get(0);
        if left == 4 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{left} rows are left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let all = server.run_json(&["audit", "delivery", "--since", "60d"]);
    assert_eq!(all["balanced"], true, "{all}");
    let erased: i64 =
        all["days"].as_array().unwrap().iter().map(|day| day["erased"].as_i64().unwrap()).sum();
    assert_eq!(erased, 3);
}

#[tokio::test]
async fn a_repeat_of_what_was_deleted_shows_nothing_of_it() {
    let server = Server::start().await;
    let shop = server.user("Shop", "Chat");
    server.phone(PHONE);
    let talk = json!({ "phone": PHONE });
    let talk = server.api(&shop).post("/api/v1/conversations", &talk).await.unwrap().body;
    let path = format!("/api/v1/conversations/{}/messages", talk["id"].as_str().unwrap());
    let body = json!({ "content": "secret", "clientMessageId": "c1" }).to_string();
    let say = async || server.request("POST", &path, Some(&shop), Some(&body)).await;
    let (_, said) = say().await;
    assert_eq!(say().await, (200, said.clone()), "a repeat");
    server.run_json(&["message", "delete", &id(&said), "--reason", "typo"]);
    // A command has no log of its own.
    let line = format!("\"message deleted\",\"message_id\":\"{}\"", id(&said));
    wait_for("the deletion in the log", || server.log().contains(&line).then_some(())).await;
    let (status, answer) = say().await;
    assert_eq!((status, &answer["code"]), (409, &json!("conflict")), "{answer}");
    assert!(!answer.to_string().contains("secret"), "{answer}");
}
