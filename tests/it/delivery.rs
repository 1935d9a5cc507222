//! Delivery: online at once, offline on the next connect, in order, retried, given up.

use std::{collections::HashSet, time::Duration};

use serde_json::json;

use crate::support::{
    DEADLINE, Server, acknowledge, id, messages, next_messages, number, wait_for,
};

const PHONE: &str = "+967771234567";

/// **Feature: enhanced-messaging-system, Property 14: Offline Message Queuing**
#[tokio::test]
async fn what_was_sent_to_an_offline_phone_comes_on_connect_in_order_and_pages() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone(PHONE);
    let mut sent = Vec::new();
    for _ in 0..3 {
        let batch: Vec<_> =
            (0..90).map(|n| json!({ "to": PHONE, "content": format!("{n}") })).collect();
        let body = json!({ "messages": batch });
        let answer = server.api(&shop).post("/api/v1/messages/batch", &body).await.unwrap();
        sent.extend(answer.body["results"].as_array().unwrap().iter().map(id));
    }
    for id in sent.iter().step_by(50) {
        assert_eq!(server.status(&shop, id).await, "pending");
    }
    let mut hub = server.hub(&phone).await;
    let mut got = Vec::new();
    for wanted in [100, 100, 70] {
        let (page, found) = next_messages(&mut hub).await;
        assert!(page);
        assert_eq!(found.len(), wanted);
        let ids: Vec<String> = found.iter().map(id).collect();
        got.extend(ids.clone());
        // One is held back: the next page must wait for it.
        acknowledge(&mut hub, &ids[1..]).await;
        let early = tokio::time::timeout(Duration::from_millis(150), next_messages(&mut hub)).await;
        assert!(early.is_err(), "a page came before the last was acknowledged");
        assert_eq!(acknowledge(&mut hub, &ids[..1]).await, 1);
    }
    assert_eq!(got, sent);
    for id in sent.iter().step_by(40) {
        server.wait_status(&shop, id, "delivered").await;
    }
}

#[tokio::test]
async fn every_device_gets_it_and_the_sender_is_told() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone(PHONE);
    let mut first = server.hub(&phone).await;
    let mut second = server.hub(&phone).await;
    let mut sender = server.hub(&shop).await;
    let sent = server.send(&shop, PHONE, "for both").await;
    for hub in [&mut first, &mut second] {
        let (page, found) = next_messages(hub).await;
        assert!(!page, "live");
        assert_eq!(id(&found[0]), sent);
        assert_eq!(found[0]["content"], "for both");
    }
    assert_eq!(acknowledge(&mut second, std::slice::from_ref(&sent)).await, 1);
    assert_eq!(acknowledge(&mut first, std::slice::from_ref(&sent)).await, 0, "once is enough");
    let told = async {
        loop {
            if let esh3ar::client::HubEvent::Invocation { target, arguments } =
                sender.next().await.unwrap()
                && target == "MessageStatusChanged"
                && arguments[0]["status"] == "delivered"
            {
                return arguments[0].clone();
            }
        }
    };
    let told = tokio::time::timeout(DEADLINE, told).await.unwrap();
    assert_eq!(told["id"], json!(sent));
    let read =
        first.call("MarkRead", vec![json!({ "messageIds": [sent] })], DEADLINE).await.unwrap();
    assert_eq!(read, json!(1));
    server.wait_status(&shop, &sent, "read").await;
}

#[tokio::test]
async fn messages_of_one_sender_arrive_in_the_order_they_were_accepted() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone(PHONE);
    let mut hub = server.hub(&phone).await;
    let sending = async {
        let mut sent = Vec::new();
        for n in 0..400 {
            sent.push(server.send(&shop, PHONE, &n.to_string()).await);
        }
        sent
    };
    let receiving = async {
        let mut got: Vec<String> = Vec::new();
        while got.len() < 400 {
            let (_, found) = next_messages(&mut hub).await;
            let ids: Vec<String> = found.iter().map(id).collect();
            got.extend(ids.clone());
            acknowledge(&mut hub, &ids).await;
        }
        got
    };
    let (sent, got) = tokio::join!(sending, receiving);
    assert_eq!(got, sent);
}

