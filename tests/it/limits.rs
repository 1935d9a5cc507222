//! Limits: of a user, of the whole system, and while deliveries pile up.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{DEADLINE, Server, acknowledge, id, next_messages, number, run_json};

const PHONE: &str = "+967771234567";

struct Answer {
    status: u16,
    retry_after: Option<u64>,
    body: Value,
}

async fn post(server: &Server, token: &str, path: &str, key: Option<&str>, body: &Value) -> Answer {
    let mut request =
        server.http().post(format!("{}{path}", server.base)).bearer_auth(token).json(body);
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let header = response.headers().get("retry-after");
    let retry_after = header.map(|value| value.to_str().unwrap().parse().unwrap());
    Answer { status, retry_after, body: response.json().await.unwrap() }
}

async fn send(server: &Server, token: &str, priority: &str) -> Answer {
    let body = json!({ "to": PHONE, "content": "x", "priority": priority });
    post(server, token, "/api/v1/messages", None, &body).await
}

/// Of 150 at once, as the configuration is unless somebody changes it.
#[tokio::test]
async fn a_user_sends_a_hundred_a_minute_and_others_are_not_held_up() {
    let server = Server::start_with(&[
        ("ESH3AR__LIMITS__MESSAGES_PER_MINUTE", "100"),
        ("ESH3AR__LIMITS__MESSAGES_PER_HOUR", "1000"),
    ])
    .await;
    let shown = run_json(&server.data(), &["config", "show"]);
    let shown = shown.to_string();
    assert!(shown.contains("limits.messages_per_minute"), "{shown}");
    let shop = server.user("shop", "SendMessages");
    let other = server.user("other", "SendMessages");
    let answers =
        futures_util::future::join_all((0..150).map(|_| send(&server, &shop, "normal"))).await;
    let accepted = answers.iter().filter(|answer| answer.status == 202).count();
    let refused: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert_eq!((accepted, refused.len()), (100, 50));
    for answer in refused {
        assert_eq!(answer.body["code"], "rate_limited");
        let wait = answer.retry_after.unwrap();
        assert!((1..=61).contains(&wait), "{wait}");
        assert_eq!(answer.body["retryAfter"], json!(wait));
    }
    assert_eq!(send(&server, &other, "normal").await.status, 202);
    // What was refused is nowhere.
    let stored = run_json(&server.data(), &["message", "list", "--limit", "1000"]);
    assert_eq!(stored.as_array().unwrap().len(), 101);
}

#[tokio::test]
async fn after_the_wait_that_was_told_it_passes() {
    // The whole system's second, because a user's minute would take one.
    let server = Server::start_with(&[("ESH3AR__LIMITS__MESSAGES_PER_SECOND", "20")]).await;
    let shop = server.user("shop", "SendMessages");
    let answers =
        futures_util::future::join_all((0..60).map(|_| send(&server, &shop, "normal"))).await;
    let refused: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 503).collect();
    assert!(!refused.is_empty() && refused.len() <= 40, "{}", refused.len());
    for answer in &refused {
        assert_eq!(answer.body["code"], "overloaded");
        // A second, and what is left of the one before.
        assert!(matches!(answer.retry_after, Some(1 | 2)), "{:?}", answer.retry_after);
    }
    let deadline = Instant::now() + DEADLINE;
    while send(&server, &shop, "normal").await.status != 202 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn a_batch_is_accepted_as_far_as_there_is_room_and_a_repeat_costs_nothing() {
    let server = Server::start_with(&[("ESH3AR__LIMITS__MESSAGES_PER_MINUTE", "10")]).await;
    let shop = server.user("shop", "SendMessages");
    let item = |n: usize| json!({ "to": PHONE, "content": format!("{n}") });
    let bad = json!({ "to": "nobody", "content": "x" });
    let mut items: Vec<Value> = (0..12).map(item).collect();
    items.insert(3, bad);
    let body = json!({ "messages": items });
    let path = "/api/v1/messages/batch";
    let first = post(&server, &shop, path, Some("k1"), &body).await;
    assert_eq!(first.status, 200);
    let results = first.body["results"].as_array().unwrap();
    let codes: Vec<&str> =
        results.iter().map(|r| r["error"]["code"].as_str().unwrap_or("accepted")).collect();
    let mut expected = vec!["accepted"; 13];
    expected[3] = "validation_failed";
    expected[11] = "rate_limited";
    expected[12] = "rate_limited";
    assert_eq!(codes, expected);
    assert!(results[12]["error"]["retryAfter"].as_u64().unwrap() >= 1);
    // Over the limit now, and the repeat is still answered as it was.
    let again = post(&server, &shop, path, Some("k1"), &body).await;
    assert_eq!((again.status, &again.body), (200, &first.body));
    let other = json!({ "messages": [item(99)] });
    let reused = post(&server, &shop, path, Some("k1"), &other).await;
    assert_eq!(reused.status, 422);
    let fresh = post(&server, &shop, path, Some("k2"), &other).await;
    assert_eq!((fresh.status, fresh.retry_after.is_some()), (429, true));
    // A repeat while there is room gives its place back.
    let server = Server::start_with(&[("ESH3AR__LIMITS__MESSAGES_PER_MINUTE", "3")]).await;
    let shop = server.user("shop", "SendMessages");
    let one = item(1);
    for _ in 0..10 {
        assert_eq!(post(&server, &shop, "/api/v1/messages", Some("k"), &one).await.status, 202);
    }
    assert_eq!(send(&server, &shop, "normal").await.status, 202);
    assert_eq!(send(&server, &shop, "normal").await.status, 202);
    assert_eq!(send(&server, &shop, "normal").await.status, 429);
}

