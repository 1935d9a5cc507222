//! Every transport with plain requests: what clients never see because their library hides it.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::support::{DEADLINE, Server, run, run_json};

const PHONE: &str = "+967771234567";
pub const HELLO: &str = "{\"protocol\":\"json\",\"version\":1}\u{1e}";

async fn server() -> Server {
    Server::start_with(&[("ESH3AR__HTTP__DIAGNOSTICS_HUB", "true")]).await
}

/// A user of a hub, with plain requests.
#[derive(Clone)]
pub struct Plain {
    pub client: reqwest::Client,
    pub hub: String,
    pub token: String,
}

impl Plain {
    pub fn new(server: &Server, path: &str, token: &str) -> Plain {
        let hub = format!("{}{path}", server.base);
        Plain { client: crate::support::http(), hub, token: token.to_owned() }
    }

    pub async fn ask(&self, method: Method, query: &str, accept: &str, body: &str) -> Response {
        self.client
            .request(method, format!("{}{query}", self.hub))
            .bearer_auth(&self.token)
            .header("accept", accept)
            .body(body.to_owned())
            .send()
            .await
            .unwrap()
    }

    pub async fn get(&self, query: &str) -> Response {
        self.ask(Method::GET, query, "*/*", "").await
    }

    pub async fn events(&self, query: &str) -> Response {
        self.ask(Method::GET, query, "text/event-stream", "").await
    }

    pub async fn post(&self, query: &str, body: &str) -> Response {
        self.ask(Method::POST, query, "*/*", body).await
    }

    pub async fn delete(&self, query: &str) -> Response {
        self.ask(Method::DELETE, query, "*/*", "").await
    }

    /// The query that names a new connection.
    pub async fn negotiate(&self, query: &str) -> String {
        let url = format!("/negotiate?negotiateVersion=1{query}");
        let answer: Value = self.post(&url, "").await.json().await.unwrap();
        format!("?id={}", answer["connectionToken"].as_str().unwrap())
    }

    /// A connection over long polling, after its handshake.
    pub async fn polling(&self) -> String {
        let id = self.negotiate("").await;
        assert_eq!(said(self.get(&id).await).await, (200, String::new()));
        assert_eq!(self.post(&id, HELLO).await.status(), 200);
        assert_eq!(said(self.get(&id).await).await, (200, "{}\u{1e}".to_owned()));
        id
    }
}