#[tokio::test]
async fn a_slow_client_is_told_no_more_than_its_window_and_loses_nothing() {
    let server = Server::start_with(&[("ESH3AR__RETRY__ACKNOWLEDGE_TIMEOUT", "60s")]).await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone(PHONE);
    let mut hub = server.hub(&phone).await;
    let mut sent = Vec::new();
    for _ in 0..3 {
        let batch: Vec<_> = (0..500).map(|_| json!({ "to": PHONE, "content": "x" })).collect();
        let body = json!({ "messages": batch });
        let answer = server.api(&shop).post("/api/v1/messages/batch", &body).await.unwrap();
        sent.extend(answer.body["results"].as_array().unwrap().iter().map(id));
    }
    let mut got = Vec::new();
    // Quiet says that it is told no more only when it was told something.
    while got.len() < 100 {
        got.extend(next_messages(&mut hub).await.1.iter().map(id));
    }
    let quiet = Duration::from_secs(1);
    while let Ok((_, found)) = tokio::time::timeout(quiet, next_messages(&mut hub)).await {
        got.extend(found.iter().map(id));
    }
    assert!(got.len() <= 256, "{} are unacknowledged", got.len());
    let mut unacknowledged = got.clone();
    while got.len() < sent.len() {
        acknowledge(&mut hub, &std::mem::take(&mut unacknowledged)).await;
        let (_, found) = next_messages(&mut hub).await;
        unacknowledged.extend(found.iter().map(id));
        got.extend(found.iter().map(id));
    }
    assert_eq!(got, sent);
}

/// **Feature: enhanced-messaging-system, Property 4: Retry Count Monotonicity**
#[tokio::test]
async fn what_nobody_acknowledges_is_retried_and_then_given_up() {
    let server = Server::start_with(&[
        ("ESH3AR__RETRY__ACKNOWLEDGE_TIMEOUT", "300ms"),
        ("ESH3AR__RETRY__BASE", "50ms"),
        ("ESH3AR__RETRY__ATTEMPTS", "2"),
    ])
    .await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone(PHONE);
    let mut hub = server.hub(&phone).await;
    let sent = server.send(&shop, PHONE, "never acknowledged").await;
    let mut seen = 0;
    let watching = async {
        loop {
            if let Some((_, found)) = messages(&hub.next().await.unwrap()) {
                assert_eq!(id(&found[0]), sent);
                seen += 1;
            }
        }
    };
    tokio::select! {
        () = server.wait_status(&shop, &sent, "failed") => {}
        () = watching => {}
    }
    assert_eq!(seen, 3, "once, and two retries");
    let database = server.database().await;
    let row =
        database.query_one("SELECT attempts, class, kind FROM dead_letters", &[]).await.unwrap();
    assert_eq!(
        (row.get::<_, i32>(0), row.get::<_, &str>(1), row.get::<_, &str>(2)),
        (3, "recipient", "delivery")
    );
    let timeline =
        server.api(&shop).get(&format!("/api/v1/messages/{sent}/timeline")).await.unwrap().body;
    let steps: Vec<&str> =
        timeline["steps"].as_array().unwrap().iter().map(|s| s["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["pending", "sent", "retry", "retry", "failed"]);
    // The device's late word beats the giving up and clears the dead letter.
    assert_eq!(acknowledge(&mut hub, std::slice::from_ref(&sent)).await, 1);
    server.wait_status(&shop, &sent, "delivered").await;
    let left: i64 =
        database.query_one("SELECT count(*) FROM dead_letters", &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
    let row =
        database.query_one("SELECT generation, retry_count FROM messages", &[]).await.unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, i16>(1)), (1, 0));
}

#[tokio::test]
async fn a_connection_that_dies_is_no_failure() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone(PHONE);
    let mut hub = server.hub(&phone).await;
    let sent = server.send(&shop, PHONE, "half way").await;
    assert_eq!(id(&next_messages(&mut hub).await.1[0]), sent);
    drop(hub);
    server.wait_status(&shop, &sent, "sent").await;
    let mut again = server.hub(&phone).await;
    let (page, found) = next_messages(&mut again).await;
    assert!(page);
    assert_eq!(id(&found[0]), sent);
    acknowledge(&mut again, std::slice::from_ref(&sent)).await;
    server.wait_status(&shop, &sent, "delivered").await;
    let database = server.database().await;
    let retries: i16 =
        database.query_one("SELECT retry_count FROM messages", &[]).await.unwrap().get(0);
    assert_eq!(retries, 0);
}

