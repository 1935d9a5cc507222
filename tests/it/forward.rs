//! Any gateway takes any request: a connection is begun at one and used through another.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message as Frame, client::IntoClientRequest as _},
};

use crate::{
    listen::certificate,
    support::{
        DEADLINE, Folder, Server, acknowledge, id, next_messages,
        postgres::Database,
        proxy::{Fault, Proxy, Upstream},
    },
    transports::{HELLO, Plain, said},
};

pub const PHONE: &str = "+967771234567";
pub const HUB: &str = "/hub/diagnostics";
/// A connection that outlives its socket has to be with the gateway that negotiated it.
const STAYING: &str = "&useStatefulReconnect=true";

/// Two gateways over one database, and nothing else.
pub struct Pair {
    pub one: Server,
    pub other: Server,
    pub token: String,
    _postgres: Database,
}

impl Pair {
    pub async fn start() -> Pair {
        Pair::start_with(&[]).await
    }

    async fn start_with(more: &[(&str, &str)]) -> Pair {
        let postgres = Database::new().await;
        let url = postgres.url();
        let mut environment = vec![
            ("ESH3AR__DATABASE__URL", url.as_str()),
            ("ESH3AR__HTTP__DIAGNOSTICS_HUB", "true"),
            ("ESH3AR__LOG__LEVEL", "debug"),
        ];
        environment.extend(more);
        let one = Server::start_in(Folder::new(), &environment).await;
        let other = Server::start_in(Folder::new(), &environment).await;
        let token = one.phone(PHONE);
        Pair { one, other, token, _postgres: postgres }
    }

    /// The same user at both.
    fn plain(&self) -> (Plain, Plain) {
        (Plain::new(&self.one, HUB, &self.token), Plain::new(&self.other, HUB, &self.token))
    }
}

type Socket = WebSocketStream<TcpStream>;

/// A WebSocket through a gateway for a connection that was negotiated anywhere.
async fn socket(plain: &Plain, query: &str) -> Result<Socket, tungstenite::Error> {
    let address = plain.hub.strip_prefix("http://").unwrap();
    let tcp = TcpStream::connect(address.split('/').next().unwrap()).await.unwrap();
    let mut request = format!("ws://{address}{query}").into_client_request().unwrap();
    request
        .headers_mut()
        .insert("authorization", format!("Bearer {}", plain.token).parse().unwrap());
    Ok(client_async(request, tcp).await?.0)
}

/// What is said until a text is in it.
async fn until(socket: &mut Socket, wanted: &str) -> String {
    let reading = async {
        loop {
            let text = socket.next().await.unwrap().unwrap().into_text().unwrap().to_string();
            if text.contains(wanted) {
                return text;
            }
        }
    };
    tokio::time::timeout(DEADLINE, reading).await.expect(wanted)
}

async fn greet(socket: &mut Socket, version: u8) {
    let hello = format!("{{\"protocol\":\"json\",\"version\":{version}}}\u{1e}");
    socket.send(Frame::text(hello)).await.unwrap();
    until(socket, "{}\u{1e}").await;
}

fn echo(n: usize, value: &str) -> String {
    let call =
        json!({ "type": 1, "invocationId": n.to_string(), "target": "Echo", "arguments": [value] });
    format!("{call}\u{1e}")
}