/// A connected phone that acknowledges nothing makes deliveries pile up; at the marks bulk sends and
/// then all but high priority are refused, and when it has acknowledged everything flows again.
#[tokio::test]
async fn when_deliveries_pile_up_only_high_priority_passes_and_nothing_accepted_is_dropped() {
    let server = Server::start_with(&[
        ("ESH3AR__LIMITS__QUEUE_DEPTH", "100"),
        ("ESH3AR__RETRY__ACKNOWLEDGE_TIMEOUT", "60s"),
    ])
    .await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone(PHONE);
    let mut hub = server.hub(&phone).await;
    // What waits for somebody who is away does not count.
    let away: Vec<Value> =
        (0..300).map(|n| json!({ "to": number(n), "content": "later" })).collect();
    let batch = json!({ "messages": away });
    assert_eq!(post(&server, &shop, "/api/v1/messages/batch", None, &batch).await.status, 200);
    wait_level(&server, "open").await;
    let mut accepted = 0;
    for _ in 0..85 {
        assert_eq!(send(&server, &shop, "normal").await.status, 202);
        accepted += 1;
    }
    wait_level(&server, "bulk_refused").await;
    let one = json!({ "messages": [{ "to": PHONE, "content": "bulk" }] });
    let refused = post(&server, &shop, "/api/v1/messages/batch", None, &one).await;
    assert_eq!((refused.status, refused.body["code"].as_str()), (503, Some("overloaded")));
    let wait = refused.retry_after.unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    let deadline = Instant::now() + DEADLINE;
    loop {
        match send(&server, &shop, "normal").await.status {
            202 => accepted += 1,
            503 => break,
            other => panic!("{other}"),
        }
        assert!(Instant::now() < deadline);
    }
    wait_level(&server, "high_only").await;
    assert_eq!(send(&server, &shop, "low").await.status, 503);
    assert_eq!(send(&server, &shop, "high").await.status, 202);
    accepted += 1;
    let mut got = std::collections::HashSet::new();
    while got.len() < accepted {
        let (_, found) = next_messages(&mut hub).await;
        let ids: Vec<String> = found.iter().map(id).collect();
        acknowledge(&mut hub, &ids).await;
        got.extend(ids);
    }
    wait_level(&server, "open").await;
    assert_eq!(send(&server, &shop, "normal").await.status, 202);
}

async fn wait_level(server: &Server, wanted: &str) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let health: Value = crate::support::get(format!("{}/health", server.metrics))
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        if health["backpressure"]["level"] == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "not {wanted}: {health}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
