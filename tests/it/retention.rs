//! What was kept long enough goes, what is not finished stays, and everything still adds up.

use esh3ar::store::{Store, retention};
use serde_json::json;

use crate::support::{Server, run_json};

/// A business, and messages and events of long ago: with `{n}` the last digit of an id.
const LONG_AGO: &str = "
    INSERT INTO mobile_users (id, phone, status) VALUES (gen_random_uuid(), '+967770000001', 1);
    -- delivered, read, pending, sent, failed with a dead letter, failed long ago
    INSERT INTO messages (id, sender_user_id, recipient_phone, content, status, sent_at, delivered_at,
                          failure_reason, created_at)
    SELECT ('0190a000-0000-7000-8000-00000000000' || n)::uuid, u.id, '+967770000001', 'old ' || n,
           (ARRAY[2, 3, 0, 1, 4, 4])[n], now(), now(), CASE WHEN n > 4 THEN 'silent' END,
           now() - interval '40 days' - n * interval '1 hour'
    FROM business_users u, generate_series(1, 6) AS n;
    INSERT INTO dead_letters (id, message_id, generation, kind, class, reason, attempts, first_error_at,
                              last_error_at)
    VALUES (gen_random_uuid(), '0190a000-0000-7000-8000-000000000005', 0, 'delivery', 'recipient', 'x',
            7, now(), now());
    INSERT INTO delivery_events (message_id, generation, at, kind)
    SELECT id, 0, created_at, 'retry' FROM messages;
    INSERT INTO delivery_events (message_id, generation, at, kind)
    SELECT id, 0, created_at, 'dead_letter_expired' FROM messages WHERE content = 'old 6';
    -- seq 1 to 3 are finished, 4 waits, 5 is finished and behind it, 6 is young
    INSERT INTO conversations (id, business_user_id, phone, last_seq, unread_business, unread_mobile,
                               last_message_at)
    SELECT '0190a000-0000-7000-8000-0000000000c0', u.id, '+967770000001', 6, 2, 3, now()
    FROM business_users u;
    INSERT INTO messages (id, type, conversation_id, seq, sender_user_id, sender_phone, recipient_phone,
                          recipient_user_id, content, status, created_at)
    SELECT ('0190a000-0000-7000-8000-0000000000c' || n)::uuid, 1,
           '0190a000-0000-7000-8000-0000000000c0', n, CASE WHEN n % 2 = 0 THEN u.id END,
           CASE WHEN n % 2 = 1 THEN '+967770000001' END, CASE WHEN n % 2 = 0 THEN '+967770000001' END,
           CASE WHEN n % 2 = 1 THEN u.id END, 'said ' || n, (ARRAY[3, 2, 2, 0, 2, 2])[n],
           CASE WHEN n = 6 THEN now() ELSE now() - interval '40 days' END
    FROM business_users u, generate_series(1, 6) AS n;";

async fn contents(server: &Server) -> Vec<String> {
    let found = server.database().await.query("SELECT content FROM messages", &[]).await.unwrap();
    let mut found: Vec<String> = found.iter().map(|row| row.get(0)).collect();
    found.sort();
    found
}

