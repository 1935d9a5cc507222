//! A clock that was ahead when something was stored: what is new comes after it all the same.

use serde_json::{Value, json};
use uuid::{NoContext, Timestamp, Uuid};

use crate::support::{Server, id, next_messages, run};

const PHONE: &str = "+967771234567";

#[tokio::test]
async fn what_is_new_comes_after_what_a_clock_ahead_has_stored() {
    let mut server = Server::start().await;
    let shop = server.user("Shop", "SendMessages,Chat");
    let phone = server.phone(PHONE);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let ahead = Uuid::new_v7(Timestamp::from_unix(NoContext, now + 3600, 0)).to_string();
    let early = server.send(&shop, PHONE, "from the future").await;
    let database = server.database().await;
    database
        .batch_execute(&format!("UPDATE messages SET id = '{ahead}' WHERE id = '{early}'"))
        .await
        .unwrap();
    server.stop().await;
    server.launch().await;
    assert!(server.log().contains("ahead of this machine's"), "{}", server.log());
    let mut sent = vec![ahead.clone()];
    for n in 0..3 {
        sent.push(server.send(&shop, PHONE, &format!("{n}")).await);
    }
    // A command sends as well, and so does the next start.
    let made = server.run_json(&["message", "send", "--from", "Shop", "--to", PHONE, "by command"]);
    sent.push(id(&made));
    server.stop().await;
    server.launch().await;
    sent.push(server.send(&shop, PHONE, "after another start").await);
    let mut sorted = sent.clone();
    sorted.sort();
    assert_eq!(sent, sorted, "ids grow");
    let newest =
        |list: &Value| list["items"].as_array().unwrap().iter().map(id).collect::<Vec<_>>();
    let (_, list) = server.request("GET", "/api/v1/messages", Some(&shop), None).await;
    assert_eq!(newest(&list), sent.iter().rev().cloned().collect::<Vec<_>>(), "the newest first");
    let mut hub = server.hub(&phone).await;
    let (_, got) = next_messages(&mut hub).await;
    assert_eq!(got.iter().map(id).collect::<Vec<_>>(), sent, "the oldest first");

    let output = run(&server.data(), &["doctor", "-o", "json"]);
    let checks: Value = serde_json::from_slice(&output.stdout).unwrap();
    let newest = checks.as_array().unwrap().iter().find(|check| check["check"] == "newest");
    let newest = newest.unwrap_or_else(|| panic!("{checks}"));
    assert_eq!(newest["state"], "warn");
    assert!(
        newest["found"].as_str().unwrap().contains("ahead of this machine's clock"),
        "{newest}"
    );

    // What is erased of a phone still includes the answers that name its messages.
    let answer = server.http().post(format!("{}/api/v1/messages", server.base)).bearer_auth(&shop);
    let answer =
        answer.header("idempotency-key", "names it").header("content-type", "application/json");
    let answer = answer.body(json!({ "to": PHONE, "content": "kept by key" }).to_string());
    assert_eq!(answer.send().await.unwrap().status(), 202);
    server.run_json(&["mobile", "erase", PHONE, "--yes"]);
    let database = server.database().await;
    let left: i64 =
        database.query_one("SELECT count(*) FROM idempotency_keys", &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
}
