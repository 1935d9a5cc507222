//! Clients that vanish, dawdle, or all come at once.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use esh3ar::client::HubClient;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;

use super::{Load, Waiting, assert_balanced, assert_kept, beside, plan, target};
use crate::support::{
    DEADLINE, Server, acknowledge, id, next_messages, number,
    proxy::{Fault, Proxy, Upstream},
    run_json,
};

const PHONE: &str = "+967771234567";

/// The network falls silent in both directions and tells nobody: the classic way to lose a message.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_connection_loses_nothing_and_is_named_as_the_cause() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone(PHONE);
    let address = server.base.trim_start_matches("http://").to_owned();
    let proxy = Proxy::start(Upstream::Tcp(address)).await;
    let through = format!("http://127.0.0.1:{}", proxy.port);
    let mut dead = HubClient::connect(&through, &phone).await.unwrap();
    let first = server.send(&shop, PHONE, "before").await;
    let (_, found) = next_messages(&mut dead).await;
    acknowledge(&mut dead, &found.iter().map(id).collect::<Vec<_>>()).await;
    proxy.set(Fault::Stall);
    let lost = server.send(&shop, PHONE, "into the void").await;
    // Written to the socket, it counts as sent; when the silence has lasted, as waiting again.
    let deadline = Instant::now() + DEADLINE;
    loop {
        let explained = run_json(&server.data(), &["message", "explain", &lost]);
        if explained["verdict"]["code"] == "connection_lost" {
            let sentence = explained["verdict"]["sentence"].as_str().unwrap().to_owned();
            assert!(sentence.contains("fell silent"), "{sentence}");
            break;
        }
        assert!(Instant::now() < deadline, "{explained}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let mut alive = server.hub(&phone).await;
    let (_, found) = next_messages(&mut alive).await;
    assert_eq!(found.iter().map(id).collect::<Vec<_>>(), std::slice::from_ref(&lost));
    acknowledge(&mut alive, std::slice::from_ref(&lost)).await;
    server.wait_status(&shop, &lost, "delivered").await;
    let explained = run_json(&server.data(), &["message", "explain", &lost]);
    assert_eq!(explained["verdict"]["code"], "delivered_after_lost_connection");
    let explained = run_json(&server.data(), &["message", "explain", &first]);
    assert_eq!(explained["verdict"]["code"], "delivered");
}

/// One that reads a byte a second neither holds up others nor loses what is meant for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_a_byte_a_second_holds_up_nobody() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let (slow, quick) = (server.phone(PHONE), server.phone(&number(1)));
    let address = server.base.trim_start_matches("http://").to_owned();
    let proxy = Proxy::start(Upstream::Tcp(address)).await;
    let through = format!("http://127.0.0.1:{}", proxy.port);
    let dawdling = HubClient::connect(&through, &slow).await.unwrap();
    let mut brisk = server.hub(&quick).await;
    proxy.set(Fault::Trickle);
    let content = "x".repeat(5000);
    let mut meant = HashSet::new();
    for _ in 0..4 {
        let items: Vec<_> = (0..250).map(|_| json!({ "to": PHONE, "content": content })).collect();
        let body = json!({ "messages": items });
        let answer = server.api(&shop).post("/api/v1/messages/batch", &body).await.unwrap();
        let results = answer.body["results"].as_array().unwrap();
        meant.extend(results.iter().map(id));
    }
    let begun = Instant::now();
    let sent = server.send(&shop, &number(1), "quick").await;
    let (_, found) = next_messages(&mut brisk).await;
    assert_eq!(id(&found[0]), sent);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    acknowledge(&mut brisk, &[sent]).await;
    // It is connected, and the last one is not even on the way to it.
    let last = meant.iter().max().unwrap().clone();
    wait_verdict(&server, &last, "device_busy").await;
    // It comes back over a better network, with the old connection still there.
    let mut better = server.hub(&slow).await;
    let mut got = HashSet::new();
    while got.len() < meant.len() {
        let (_, found) = next_messages(&mut better).await;
        let ids: Vec<String> = found.iter().map(id).collect();
        acknowledge(&mut better, &ids).await;
        got.extend(ids);
    }
    assert_eq!(got, meant);
    server.wait_status(&shop, &last, "delivered").await;
    wait_verdict(&server, &last, "delivered_to_busy_device").await;
    drop(dawdling);
}

