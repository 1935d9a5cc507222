//! The hub with what no client library would send.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message as Frame, client::IntoClientRequest as _},
};

use crate::support::{DEADLINE, Server, id};

const PHONE: &str = "+967771234567";

pub struct Raw {
    socket: WebSocketStream<TcpStream>,
}

impl Raw {
    async fn connect(server: &Server, query: &str) -> Result<Raw, tungstenite::Error> {
        let host = server.base.strip_prefix("http://").unwrap();
        let request = format!("ws://{host}/hub{query}").into_client_request().unwrap();
        let tcp = TcpStream::connect(host).await.unwrap();
        Ok(Raw { socket: client_async(request, tcp).await?.0 })
    }

    pub async fn open(server: &Server, token: &str) -> Raw {
        let mut raw = Raw::connect(server, &format!("?access_token={token}")).await.unwrap();
        raw.say("{\"protocol\":\"json\",\"version\":1}\u{1e}").await;
        assert_eq!(raw.hear().await.unwrap(), "{}\u{1e}");
        raw
    }

    pub async fn say(&mut self, text: &str) {
        self.socket.send(Frame::text(text)).await.unwrap();
    }

    /// The next text frame; `None` at the end.
    pub async fn hear(&mut self) -> Option<String> {
        let next = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Frame::Text(text))) => return Some(text.to_string()),
                    Some(Ok(Frame::Close(_))) | None | Some(Err(_)) => return None,
                    Some(Ok(_)) => {}
                }
            }
        };
        tokio::time::timeout(DEADLINE, next).await.expect("something in time")
    }

    /// Reads to the end.
    pub async fn ended(&mut self) {
        while self.hear().await.is_some() {}
    }

    pub async fn record(&mut self) -> Option<Value> {
        let text = self.hear().await?;
        Some(serde_json::from_str(text.trim_end_matches('\u{1e}')).unwrap())
    }
}

fn status(result: Result<Raw, tungstenite::Error>) -> u16 {
    match result {
        Err(tungstenite::Error::Http(response)) => response.status().as_u16(),
        Err(other) => panic!("{other}"),
        Ok(_) => 101,
    }
}

#[tokio::test]
async fn negotiation_and_upgrades_are_answered_as_clients_expect() {
    let server = Server::start().await;
    let phone = server.phone(PHONE);
    let other = server.phone("+967770000009");
    let negotiate = |query: &'static str, token: String| {
        let url = format!("{}/hub/negotiate{query}", server.base);
        async move {
            let request = crate::support::http().post(url).bearer_auth(token);
            let response = request.send().await.unwrap();
            (response.status().as_u16(), response.text().await.unwrap())
        }
    };
    let (status_code, text) = negotiate("?negotiateVersion=1", phone.clone()).await;
    assert_eq!(status_code, 200);
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["negotiateVersion"], 1);
    assert_ne!(answer["connectionId"], answer["connectionToken"]);
    assert_eq!(answer["availableTransports"][0]["transport"], "WebSockets");
    let token = answer["connectionToken"].as_str().unwrap().to_owned();

    // The public id is no credential, another user's token neither, and each token opens once.
    let public = answer["connectionId"].as_str().unwrap();
    let with = |id: &str, token: &str| format!("?id={id}&access_token={token}");
    assert_eq!(status(Raw::connect(&server, &with(public, &phone)).await), 404);
    assert_eq!(status(Raw::connect(&server, &with("nothing", &phone)).await), 404);
    let first = Raw::connect(&server, &with(&token, &phone)).await.unwrap();
    assert_eq!(status(Raw::connect(&server, &with(&token, &phone)).await), 409);
    drop(first);
    // It was no connection that may come back.
    let deadline = Instant::now() + DEADLINE;
    while status(Raw::connect(&server, &with(&token, &phone)).await) != 404 {
        assert!(Instant::now() < deadline);
    }
    let (_, text) = negotiate("?negotiateVersion=1", phone.clone()).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    let token = answer["connectionToken"].as_str().unwrap();
    assert_eq!(status(Raw::connect(&server, &with(token, &other)).await), 404);

    let (_, old) = negotiate("", phone.clone()).await;
    let old: Value = serde_json::from_str(&old).unwrap();
    assert_eq!(old["negotiateVersion"], 0);
    assert!(old.get("connectionToken").is_none());
    let (code, text) = negotiate("?negotiateVersion=x", phone.clone()).await;
    assert_eq!(code, 200);
    assert!(text.contains("non-integer"), "{text}");

    // 401 with an empty body, before anything is made.
    for bad in ["", "esh_nonsense"] {
        let (code, text) = negotiate("?negotiateVersion=1", bad.to_owned()).await;
        assert_eq!((code, text.as_str()), (401, ""));
        let query = format!("?access_token={bad}");
        assert_eq!(status(Raw::connect(&server, &query).await), 401);
    }
    assert_eq!(server.request("GET", "/hub", Some(&phone), None).await.0, 400);
    assert_eq!(server.request("GET", "/hub?id=x", Some(&phone), None).await.0, 404);
    assert_eq!(server.request("PUT", "/hub", Some(&phone), None).await.0, 405);
    assert_eq!(server.request("GET", "/hub/else", Some(&phone), None).await.0, 404);
    // The token in the query opens the hub only.
    let path = format!("/api/v1/messages?access_token={phone}");
    assert_eq!(server.request("GET", &path, None, None).await.0, 401);
}

