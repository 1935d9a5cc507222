//! kill -9 in the middle of everything.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::support::{Server, acknowledge, id, next_messages, number};

const PHONES: usize = 50;
const SENDS: usize = 2000;

/// Every send that was answered arrives; nothing is shown twice to a client that drops the ids it
/// knows; nothing arrives that was not sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answered_send_survives_a_kill_in_the_middle_of_two_thousand() {
    let mut server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let numbers: Vec<String> = (0..PHONES).map(number).collect();
    let mut arguments = vec!["mobile", "add", "--verified"];
    arguments.extend(numbers.iter().map(String::as_str));
    crate::support::run_json(&server.data(), &arguments);
    let tokens: Vec<String> =
        numbers.iter().map(|number| server.token(&["--mobile", number])).collect();

    // What each phone has shown, by content; the client drops ids it knows.
    let shown: Arc<Mutex<HashMap<String, String>>> = Arc::default();
    let mut receivers = Vec::new();
    // Half of the phones are connected while it happens.
    for token in tokens.iter().take(PHONES / 2) {
        let mut hub = server.hub(token).await;
        let shown = Arc::clone(&shown);
        receivers.push(tokio::spawn(async move {
            while let Ok(event) = hub.next().await {
                let Some((_, found)) = crate::support::messages(&event) else { continue };
                for message in &found {
                    let content = message["content"].as_str().unwrap().to_owned();
                    shown.lock().await.insert(id(message), content);
                }
                let ids = json!([found.iter().map(id).collect::<Vec<_>>()]);
                let arguments = vec![ids[0].clone()];
                let patience = std::time::Duration::from_secs(5);
                if hub.call("Acknowledge", arguments, patience).await.is_err() {
                    return;
                }
            }
        }));
    }

    let answered: Arc<Mutex<HashMap<String, String>>> = Arc::default();
    let client =
        reqwest::Client::builder().timeout(std::time::Duration::from_secs(10)).build().unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(server.pid()).unwrap());
    let senders = (0..SENDS).map(|n| {
        let (client, answered) = (client.clone(), Arc::clone(&answered));
        let (url, shop) = (format!("{}/api/v1/messages", server.base), shop.clone());
        let to = numbers[n % PHONES].clone();
        tokio::spawn(async move {
            let content = format!("message {n}");
            let body = json!({ "to": to, "content": content });
            let Ok(response) = client.post(url).bearer_auth(shop).json(&body).send().await else {
                return;
            };
            if response.status() == 202
                && let Ok(body) = response.json::<Value>().await
            {
                let mut answered = answered.lock().await;
                answered.insert(id(&body), content);
                // Early: by the time it is felt, some are answered and some are not.
                if answered.len() == 20 {
                    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
                }
            }
        })
    });
    let senders: Vec<_> = senders.collect();
    for sender in senders {
        sender.await.unwrap();
    }
    server.kill();
    for receiver in receivers {
        receiver.await.unwrap();
    }
    let answered = answered.lock().await.clone();
    let before = shown.lock().await.len();
    assert!(answered.len() < SENDS, "the kill came too late to prove anything");

    server.launch().await;
    for token in &tokens {
        let mut hub = server.hub(token).await;
        let api = server.api(token);
        loop {
            let pending = api.get("/api/v1/messages/pending?limit=200").await.unwrap().body;
            if pending["items"].as_array().unwrap().is_empty() {
                break;
            }
            let (_, found) = next_messages(&mut hub).await;
            let mut shown = shown.lock().await;
            for message in &found {
                let content = message["content"].as_str().unwrap().to_owned();
                if let Some(known) = shown.insert(id(message), content.clone()) {
                    assert_eq!(known, content);
                }
            }
            drop(shown);
            acknowledge(&mut hub, &found.iter().map(id).collect::<Vec<_>>()).await;
        }
    }
    let shown = shown.lock().await;
    let lost: Vec<_> = answered.keys().filter(|id| !shown.contains_key(*id)).collect();
    assert!(lost.is_empty(), "{} answered messages are lost: {lost:?}", lost.len());
    let contents: HashSet<&String> = shown.values().collect();
    assert_eq!(contents.len(), shown.len(), "a message was stored twice");
    for (id, content) in &answered {
        assert_eq!(shown.get(id), Some(content));
    }
    println!(
        "{} of {SENDS} answered before the kill, {before} shown before it, {} in the end",
        answered.len(),
        shown.len()
    );
    // Every status is one that is allowed, and the database is whole.
    let database = server.database().await;
    let undelivered: i64 = database
        .query_one("SELECT count(*) FROM messages WHERE status <> 2", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(undelivered, 0);
}

/// The keys of a sender that repeats what was not answered make every message exactly one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_repeats_with_its_key_makes_each_message_once() {
    let mut server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let round = |base: String, shop: String| async move {
        let client = crate::support::http();
        let all = (0..300).map(|n| {
            let (client, url, shop) =
                (client.clone(), format!("{base}/api/v1/messages"), shop.clone());
            tokio::spawn(async move {
                let body = json!({ "to": number(n), "content": format!("message {n}") });
                let request = client.post(url).bearer_auth(shop).json(&body);
                let answer = request.header("Idempotency-Key", format!("key-{n}")).send().await;
                matches!(answer, Ok(answer) if answer.status() == 202)
            })
        });
        let all: Vec<_> = all.collect();
        let mut good = 0;
        for one in all {
            good += usize::from(one.await.unwrap());
        }
        good
    };
    let first = tokio::spawn(round(server.base.clone(), shop.clone()));
    let database = server.database().await;
    loop {
        let count: i64 =
            database.query_one("SELECT count(*) FROM messages", &[]).await.unwrap().get(0);
        if count > 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    drop(database);
    server.kill();
    first.await.unwrap();
    server.launch().await;
    assert_eq!(round(server.base.clone(), shop.clone()).await, 300);
    let database = server.database().await;
    let row = database
        .query_one("SELECT count(*), count(DISTINCT content) FROM messages", &[])
        .await
        .unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (300, 300));
}