#[tokio::test]
async fn a_lost_wake_up_is_found_by_the_sweeper() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone(PHONE);
    let mut hub = server.hub(&phone).await;
    // Sent by a process that has no connections: only the database knows of it.
    let sent = crate::support::run_json(
        &server.data(),
        &["message", "send", "--from", "shop", "--to", PHONE, "from the command"],
    );
    let (_, found) = next_messages(&mut hub).await;
    assert_eq!(found[0]["id"], sent["id"]);
    acknowledge(&mut hub, &[id(&sent)]).await;
    server.wait_status(&shop, &id(&sent), "delivered").await;
}

/// However much waits, a page brings no more of it than memory can bear.
#[tokio::test]
async fn a_page_weighs_no_more_than_a_quarter_of_a_mebibyte() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone(PHONE);
    let content = "€".repeat(10_000);
    let items: Vec<_> = (0..60).map(|_| json!({ "to": PHONE, "content": content })).collect();
    let body = json!({ "messages": items });
    let answer = server.api(&shop).post("/api/v1/messages/batch", &body).await.unwrap();
    let sent: Vec<String> = answer.body["results"].as_array().unwrap().iter().map(id).collect();
    let mut hub = server.hub(&phone).await;
    let mut got = Vec::new();
    while got.len() < sent.len() {
        let (_, found) = next_messages(&mut hub).await;
        let weight: usize = found.iter().map(|m| m.to_string().len() + 1).sum();
        assert!(weight <= 256 * 1024, "{weight} bytes in a page");
        let ids: Vec<String> = found.iter().map(id).collect();
        acknowledge(&mut hub, &ids).await;
        got.extend(ids);
    }
    assert_eq!(got, sent);
}

#[tokio::test]
async fn a_number_that_is_not_registered_yet_gets_its_messages_later() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let sent = server.send(&shop, "+967770001111", "welcome").await;
    assert_eq!(server.status(&shop, &sent).await, "pending");
    let phone = server.phone("+967770001111");
    let mut hub = server.hub(&phone).await;
    assert_eq!(id(&next_messages(&mut hub).await.1[0]), sent);
}

/// **Feature: enhanced-messaging-system, Property 8: Message Delivery Idempotency**
#[tokio::test]
async fn many_senders_and_many_phones_each_get_exactly_their_own() {
    let server = Server::start().await;
    let shops = [server.user("a", "SendMessages"), server.user("b", "SendMessages")];
    let numbers: Vec<String> = (0..20).map(number).collect();
    let mut all = vec!["mobile", "add", "--verified"];
    all.extend(numbers.iter().map(String::as_str));
    crate::support::run_json(&server.data(), &all);
    let mut phones = Vec::new();
    for number in &numbers {
        phones.push(server.token(&["--mobile", number]));
    }
    let receivers = phones.iter().map(|token| async {
        let mut hub = server.hub(token).await;
        let (mut got, mut frames) = (HashSet::new(), 0);
        while got.len() < 20 {
            let (_, found) = next_messages(&mut hub).await;
            let ids: Vec<String> = found.iter().map(id).collect();
            frames += ids.len();
            // Said twice, as a client that is not sure would.
            acknowledge(&mut hub, &ids).await;
            assert_eq!(acknowledge(&mut hub, &ids).await, 0);
            got.extend(ids);
        }
        (got, frames)
    });
    let sending = futures_util::future::join_all(numbers.iter().map(|number| async {
        let mut sent = HashSet::new();
        for n in 0..10 {
            for shop in &shops {
                sent.insert(server.send(shop, number, &n.to_string()).await);
            }
        }
        sent
    }));
    let (sent, got) = tokio::join!(sending, futures_util::future::join_all(receivers));
    for (sent, (got, frames)) in sent.iter().zip(&got) {
        assert_eq!(sent, got);
        assert_eq!(*frames, 20, "nothing came twice");
    }
    let log = server.log();
    wait_for("nothing to be waiting", || (!log.contains("ERROR")).then_some(())).await;
}