/// Waits for a verdict: what it is founded on is written every few seconds.
async fn wait_verdict(server: &Server, message: &str, code: &str) -> String {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let mut command = crate::support::command(&server.data());
        command.args(["message", "explain", message, "-o", "json"]).envs(server.environment());
        let output = command.output().unwrap();
        let explained: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let verdict = &explained["verdict"];
        if verdict["code"] == code {
            return verdict["sentence"].as_str().unwrap().to_owned();
        }
        assert!(Instant::now() < deadline, "not {code}: {verdict}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// One that acknowledges nothing is named as the cause while it is tried again and when it is given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_acknowledges_is_named_as_the_cause() {
    let server = Server::start_with(&[
        ("ESH3AR__RETRY__ACKNOWLEDGE_TIMEOUT", "300ms"),
        ("ESH3AR__RETRY__BASE", "10s"),
        ("ESH3AR__RETRY__ATTEMPTS", "1"),
    ])
    .await;
    let shop = server.user("shop", "SendMessages");
    let mut hub = server.hub(&server.phone(PHONE)).await;
    let sent = server.send(&shop, PHONE, "never acknowledged").await;
    let sentence = wait_verdict(&server, &sent, "not_acknowledged").await;
    assert!(sentence.contains("retry 1 of 1"), "{sentence}");
    server.wait_status(&shop, &sent, "failed").await;
    let sentence = wait_verdict(&server, &sent, "failed").await;
    assert!(sentence.contains("connected and did not acknowledge"), "{sentence}");
    acknowledge(&mut hub, std::slice::from_ref(&sent)).await;
    wait_verdict(&server, &sent, "delivered_late").await;
}

/// Two devices of one phone, of which the one that came last goes first: then nobody is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_phone_is_away_when_the_last_of_its_devices_has_left() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone(PHONE);
    let old = server.hub(&phone).await;
    let new = server.hub(&phone).await;
    let database = server.database().await;
    let deadline = Instant::now() + DEADLINE;
    while database.query_opt("SELECT FROM recipients", &[]).await.unwrap().is_none() {
        assert!(Instant::now() < deadline, "it was not noted that it came");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    new.close().await;
    while server.metric("esh3ar_connections").await > 1.0 {
        assert!(Instant::now() < deadline, "both are connected");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    old.close().await;
    while server.metric("esh3ar_connections").await > 0.0 {
        assert!(Instant::now() < deadline, "one is connected");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let waiting = server.send(&shop, PHONE, "later").await;
    wait_verdict(&server, &waiting, "recipient_offline").await;
}

/// One that reads nothing at all is cut, holds no more than a page of memory meanwhile, and finds
/// everything when it comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_is_cut_and_loses_nothing() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone(PHONE);
    let host = server.base.trim_start_matches("http://").to_owned();
    let tcp = tokio::net::TcpSocket::new_v4().unwrap();
    // So that what is not read stays with the server.
    tcp.set_recv_buffer_size(4096).unwrap();
    let tcp = tcp.connect(host.parse().unwrap()).await.unwrap();
    let url = format!("ws://{host}/hub?access_token={phone}");
    let (mut deaf, _) = tokio_tungstenite::client_async(url, tcp).await.unwrap();
    let hello = "{\"protocol\":\"json\",\"version\":1}\u{1e}";
    deaf.send(tokio_tungstenite::tungstenite::Message::text(hello)).await.unwrap();
    deaf.next().await.unwrap().unwrap();
    let content = "x".repeat(9000);
    let send = async |to: &str| {
        let items: Vec<_> = (0..100).map(|_| json!({ "to": to, "content": content })).collect();
        let body = json!({ "messages": items });
        let answer = server.api(&shop).post("/api/v1/messages/batch", &body).await.unwrap();
        answer.body["results"].as_array().unwrap().iter().map(id).collect::<Vec<String>>()
    };
    // What accepting so many takes is no matter of this test.
    for _ in 0..8 {
        send(&number(7)).await;
    }
    let before = server.memory();
    let mut meant = HashSet::new();
    for _ in 0..8 {
        meant.extend(send(PHONE).await);
    }
    let one = meant.iter().next().unwrap().clone();
    let deadline = Instant::now() + DEADLINE;
    let mut most = before;
    while server.metric("esh3ar_connections").await > 0.0 {
        assert!(Instant::now() < deadline, "it is still connected");
        most = most.max(server.memory());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(most < before + 40 * 1024, "{before} KiB grew to {most}");
    drop(deaf);
    let mut hub = server.hub(&phone).await;
    let mut got = HashSet::new();
    while got.len() < meant.len() {
        let (_, found) = next_messages(&mut hub).await;
        let ids: Vec<String> = found.iter().map(id).collect();
        acknowledge(&mut hub, &ids).await;
        got.extend(ids);
    }
    assert_eq!(got, meant);
    server.wait_status(&shop, &one, "delivered").await;
    let first = meant.iter().min().unwrap();
    let sentence = wait_verdict(&server, first, "delivered_after_lost_connection").await;
    assert!(sentence.contains("stopped reading"), "{sentence}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_that_come_back_at_once_each_get_what_waits_for_them() {
    let mut server = Server::start().await;
    let (app, stop) = beside(&server);
    let target = target(&server, &app, 1000).await;
    stop.cancel();
    drop(app);
    let load = Load::start(target, plan());
    load.received(200).await;
    let waiting = Waiting::send(&server).await;
    // All connections end in the same moment, and all clients try again until it is back.
    server.kill();
    // Long enough that what waited is late.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    server.launch().await;
    let figures = load.healed().await;
    assert_kept(&figures);
    waiting.comes(&server, "delivered_after_crash").await;
    assert_balanced(&server);
}