#[tokio::test]
async fn frames_may_be_cut_and_joined_anywhere() {
    let server = Server::start().await;
    let phone = server.phone(PHONE);
    let mut raw = Raw::connect(&server, &format!("?access_token={phone}")).await.unwrap();
    let echo = |n: u64| {
        let call =
            json!({ "type": 1, "invocationId": n.to_string(), "target": "echo", "arguments": [n] });
        format!("{call}\u{1e}")
    };
    let stream = format!("{{\"protocol\":\"json\",\"version\":1}}\u{1e}{}{}", echo(1), echo(2));
    for part in stream.as_bytes().chunks(7) {
        let part = String::from_utf8(part.to_vec()).unwrap();
        raw.say(&part).await;
    }
    raw.say(&format!("{}{}{}", echo(3), echo(4), echo(5))).await;
    let mut results = Vec::new();
    while results.len() < 5 {
        let text = raw.hear().await.unwrap();
        assert!(text.ends_with('\u{1e}'), "frames hold whole messages: {text}");
        for record in text.split('\u{1e}').filter(|record| !record.is_empty()) {
            let record: Value = serde_json::from_str(record).unwrap();
            if record["type"] == 3 {
                results.push(record["result"].as_u64().unwrap());
            }
        }
    }
    assert_eq!(results, [1, 2, 3, 4, 5], "in order");
}

#[tokio::test]
async fn nonsense_ends_the_connection_with_a_reason_and_the_server_lives() {
    let server = Server::start().await;
    let phone = server.phone(PHONE);
    for (text, wanted) in [
        ("{\u{1e}".to_owned(), "Error reading JSON."),
        ("{\"type\":1,\"arguments\":[]}\u{1e}".to_owned(), "Missing required property 'target'."),
        (format!("{}\u{1e}", "x".repeat(300_000)), "maximum message size of 262144B"),
    ] {
        let mut raw = Raw::open(&server, &phone).await;
        raw.say(&text).await;
        let close = raw.record().await.unwrap();
        assert_eq!(close["type"], 7);
        assert_eq!(close["allowReconnect"], true);
        let error = close["error"].as_str().unwrap();
        assert!(error.contains(wanted), "{error}");
        assert_eq!(raw.hear().await, None);
    }
    // What is unknown is ignored, or answered, and the connection goes on.
    let mut raw = Raw::open(&server, &phone).await;
    raw.say("{\"type\":99}\u{1e}{\"type\":1,\"target\":\"Nothing\",\"arguments\":[]}\u{1e}").await;
    let call = json!({ "type": 1, "invocationId": "7", "target": "Nothing", "arguments": [] });
    raw.say(&format!("{call}\u{1e}")).await;
    let answer = raw.record().await.unwrap();
    assert_eq!(answer["invocationId"], "7");
    assert!(answer["error"].as_str().unwrap().contains("Method does not exist."));
    for bad in [json!([]), json!(["x"]), json!([[1]]), json!([null]), json!([[], []])] {
        let call =
            json!({ "type": 1, "invocationId": "8", "target": "Acknowledge", "arguments": bad });
        raw.say(&format!("{call}\u{1e}")).await;
        let answer = raw.record().await.unwrap();
        assert!(answer["error"].is_string(), "{bad}: {answer}");
    }
    // A handshake that asks for what is not there.
    for (hello, wanted) in [
        ("{\"protocol\":\"smoke\",\"version\":1}", "The protocol 'smoke' is not supported."),
        ("{\"protocol\":\"json\",\"version\":9}", "does not support version 9"),
    ] {
        let mut raw = Raw::connect(&server, &format!("?access_token={phone}")).await.unwrap();
        raw.say(&format!("{hello}\u{1e}")).await;
        let answer = raw.record().await.unwrap();
        assert!(answer["error"].as_str().unwrap().contains(wanted), "{answer}");
        assert_eq!(raw.hear().await, None);
    }
    // A frame beyond every limit.
    let mut raw = Raw::open(&server, &phone).await;
    let _ = raw.socket.send(Frame::text("y".repeat(10_000_000))).await;
    while raw.hear().await.is_some() {}
    let mut raw = Raw::open(&server, &phone).await;
    raw.say("{\"type\":7}\u{1e}").await;
    assert_eq!(raw.record().await.unwrap()["type"], 7, "a goodbye is answered");
    assert_eq!(server.request("GET", "/health", None, None).await.0, 200);
}