pub async fn said(response: Response) -> (u16, String) {
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn requests_that_fit_no_connection_are_answered_as_the_official_server_does() {
    let server = server().await;
    let plain = Plain::new(&server, "/hub", &server.phone(PHONE));
    let other = Plain { token: server.phone("+967770000009"), ..plain.clone() };
    let diagnostics = Plain::new(&server, "/hub/diagnostics", &plain.token);
    for response in [plain.get("").await, plain.post("", "x").await, plain.delete("").await] {
        assert_eq!(said(response).await, (400, "Connection ID required".to_owned()));
    }
    let unknown = (404, "No Connection with that ID".to_owned());
    for query in ["?id=x", "?id=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
        assert_eq!(said(plain.get(query).await).await, unknown);
        assert_eq!(said(plain.events(query).await).await, unknown);
        assert_eq!(said(plain.post(query, "x").await).await, unknown);
        assert_eq!(said(plain.delete(query).await).await, unknown);
    }
    // A connection is its owner's, on its hub.
    let id = plain.polling().await;
    for stranger in [&other, &diagnostics] {
        assert_eq!(said(stranger.get(&id).await).await, unknown);
        assert_eq!(said(stranger.post(&id, "x").await).await, unknown);
        assert_eq!(said(stranger.delete(&id).await).await, unknown);
    }
    let nobody = Plain { token: "esh_wrong".to_owned(), ..plain.clone() };
    for response in [nobody.get(&id).await, nobody.post(&id, "x").await, nobody.delete(&id).await] {
        assert_eq!(said(response).await, (401, String::new()));
    }
    // One transport a connection.
    let change = (400, "Cannot change transports mid-connection".to_owned());
    assert_eq!(said(plain.events(&id).await).await, change);
    let id = plain.negotiate("").await;
    let stream = plain.events(&id).await;
    assert_eq!(stream.status(), 200);
    assert_eq!(plain.events(&id).await.status(), StatusCode::CONFLICT);
    assert_eq!(said(plain.get(&id).await).await, change);
    let what = "Cannot terminate this connection using the DELETE endpoint.".to_owned();
    assert_eq!(said(plain.delete(&id).await).await, (400, what));
    let (status, _) = server.request("PUT", "/hub", Some(&plain.token), None).await;
    assert_eq!(status, 405);
}

#[tokio::test]
async fn long_polling_keeps_its_rules() {
    let server = server().await;
    let plain = Plain::new(&server, "/hub/diagnostics", &server.phone(PHONE));
    let id = plain.negotiate("").await;
    let first = plain.get(&id).await;
    assert_eq!(first.headers()["content-length"], "0");
    assert_eq!(first.headers()["cache-control"], "no-cache, no-store");
    // The stream may be cut anywhere, also within the handshake.
    let (head, tail) = HELLO.split_at(9);
    assert_eq!(plain.post(&id, head).await.status(), 200);
    assert_eq!(plain.post(&id, tail).await.status(), 200);
    let answer = plain.get(&id).await;
    assert_eq!(answer.headers()["content-type"], "application/octet-stream");
    assert_eq!(said(answer).await, (200, "{}\u{1e}".to_owned()));
    // A request that is held is answered when there is something to tell.
    let held = tokio::spawn({
        let (plain, id) = (plain.clone(), id.clone());
        async move { said(plain.get(&id).await).await }
    });
    let call = "{\"type\":1,\"invocationId\":\"1\",\"target\":\"Echo\",\"arguments\":[1]}\u{1e}";
    assert_eq!(plain.post(&id, call).await.status(), 200);
    let echo = "{\"type\":3,\"invocationId\":\"1\",\"result\":1}\u{1e}";
    assert_eq!(held.await.unwrap(), (200, echo.to_owned()));
    // What nobody asks for waits, and comes all at once.
    plain.post(&id, &format!("{call}{call}")).await;
    let deadline = Instant::now() + DEADLINE;
    let mut got = String::new();
    while got.len() < 2 * echo.len() {
        assert!(Instant::now() < deadline);
        got.push_str(&said(plain.get(&id).await).await.1);
    }
    assert_eq!(got, format!("{echo}{echo}"));
    // The newer of two requests is held, the older ends.
    let older = tokio::spawn({
        let (plain, id) = (plain.clone(), id.clone());
        async move { said(plain.get(&id).await).await }
    });
    let newer = tokio::spawn({
        let (plain, id) = (plain.clone(), id.clone());
        async move { said(plain.get(&id).await).await }
    });
    let (one, two) = tokio::join!(older, async {
        // Whichever came first is answered; only then is the goodbye said.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(plain.delete(&id).await.status(), StatusCode::ACCEPTED);
        newer.await
    });
    assert_eq!((one.unwrap().0, two.unwrap().0), (204, 204));
    assert_eq!(plain.get(&id).await.status(), 404);
    assert_eq!(plain.post(&id, call).await.status(), 404);
}

#[tokio::test]
async fn event_streams_keep_their_rules() {
    let server = server().await;
    let plain = Plain::new(&server, "/hub/diagnostics", &server.phone(PHONE));
    let id = plain.negotiate("").await;
    let response = plain.events(&id).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "no-cache,no-store");
    let mut events = response.bytes_stream();
    let text = |chunk: Option<reqwest::Result<bytes::Bytes>>| {
        String::from_utf8(chunk.unwrap().unwrap().to_vec()).unwrap()
    };
    assert_eq!(text(events.next().await), ":\r\n");
    plain.post(&id, HELLO).await;
    assert_eq!(text(events.next().await), "data: {}\u{1e}\r\n\r\n");
    plain
        .post(&id, "{\"type\":1,\"invocationId\":\"1\",\"target\":\"Echo\",\"arguments\":[\"a\\nb\"]}\u{1e}")
        .await;
    let expected = "data: {\"type\":3,\"invocationId\":\"1\",\"result\":\"a\\nb\"}\u{1e}\r\n\r\n";
    assert_eq!(text(events.next().await), expected);
    // The client leaves by dropping the stream.
    drop(events);
    let deadline = Instant::now() + DEADLINE;
    while plain.post(&id, "x").await.status() != 404 {
        assert!(Instant::now() < deadline, "the connection lives on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Text only.
    let id = plain.negotiate("").await;
    let body = plain.events(&id).await;
    plain.post(&id, "{\"protocol\":\"messagepack\",\"version\":1}\u{1e}").await;
    let text = body.text().await.unwrap();
    assert!(
        text.contains("Cannot use the 'messagepack' protocol on the current transport."),
        "{text}"
    );
}

#[tokio::test]
async fn browsers_of_listed_origins_may_connect() {
    let listed = [("ESH3AR__HTTP__CORS_ORIGINS", "https://app.example")];
    let server = Server::start_with(&listed).await;
    let token = server.phone(PHONE);
    let request = |method: Method, path: &str| {
        let url = format!("{}{path}", server.base);
        crate::support::http().request(method, url).header("origin", "https://app.example")
    };
    let allowed = request(Method::OPTIONS, "/hub/negotiate").send().await.unwrap();
    assert_eq!(allowed.status(), 204, "before there is a token");
    assert_eq!(allowed.headers()["access-control-allow-methods"], "GET, POST, PUT, PATCH, DELETE");
    // Pages may add headers of their own to all requests of the client.
    let own = request(Method::OPTIONS, "/hub/negotiate")
        .header("access-control-request-headers", "authorization,x-tenant")
        .send()
        .await
        .unwrap();
    let headers: Vec<&str> = own
        .headers()
        .get_all("access-control-allow-headers")
        .iter()
        .map(|value| value.to_str().unwrap())
        .collect();
    let headers = headers.join(",");
    for name in ["authorization", "x-signalr-user-agent", "x-requested-with", "x-tenant"] {
        assert!(headers.contains(name), "{headers}");
    }
    let answer = request(Method::POST, "/hub/negotiate").bearer_auth(&token).send().await.unwrap();
    assert_eq!(answer.headers()["access-control-allow-origin"], "https://app.example");
    assert_eq!(answer.headers()["access-control-allow-credentials"], "true");
    let refused = request(Method::POST, "/hub/negotiate").send().await.unwrap();
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.headers()["access-control-allow-origin"], "https://app.example");
    // Off unless it is asked for.
    let plain = Server::start().await;
    let token = plain.phone(PHONE);
    let path = "/hub/diagnostics/negotiate?negotiateVersion=1";
    assert_eq!(plain.request("POST", path, Some(&token), None).await.0, 404);
}

/// The goodbye of each transport, for a reason that forbids to come back.
async fn goodbyes(server: &Server, token: &str, meanwhile: impl FnOnce()) -> Duration {
    let plain = Plain::new(server, "/hub", token);
    let mut socket = server.hub(token).await;
    let polls = plain.polling().await;
    let events = plain.negotiate("").await;
    let stream = plain.events(&events).await;
    assert_eq!(plain.post(&events, HELLO).await.status(), 200);
    // Before: what a command does may take longer than an end waits to be fetched.
    let poller = Plain::new(server, "/hub", token);
    let polled = tokio::spawn(async move { said(poller.get(&polls).await).await.1 });
    meanwhile();
    let begun = Instant::now();
    let (polled, streamed, closed) = tokio::join!(
        async { polled.await.unwrap() },
        async { stream.text().await.unwrap() },
        async {
            loop {
                match tokio::time::timeout(DEADLINE, socket.next()).await.unwrap() {
                    Ok(esh3ar::client::HubEvent::Close { error, allow_reconnect }) => {
                        return (error.unwrap(), allow_reconnect);
                    }
                    Ok(_) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        },
    );
    let took = begun.elapsed();
    assert!(closed.0.contains("token") && !closed.1, "{closed:?}");
    for text in [polled, streamed] {
        assert!(text.contains("{\"type\":7,\"error\":\"The token "), "{text}");
        assert!(!text.contains("allowReconnect"), "{text}");
    }
    assert_eq!(plain.post("/negotiate?negotiateVersion=1", "").await.status(), 401);
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_closes_its_connections_within_a_second_and_no_others() {
    let server = server().await;
    let first = server.phone(PHONE);
    let second = server.token(&["--mobile", PHONE]);
    let mut other = server.hub(&first).await;
    let listed = run_json(&server.data(), &["token", "list", "--mobile", PHONE]);
    let newest = listed[0]["id"].as_str().unwrap().to_owned();
    let data = server.data();
    let took = goodbyes(&server, &second, move || {
        assert!(run(&data, &["token", "revoke", &newest]).status.success());
    })
    .await;
    assert!(took < Duration::from_millis(1500), "{took:?}");
    assert_eq!(other.call("Echo", vec![json!(1)], DEADLINE).await.unwrap(), json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_user_is_sent_away_and_an_expired_token_too() {
    let server = server().await;
    let shop = server.user("shop", "SendMessages");
    let mut hub = server.hub(&shop).await;
    assert_eq!(hub.call("Echo", vec![json!(1)], DEADLINE).await.unwrap(), json!(1));
    run_json(&server.data(), &["user", "disable", "shop", "--yes"]);
    let goodbye = loop {
        let event = tokio::time::timeout(DEADLINE, hub.next()).await.unwrap().unwrap();
        if let esh3ar::client::HubEvent::Close { allow_reconnect, .. } = event {
            break allow_reconnect;
        }
    };
    assert!(!goodbye);
    server.phone(PHONE);
    let short = server.token(&["--mobile", PHONE, "--expires", "4s"]);
    goodbyes(&server, &short, || {}).await;
}

/// What waits for a client that has just connected comes after the answer to its handshake, and not in one
/// message with it: some clients take that for a part of the answer.
#[tokio::test]
async fn the_answer_to_the_handshake_comes_alone() {
    let server = Server::start().await;
    let token = server.phone(PHONE);
    let shop = server.user("shop", "SendMessages");
    let sent = server.send(&shop, PHONE, "waits").await;
    let plain = Plain::new(&server, "/hub", &token);
    let is_page = |text: &str| text.contains("ReceivePendingMessages") && text.contains(&sent);

    let id = plain.negotiate("").await;
    assert_eq!(said(plain.get(&id).await).await, (200, String::new()));
    assert_eq!(plain.post(&id, HELLO).await.status(), 200);
    assert_eq!(said(plain.get(&id).await).await, (200, "{}\u{1e}".to_owned()));
    let (status, page) = said(plain.get(&id).await).await;
    assert!(status == 200 && is_page(&page), "{page}");

    let id = plain.negotiate("").await;
    let mut events = plain.events(&id).await.bytes_stream();
    assert_eq!(plain.post(&id, HELLO).await.status(), 200);
    let mut heard = String::new();
    while !is_page(&heard) {
        heard.push_str(&String::from_utf8_lossy(&events.next().await.unwrap().unwrap()));
    }
    assert!(heard.starts_with(":\r\ndata: {}\u{1e}\r\n\r\ndata: "), "{heard}");

    let host = server.base.strip_prefix("http://").unwrap();
    for protocol in ["json", "messagepack"] {
        let url = format!("ws://{host}/hub?access_token={token}");
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let hello = format!("{{\"protocol\":\"{protocol}\",\"version\":1}}\u{1e}");
        let frame = tokio_tungstenite::tungstenite::Message::text(hello);
        futures_util::SinkExt::send(&mut socket, frame).await.unwrap();
        let first = socket.next().await.unwrap().unwrap().into_data();
        assert_eq!(first, "{}\u{1e}", "{protocol}");
        let second = socket.next().await.unwrap().unwrap().into_data();
        assert!(is_page(&String::from_utf8_lossy(&second)), "{protocol}");
    }
}

/// A client that waits for the answer of a post before it asks again is not kept waiting by what waits for it.
#[tokio::test]
async fn a_post_is_answered_without_a_poll() {
    let server = server().await;
    let plain = Plain::new(&server, "/hub/diagnostics", &server.phone(PHONE));
    let id = plain.polling().await;
    let text = "x".repeat(60_000);
    let begun = Instant::now();
    for n in 0..6 {
        let call = json!({ "type": 1, "invocationId": n.to_string(), "target": "Echo", "arguments": [text] });
        let call = format!("{call}\u{1e}");
        let posted = plain.post(&id, &call);
        let posted = tokio::time::timeout(Duration::from_secs(8), posted).await;
        assert_eq!(posted.expect("an answer without a poll").status(), 200, "{n}");
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    let mut heard = String::new();
    while heard.matches("\"type\":3").count() < 6 {
        let (status, more) = said(plain.get(&id).await).await;
        assert_eq!(status, 200, "{more}");
        heard.push_str(&more);
    }
    for n in 0..6 {
        assert!(heard.contains(&format!("\"invocationId\":\"{n}\"")), "{n}");
    }
}

#[tokio::test]
async fn a_held_poll_does_not_hold_up_the_end() {
    let mut server = Server::start().await;
    let plain = Plain::new(&server, "/hub", &server.phone(PHONE));
    let id = plain.polling().await;
    let held = tokio::spawn({
        let (plain, id) = (plain.clone(), id.clone());
        async move { said(plain.get(&id).await).await }
    });
    // A call is answered to the poll that is held, and another is held then.
    let call = "{\"type\":1,\"invocationId\":\"1\",\"target\":\"Echo\",\"arguments\":[1]}\u{1e}";
    plain.post(&id, call).await;
    assert!(held.await.unwrap().1.contains("\"result\":1"));
    // Of two polls the later one is held, and ends the other: the one that is left has come.
    let polls = [(); 2].map(|()| {
        let (plain, id) = (plain.clone(), id.clone());
        tokio::spawn(async move { said(plain.get(&id).await).await })
    });
    let (_, _, mut held) = futures_util::future::select_all(polls).await;
    let held = held.remove(0);
    let begun = Instant::now();
    server.terminate();
    let goodbye = held.await.unwrap();
    let answered = begun.elapsed();
    assert_eq!(goodbye, (200, "{\"type\":7,\"allowReconnect\":true}\u{1e}".to_owned()));
    assert!(answered < Duration::from_secs(2), "{answered:?}");
    assert_eq!(server.ended().await, Some(0));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn addresses_are_matched_as_the_official_server_does() {
    let server = server().await;
    let token = server.phone(PHONE);
    for (path, hub) in
        [("/hub/", "/hub/"), ("/HUB/", "/Hub/"), ("/hub/Diagnostics/", "/Hub/diagnostics/")]
    {
        let plain = Plain::new(&server, hub, &token);
        let (status, answer) = server
            .request("POST", &format!("{path}negotiate?negotiateVersion=1"), Some(&token), None)
            .await;
        assert_eq!(status, 200, "{path}");
        let id = format!("?id={}", answer["connectionToken"].as_str().unwrap());
        assert_eq!(said(plain.get(&id).await).await, (200, String::new()), "{path}");
        assert_eq!(plain.post(&id, HELLO).await.status(), 200, "{path}");
        assert_eq!(said(plain.get(&id).await).await.1, "{}\u{1e}", "{path}");
        assert_eq!(plain.delete(&id).await.status(), 202, "{path}");
    }
    let shop = server.user("shop", "SendMessages");
    let body = json!({ "recipientPhoneNumber": "967771234567", "messageContent": "x" }).to_string();
    let send = "/api/app/message/send-one-way-message";
    let usual = server.request("POST", send, Some(&shop), Some(&body)).await;
    for path in ["/Api/App/Message/Send-One-Way-Message", "/api/app/message/send-one-way-message/"]
    {
        let other = server.request("POST", path, Some(&shop), Some(&body)).await;
        assert_eq!(other.0, usual.0, "{path}: {} {}", other.1, usual.1);
        assert_ne!(other.0, 404, "{path}");
    }
    for path in ["/health-status", "/Health-Status/"] {
        assert_eq!(server.request("GET", path, None, None).await.0, 200, "{path}");
    }
    // The form of errors there, whatever the case.
    let pending = "/API/app/Message/pending-messages";
    let (status, refused) = server.request("GET", pending, None, None).await;
    assert!(status == 401 && refused["error"].is_object(), "{status} {refused}");
}