#[tokio::test]
async fn finished_messages_go_by_age_and_counts_history_and_books_stay_right() {
    let mut server = Server::start().await;
    let shop = server.user("Shop", "SendMessages,Chat");
    server.database().await.batch_execute(LONG_AGO).await.unwrap();
    let young = server.send(&shop, "+967770000001", "young").await;
    let before = run_json(&server.data(), &["audit", "delivery", "--since", "60d"]);
    assert_eq!(before["balanced"], true, "{before}");
    assert_eq!(contents(&server).await.len(), 13);

    server.stop().await;
    server.set("ESH3AR__RETENTION__MESSAGES", Some("30d"));
    server.launch().await;
    let left = ["old 3", "old 4", "old 5", "said 4", "said 5", "said 6", "young"];
    let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
    while contents(&server).await != left {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", contents(&server).await);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let books = run_json(&server.data(), &["audit", "delivery", "--since", "60d"]);
    assert_eq!(books["balanced"], true, "{books}");
    let erased: i64 =
        books["days"].as_array().unwrap().iter().map(|day| day["erased"].as_i64().unwrap()).sum();
    assert_eq!(erased, 6);
    // Both sides' counts are what is left unread; history begins later and has no gap.
    let path = "/api/v1/conversations/0190a000-0000-7000-8000-0000000000c0";
    let phone = server.token(&["--mobile", "+967770000001"]);
    for (token, unread) in [(&shop, 1), (&phone, 2)] {
        let found = server.request("GET", path, Some(token), None).await.1;
        assert_eq!(found["unreadCount"], json!(unread), "{found}");
        let (_, page) = server.request("GET", &format!("{path}/messages"), Some(token), None).await;
        let seqs: Vec<i64> =
            page["items"].as_array().unwrap().iter().map(|m| m["seq"].as_i64().unwrap()).collect();
        assert_eq!(seqs.iter().max(), Some(&6), "{page}");
        assert_eq!((seqs.len(), seqs.iter().min()), (3, Some(&4)), "{page}");
    }
    let body = json!({ "content": "next" });
    let said = server.api(&shop).post(&format!("{path}/messages"), &body).await.unwrap();
    assert_eq!(said.body["seq"], 7);
    assert_eq!(server.status(&shop, &young).await, "pending");
}

#[tokio::test]
async fn events_go_by_age_but_never_what_keeps_the_books() {
    let mut server = Server::start().await;
    server.user("Shop", "SendMessages,Chat");
    server.database().await.batch_execute(LONG_AGO).await.unwrap();
    server.stop().await;
    server.set("ESH3AR__RETENTION__EVENTS", Some("30d"));
    server.launch().await;
    let database = server.database().await;
    let left = async || {
        let sql = "SELECT m.content || ' ' || e.kind FROM delivery_events e
                   JOIN messages m ON m.id = e.message_id ORDER BY 1";
        let rows = database.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect::<Vec<String>>()
    };
    let wanted = ["old 3 retry", "old 4 retry", "old 6 dead_letter_expired"];
    let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
    while left().await != wanted {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", left().await);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(contents(&server).await.len(), 12, "without retention.messages they stay for ever");
    let books = run_json(&server.data(), &["audit", "delivery", "--since", "60d"]);
    assert_eq!(books["balanced"], true, "{books}");
}

#[tokio::test]
async fn a_key_is_known_for_as_long_as_it_is_set() {
    let server = Server::start_with(&[("ESH3AR__RETENTION__IDEMPOTENCY_KEYS", "1h")]).await;
    let shop = server.user("Shop", "SendMessages");
    let send = async || {
        let body = json!({ "to": "+967770000001", "content": "once" }).to_string();
        let request = server.http().post(format!("{}/api/v1/messages", server.base));
        let request = request.bearer_auth(&shop).header("idempotency-key", "k").body(body);
        let answer = request.header("content-type", "application/json").send().await.unwrap();
        let answer: serde_json::Value = answer.json().await.unwrap();
        answer["id"].as_str().unwrap().to_owned()
    };
    let first = send().await;
    let database = server.database().await;
    let older = "UPDATE idempotency_keys SET created_at = created_at - $1::text::interval";
    database.execute(older, &[&"50 minutes"]).await.unwrap();
    assert_eq!(send().await, first);
    database.execute(older, &[&"20 minutes"]).await.unwrap();
    assert_ne!(send().await, first);
}

#[tokio::test]
async fn one_process_at_a_time_removes() {
    let server = Server::start().await;
    // Its own pass has ended when the lock is free.
    let store = Store::new(server.database_config(), 3).unwrap();
    let keeper = async || retention::acquire(&store).await.unwrap();
    let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
    let first = loop {
        if let Some(keeper) = keeper().await {
            break keeper;
        }
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert!(keeper().await.is_none(), "another one is at it");
    drop(first);
    while keeper().await.is_none() {
        assert!(tokio::time::Instant::now() < deadline, "the lock went with its holder");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