fn echoed(n: usize, value: &str) -> String {
    format!("{{\"type\":3,\"invocationId\":\"{n}\",\"result\":\"{value}\"}}\u{1e}")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_transport_goes_through_another_gateway() {
    let pair = Pair::start().await;
    let (one, other) = pair.plain();
    // Long polling, each request through the gateway that it happens to reach.
    let id = one.negotiate("").await;
    assert_eq!(said(other.get(&id).await).await, (200, String::new()));
    assert_eq!(one.post(&id, HELLO).await.status(), 200);
    assert_eq!(said(other.get(&id).await).await, (200, "{}\u{1e}".to_owned()));
    for n in 0..20 {
        let (asked, told) = if n % 3 == 0 { (&one, &other) } else { (&other, &one) };
        let held = tokio::spawn({
            let (told, id) = (told.clone(), id.clone());
            async move { said(told.get(&id).await).await }
        });
        assert_eq!(asked.post(&id, &echo(n, "p")).await.status(), 200);
        assert_eq!(held.await.unwrap(), (200, echoed(n, "p")));
    }
    assert_eq!(other.delete(&id).await.status(), 202);
    assert_eq!(other.get(&id).await.status(), 404);
    assert_eq!(one.get(&id).await.status(), 404);
    // Events come as they happen: the answer is not gathered on the way.
    let id = one.negotiate("").await;
    let response = other.events(&id).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let mut events = response.bytes_stream();
    let mut event = async || {
        let next = tokio::time::timeout(DEADLINE, events.next()).await.expect("an event in time");
        String::from_utf8(next.unwrap().unwrap().to_vec()).unwrap()
    };
    assert_eq!(event().await, ":\r\n");
    assert_eq!(other.post(&id, HELLO).await.status(), 200);
    assert_eq!(event().await, "data: {}\u{1e}\r\n\r\n");
    for n in 0..20 {
        let by = if n % 2 == 0 { &one } else { &other };
        assert_eq!(by.post(&id, &echo(n, "e")).await.status(), 200);
        assert_eq!(event().await, format!("data: {}\r\n\r\n", echoed(n, "e")));
    }
    // A client that leaves is seen to leave by the owner.
    drop(events);
    let deadline = Instant::now() + DEADLINE;
    while one.post(&id, "x").await.status() != 404 {
        assert!(Instant::now() < deadline, "the connection lives on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A WebSocket, with more than any buffer on the way holds, both ways.
    let mut ws = socket(&other, &one.negotiate(STAYING).await).await.unwrap();
    greet(&mut ws, 1).await;
    let long = "x".repeat(30_000);
    for n in 0..20 {
        ws.send(Frame::text(echo(n, &long))).await.unwrap();
        assert_eq!(until(&mut ws, "result").await, echoed(n, &long));
    }
    assert_eq!(pair.other.metric("esh3ar_hub_forwarded").await, 1.0);
    ws.close(None).await.unwrap();
    while let Some(Ok(_)) = ws.next().await {}
    let deadline = Instant::now() + DEADLINE;
    while pair.other.metric("esh3ar_hub_forwarded").await > 0.0 {
        assert!(Instant::now() < deadline, "the tunnel stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What a request is called goes along, what it may not be told to anybody does not.
    let asked = crate::support::http()
        .post(format!("{}{id}&access_token={}", other.hub, other.token))
        .header("x-request-id", "the-same-everywhere")
        .send();
    assert_eq!(asked.await.unwrap().status(), 404);
    for log in [pair.one.log(), pair.other.log()] {
        assert!(log.contains("the-same-everywhere"), "{log}");
        assert!(!log.contains(&pair.token), "a token is in a log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_needs_no_return_is_at_home_where_it_comes_in() {
    let mut pair = Pair::start().await;
    let (one, other) = pair.plain();
    let asked = one.post("/negotiate?negotiateVersion=1", "").await;
    let asked: Value = asked.json().await.unwrap();
    let id = format!("?id={}", asked["connectionToken"].as_str().unwrap());
    // The gateway that negotiated it may even have gone.
    pair.one.kill();
    let mut ws = socket(&other, &id).await.unwrap();
    greet(&mut ws, 1).await;
    let call = json!({ "type": 1, "invocationId": "1", "target": "ConnectionId", "arguments": [] });
    ws.send(Frame::text(format!("{call}\u{1e}"))).await.unwrap();
    until(&mut ws, &echoed(1, asked["connectionId"].as_str().unwrap())).await;
    assert_eq!(pair.other.metric("esh3ar_hub_forwarded").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_lost_its_socket_comes_back_through_another_gateway() {
    let pair = Pair::start().await;
    let (one, other) = pair.plain();
    let id = one.negotiate(STAYING).await;
    let mut ws = socket(&one, &id).await.unwrap();
    greet(&mut ws, 2).await;
    ws.send(Frame::text(echo(1, "before"))).await.unwrap();
    until(&mut ws, &echoed(1, "before")).await;
    // Gone without a word; what it missed is told again.
    drop(ws);
    let mut ws = socket(&other, &id).await.unwrap();
    ws.send(Frame::text("{\"type\":9,\"sequenceId\":2}\u{1e}")).await.unwrap();
    until(&mut ws, "\"type\":9").await;
    ws.send(Frame::text(echo(2, "after"))).await.unwrap();
    until(&mut ws, &echoed(2, "after")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_delivered_and_acknowledged_through_a_tunnel() {
    let pair = Pair::start().await;
    let shop = pair.one.user("Shop", "SendMessages");
    let plain = Plain::new(&pair.one, "/hub", &pair.token);
    let through = Plain::new(&pair.other, "/hub", &pair.token);
    let mut ws = socket(&through, &plain.negotiate(STAYING).await).await.unwrap();
    greet(&mut ws, 1).await;
    for n in 1..=20 {
        let sent = pair.one.send(&shop, PHONE, &format!("number {n}")).await;
        until(&mut ws, &sent).await;
        let said = json!({ "type": 1, "target": "Acknowledge", "arguments": [[&sent]] });
        ws.send(Frame::text(format!("{said}\u{1e}"))).await.unwrap();
        pair.one.wait_status(&shop, &sent, "delivered").await;
    }
    drop(ws);
    // The owner knows that it has gone: what comes now waits for the next connection.
    let deadline = Instant::now() + DEADLINE;
    while pair.one.metric("esh3ar_connections").await > 0.0 {
        assert!(Instant::now() < deadline, "the connection lives on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let sent = pair.one.send(&shop, PHONE, "later").await;
    let mut hub = pair.other.hub(&pair.token).await;
    let (_, pending) = next_messages(&mut hub).await;
    assert_eq!(id(&pending[0]), sent);
    acknowledge(&mut hub, &[sent]).await;
}

/// The messages in a frame, whether they came live or with a page.
fn messages_in(frame: &str) -> Vec<String> {
    let calls = frame.split('\u{1e}').filter_map(|text| serde_json::from_str::<Value>(text).ok());
    let arguments =
        calls.filter(|call| call["type"] == 1).map(|mut call| call["arguments"][0].take());
    arguments
        .flat_map(|found| match found {
            Value::Array(page) => page,
            one => vec![one],
        })
        .filter_map(|message| message["id"].as_str().map(str::to_owned))
        .collect()
}

/// For twenty seconds nothing passes between two gateways, and neither is told. Whoever came through has
/// everything once and in order afterwards, over the same connection or its next.
#[tokio::test(flavor = "multi_thread")]
async fn a_way_between_gateways_that_falls_silent_costs_time_only() {
    const SILENT: Duration = Duration::from_secs(20);
    let mut pair = Pair::start().await;
    let shop = pair.one.user("Shop", "SendMessages");
    let upstream = pair.one.base.trim_start_matches("http://").to_owned();
    let way = Proxy::start(Upstream::Tcp(upstream)).await;
    pair.one.stop().await;
    let address = format!("http://127.0.0.1:{}", way.port);
    pair.one.set("ESH3AR__CLUSTER__ADDRESS", Some(&address));
    pair.one.launch().await;
    let plain = Plain::new(&pair.one, "/hub", &pair.token);
    let through = Plain::new(&pair.other, "/hub", &pair.token);
    let mut ws = socket(&through, &plain.negotiate(STAYING).await).await.unwrap();
    greet(&mut ws, 1).await;
    let first = pair.one.send(&shop, PHONE, "before").await;
    until(&mut ws, &first).await;
    let mut sent = vec![first.clone()];
    let mut shown = vec![first.clone()];
    let word = |ids: &[String]| {
        let said = json!({ "type": 1, "target": "Acknowledge", "arguments": [ids] });
        Frame::text(format!("{said}\u{1e}"))
    };
    ws.send(word(&[first])).await.unwrap();
    way.set(Fault::Stall);
    let began = Instant::now();
    while began.elapsed() < SILENT {
        sent.push(pair.one.send(&shop, PHONE, &format!("number {}", sent.len())).await);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    way.set(Fault::None);
    // What is not acknowledged in time is tried again: a client drops what it knows.
    let show = |shown: &mut Vec<String>, ids: &[String]| {
        for id in ids {
            if !shown.contains(id) {
                shown.push(id.clone());
            }
        }
    };
    let all = async {
        while shown.len() < sent.len() {
            let Some(Ok(frame)) = ws.next().await else { return };
            let found = messages_in(&frame.into_text().unwrap_or_default());
            show(&mut shown, &found);
            if !found.is_empty() && ws.send(word(&found)).await.is_err() {
                return;
            }
        }
    };
    // As long as a client waits for a sign of life of its server.
    let _ = tokio::time::timeout(Duration::from_secs(15), all).await;
    drop(ws);
    // Its last words may have been lost with it: what they were about comes again.
    let mut hub = pair.other.hub(&pair.token).await;
    for message in &sent {
        while pair.one.status(&shop, message).await != "delivered" {
            let next = tokio::time::timeout(Duration::from_millis(500), next_messages(&mut hub));
            if let Ok((_, found)) = next.await {
                let ids: Vec<String> = found.iter().map(id).collect();
                show(&mut shown, &ids);
                acknowledge(&mut hub, &ids).await;
            }
            assert!(began.elapsed() < SILENT + DEADLINE, "{message} does not arrive");
        }
    }
    assert_eq!(shown, sent, "everything, once, in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_with_tls_reach_each_other_by_the_machines_roots() {
    let folder = Folder::new();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).unwrap();
    let pem = certificate(folder.path(), "shared");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let tls = [
        ("ESH3AR__HTTP__TLS_CERT", cert.as_str()),
        ("ESH3AR__HTTP__TLS_KEY", key.as_str()),
        ("SSL_CERT_FILE", cert.as_str()),
    ];
    let mut pair = Pair::start_with(&tls).await;
    let root = reqwest::Certificate::from_pem(pem.as_bytes()).unwrap();
    let client = reqwest::Client::builder().add_root_certificate(root).build().unwrap();
    let over_tls = |plain: Plain| {
        let hub = plain.hub.replace("http://", "https://");
        Plain { client: client.clone(), hub, ..plain }
    };
    let (one, other) = pair.plain();
    let (one, other) = (over_tls(one), over_tls(other));
    let id = one.negotiate("").await;
    assert_eq!(said(other.get(&id).await).await, (200, String::new()));
    assert_eq!(other.post(&id, HELLO).await.status(), 200);
    assert_eq!(said(other.get(&id).await).await, (200, "{}\u{1e}".to_owned()));
    // By roots that know nothing of the certificate no token is sent, and the connection is unknown.
    pair.other.stop().await;
    pair.other.set("SSL_CERT_FILE", Some(&key));
    pair.other.launch().await;
    assert_eq!(other.get(&id).await.status(), 404);
    assert_eq!(one.post(&id, &echo(1, "here")).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_nobodys_or_somebody_elses_is_unknown_at_every_gateway() {
    let mut pair = Pair::start().await;
    let (one, other) = pair.plain();
    let unknown = (404, "No Connection with that ID".to_owned());
    let id = one.polling().await;
    let stranger = Plain { token: pair.one.phone("+967770000009"), ..other.clone() };
    let elsewhere = Plain::new(&pair.other, "/hub", &pair.token);
    for plain in [&stranger, &elsewhere] {
        assert_eq!(said(plain.get(&id).await).await, unknown);
        assert_eq!(said(plain.events(&id).await).await, unknown);
        assert_eq!(said(plain.post(&id, "x").await).await, unknown);
        assert_eq!(said(plain.delete(&id).await).await, unknown);
        let stays = one.negotiate(STAYING).await;
        let Err(tungstenite::Error::Http(refused)) = socket(plain, &stays).await else { panic!() };
        assert_eq!(refused.status(), 404);
    }
    let nobody = Plain { token: "esh_wrong".to_owned(), ..other.clone() };
    assert_eq!(said(nobody.get(&id).await).await, (401, String::new()));
    assert_eq!(other.ask(Method::PUT, &id, "*/*", "").await.status(), 405);
    // What was passed on once is not passed on again, whoever says so.
    let again = crate::support::http()
        .post(format!("{}{id}", other.hub))
        .bearer_auth(&other.token)
        .header("x-esh3ar-forwarded-by", "0000000000000000")
        .send();
    assert_eq!(said(again.await.unwrap()).await, unknown);
    assert_eq!(other.post(&id, &echo(1, "still there")).await.status(), 200);
    // An owner that died, and one that came up at its address.
    pair.one.kill();
    let begun = Instant::now();
    assert_eq!(said(other.get(&id).await).await, unknown);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    pair.one.launch().await;
    assert_eq!(said(other.get(&id).await).await, unknown);
    assert_eq!(said(one.get(&id).await).await, unknown);
    // The newcomer is known to the others with its first connection.
    let id = one.negotiate("").await;
    assert_eq!(said(other.get(&id).await).await, (200, String::new()));
}

/// Through `other`: a socket, a stream of events, and a request that is held.
async fn guests(
    pair: &Pair,
) -> (Socket, reqwest::Response, tokio::task::JoinHandle<(u16, String)>, String) {
    let (one, other) = pair.plain();
    let mut ws = socket(&other, &one.negotiate(STAYING).await).await.unwrap();
    greet(&mut ws, 1).await;
    let id = one.negotiate("").await;
    let events = other.events(&id).await;
    assert_eq!(events.status(), 200);
    assert_eq!(one.post(&id, HELLO).await.status(), 200);
    let polls = one.polling().await;
    let held = tokio::spawn({
        let (other, polls) = (other.clone(), polls.clone());
        async move { said(other.get(&polls).await).await }
    });
    let deadline = Instant::now() + DEADLINE;
    while pair.other.metric("esh3ar_hub_forwarded").await < 3.0 {
        assert!(Instant::now() < deadline, "not all are there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (ws, events, held, polls)
}

/// They are sent away, and so that their clients begin anew.
async fn leave(
    mut ws: Socket,
    events: reqwest::Response,
    held: tokio::task::JoinHandle<(u16, String)>,
) {
    let all = async {
        while let Some(Ok(_)) = ws.next().await {}
        // Cut or ended: the client comes again either way.
        let _ = events.text().await;
        assert_eq!(held.await.unwrap().0, 503);
    };
    tokio::time::timeout(DEADLINE, all).await.expect("they leave in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_came_through_a_gateway_leaves_with_it() {
    let mut pair = Pair::start().await;
    let (ws, events, held, polls) = guests(&pair).await;
    let begun = Instant::now();
    pair.other.terminate();
    leave(ws, events, held).await;
    assert_eq!(pair.other.ended().await, Some(0));
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert!(!pair.other.log().contains("did not stop in time"), "{}", pair.other.log());
    // The connections are the owner's, and live.
    let (one, _) = pair.plain();
    assert_eq!(one.post(&polls, &echo(1, "here")).await.status(), 200);
    assert_eq!(said(one.get(&polls).await).await, (200, echoed(1, "here")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_emptied_sends_away_who_came_through_it() {
    let pair = Pair::start().await;
    let (ws, events, held, _) = guests(&pair).await;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pair.other.pid()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR1).unwrap();
    leave(ws, events, held).await;
    assert_eq!(pair.one.request("GET", "/health/ready", None, None).await.0, 200);
    // Requests are answered, until a load balancer has noticed.
    let (one, other) = pair.plain();
    let id = one.negotiate("").await;
    assert_eq!(said(other.get(&id).await).await, (200, String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn tunnels_count_as_connections() {
    let pair = Pair::start_with(&[("ESH3AR__HTTP__MAX_CONNECTIONS", "3")]).await;
    let (one, other) = pair.plain();
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(socket(&other, &one.negotiate(STAYING).await).await.unwrap());
    }
    let Err(tungstenite::Error::Http(refused)) =
        socket(&other, &one.negotiate(STAYING).await).await
    else {
        panic!("a fourth was let in")
    };
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
}
