//! `esh3ar drain`: connections leave in waves, requests are still answered, and it can be undone.

use std::time::{Duration, Instant};

use esh3ar::client::{HubClient, HubEvent};
use serde_json::json;

use crate::support::{DEADLINE, Server, command, next_messages, number, run, run_json};

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_sent_elsewhere_in_waves_and_sends_are_still_answered() {
    const CLIENTS: usize = 120;
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let token = server.phone(&number(1));
    let others: Vec<String> = (2..10).map(|n| server.phone(&number(n))).collect();
    let mut hubs = Vec::new();
    for n in 0..CLIENTS {
        hubs.push(server.hub(&others[n % others.len()]).await);
    }
    let begun = Instant::now();
    let watching: Vec<_> = hubs
        .into_iter()
        .map(|mut hub| {
            tokio::spawn(async move {
                loop {
                    match hub.next().await {
                        Ok(HubEvent::Close { allow_reconnect, .. }) => {
                            return (begun.elapsed(), allow_reconnect);
                        }
                        Ok(_) => {}
                        Err(error) => panic!("no goodbye: {error}"),
                    }
                }
            })
        })
        .collect();
    let drained = run_json(&server.data(), &["drain", "--timeout", "30s"]);
    assert_eq!(drained, json!({ "state": "drained", "connections": 0 }));
    let mut left = Vec::new();
    for watch in watching {
        let (after, allow_reconnect) = watch.await.unwrap();
        assert!(allow_reconnect);
        left.push(after);
    }
    left.sort();
    let spread = left[CLIENTS - 1] - left[0];
    assert!(spread > Duration::from_millis(1500), "all at once: {spread:?}");
    let (status, body) = server.request("GET", "/health/ready", None, None).await;
    assert_eq!((status, &body["status"]), (503, &json!("draining")));
    assert!(HubClient::connect(&server.base, &token).await.is_err(), "no new connections");
    let sent = server.send(&shop, &number(1), "sent while it drains").await;
    let undone = run_json(&server.data(), &["drain", "--undo"]);
    assert_eq!(undone["state"], "serving");
    let deadline = Instant::now() + DEADLINE;
    let mut hub = loop {
        match HubClient::connect(&server.base, &token).await {
            Ok(hub) => break hub,
            Err(_) => assert!(Instant::now() < deadline),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let (_, found) = next_messages(&mut hub).await;
    assert_eq!(found[0]["id"], json!(sent));
    assert_eq!(server.request("GET", "/health/ready", None, None).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_nobody_serves_cannot_be_drained() {
    let mut server = Server::start().await;
    server.stop().await;
    let output = run(&server.data(), &["drain"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("hint:"));
    // A signal says nothing to the audit log.
    assert_eq!(run(&server.data(), &["drain", "--reason", "x"]).status.code(), Some(2));
    let output = command(&server.data()).args(["drain", "--timeout", "soon"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