#[tokio::test]
async fn one_connection_more_than_allowed_closes_the_oldest() {
    let limits = [
        ("ESH3AR__LIMITS__CONNECTIONS_PER_USER", "2"),
        ("ESH3AR__LIMITS__CONNECTIONS_PER_BUSINESS_USER", "3"),
    ];
    let server = Server::start_with(&limits).await;
    let phone = server.phone(PHONE);
    let mut oldest = Raw::open(&server, &phone).await;
    let _second = Raw::open(&server, &phone).await;
    let mut third = Raw::open(&server, &phone).await;
    let close = oldest.record().await.unwrap();
    assert_eq!(close["type"], 7);
    assert!(close.get("allowReconnect").is_none_or(|allow| allow == false), "{close}");
    let shop = server.user("shop", "SendMessages");
    let sent = server.send(&shop, PHONE, "for the others").await;
    let message = third.record().await.unwrap();
    assert_eq!(id(&message["arguments"][0]), sent);
    // A business user has agents, and a limit of its own.
    let mut agents = Vec::new();
    for _ in 0..4 {
        agents.push(Raw::open(&server, &shop).await);
    }
    assert_eq!(agents[0].record().await.unwrap()["type"], 7);
    agents[1].say("{\"type\":1,\"invocationId\":\"1\",\"target\":\"Acknowledge\",\"arguments\":[[]]}\u{1e}").await;
    assert_eq!(agents[1].record().await.unwrap()["type"], 3, "the second stays");
}

#[tokio::test]
async fn the_server_pings_and_cuts_who_falls_silent() {
    let server = Server::start().await;
    let phone = server.phone(PHONE);
    let mut raw = Raw::open(&server, &phone).await;
    raw.say("{\"type\":6}\u{1e}").await;
    let begun = Instant::now();
    let mut pings = 0;
    loop {
        let Some(record) = raw.record().await else { panic!("no goodbye") };
        match record["type"].as_u64() {
            Some(6) => pings += 1,
            Some(7) => {
                assert_eq!(record["allowReconnect"], true);
                break;
            }
            _ => panic!("{record}"),
        }
    }
    let waited = begun.elapsed();
    assert!(pings >= 1, "pinged");
    assert!(waited >= Duration::from_secs(29) && waited < Duration::from_secs(45), "{waited:?}");
}

/// A client that comes back before the server knows that its old socket is lost takes its place.
#[tokio::test]
async fn a_new_socket_takes_over_a_half_open_one() {
    let server = Server::start_with(&[("ESH3AR__HTTP__DIAGNOSTICS_HUB", "true")]).await;
    let phone = server.phone(PHONE);
    let other = server.phone("+967770000009");
    let path = "/hub/diagnostics/negotiate?negotiateVersion=1&useStatefulReconnect=true";
    let (_, answer) = server.request("POST", path, Some(&phone), None).await;
    assert_eq!(answer["useStatefulReconnect"], true);
    let token = answer["connectionToken"].as_str().unwrap();
    let query = format!("/diagnostics?id={token}&access_token={phone}");
    let mut old = Raw::connect(&server, &query).await.unwrap();
    old.say("{\"protocol\":\"json\",\"version\":2}\u{1e}").await;
    assert_eq!(old.hear().await.unwrap(), "{}\u{1e}");
    let call = |id: &str| {
        format!(
            "{{\"type\":1,\"invocationId\":\"{id}\",\"target\":\"Calls\",\"arguments\":[]}}\u{1e}"
        )
    };
    old.say(&call("1")).await;
    assert_eq!(old.record().await.unwrap()["result"], 1);
    // Half a call is on its way when the network falls silent; nobody closes anything.
    old.say(call("2").get(..20).unwrap()).await;
    let stolen = format!("/diagnostics?id={token}&access_token={other}");
    assert_eq!(status(Raw::connect(&server, &stolen).await), 404, "somebody else's connection");
    let mut new = Raw::connect(&server, &query).await.unwrap();
    // The answer was not acknowledged, so it comes again, announced with its number.
    let again = new.hear().await.unwrap();
    let records: Vec<Value> = again
        .split_terminator('\u{1e}')
        .map(|record| serde_json::from_str(record).unwrap())
        .collect();
    assert_eq!(records[0], json!({ "type": 9, "sequenceId": 1 }));
    assert_eq!((&records[1]["invocationId"], &records[1]["result"]), (&json!("1"), &json!(1)));
    // The client begins at its first call, which is not done twice, and goes on with the second.
    let replay = format!("{{\"type\":9,\"sequenceId\":1}}\u{1e}{}{}", call("1"), call("2"));
    new.say(&replay).await;
    let answer = new.record().await.unwrap();
    assert_eq!((&answer["invocationId"], &answer["result"]), (&json!("2"), &json!(2)));
    assert_eq!(new.record().await.unwrap(), json!({ "type": 8, "sequenceId": 2 }));
    assert!(old.hear().await.is_none(), "the old socket is closed");
}
