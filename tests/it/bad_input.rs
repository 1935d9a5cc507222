//! What must not get in: each a clear 4xx, and nothing stored.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::Server;

const PHONE: &str = "+967771234567";

#[tokio::test]
async fn every_bad_message_is_refused_and_nothing_is_stored() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let long = "x".repeat(10_001);
    let message = |field: &str, value: Value| {
        let mut body = json!({ "to": PHONE, "content": "x" });
        body[field] = value;
        body.to_string()
    };
    let cases: Vec<(&str, String, u16, &str)> = vec![
        ("no JSON", "{".into(), 400, "invalid_json"),
        ("nothing", String::new(), 400, "invalid_json"),
        ("an array", "[]".into(), 400, "invalid_body"),
        (
            "not UTF-8 escapes",
            r#"{"to":"+967771234567","content":"\ud800"}"#.into(),
            400,
            "invalid_json",
        ),
        ("unknown field", message("colour", json!("red")), 400, "unknown_field"),
        ("no content", json!({ "to": PHONE }).to_string(), 400, "invalid_body"),
        ("empty content", message("content", json!("")), 400, "validation_failed"),
        ("long content", message("content", json!(long)), 400, "validation_failed"),
        ("long subject", message("subject", json!("s".repeat(201))), 400, "validation_failed"),
        ("NUL", message("content", json!("a\0b")), 400, "validation_failed"),
        ("NUL subject", message("subject", json!("\0")), 400, "validation_failed"),
        ("NUL number", message("to", json!("+967771234567\0")), 400, "validation_failed"),
        ("no number", message("to", json!("")), 400, "validation_failed"),
        ("letters", message("to", json!("call me")), 400, "validation_failed"),
        ("short number", message("to", json!("+96777")), 400, "validation_failed"),
        ("no country", message("to", json!("771234567")), 400, "validation_failed"),
        ("number as number", message("to", json!(967_771_234_567_u64)), 400, "invalid_body"),
        ("priority", message("priority", json!("urgent")), 400, "validation_failed"),
        ("content type", message("contentType", json!("html")), 400, "validation_failed"),
        ("media", message("attachments", json!(["0"])), 400, "validation_failed"),
        ("deep JSON", format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)), 400, "invalid_body"),
        (
            "JSON that is none",
            json!({ "to": PHONE, "content": "{", "contentType": "json" }).to_string(),
            400,
            "validation_failed",
        ),
        ("too large", message("content", json!("x".repeat(300_000))), 413, "body_too_large"),
    ];
    for (what, body, status, code) in &cases {
        let (got, problem) =
            server.request("POST", "/api/v1/messages", Some(&shop), Some(body)).await;
        assert_eq!((got, problem["code"].as_str()), (*status, Some(*code)), "{what}: {problem}");
        assert_eq!(problem["status"], *status);
        assert!(!problem["detail"].as_str().unwrap().is_empty());
    }
    let (_, problem) = server
        .request("POST", "/api/v1/messages", Some(&shop), Some(&message("content", json!(long))))
        .await;
    assert_eq!(problem["errors"]["content"][0]["code"], "too_long");
    // At the limit it still goes through, also in characters of four bytes.
    for unit in ["x", "🙂"] {
        let body = message("content", json!(unit.repeat(10_000)));
        let (status, _) =
            server.request("POST", "/api/v1/messages", Some(&shop), Some(&body)).await;
        assert_eq!(status, 202, "{unit}");
    }
    let database = server.database().await;
    let count: i64 = database.query_one("SELECT count(*) FROM messages", &[]).await.unwrap().get(0);
    assert_eq!(count, 2, "only the two good ones are stored");
    assert!(!server.log().contains(PHONE), "a phone number is in the log");
    assert!(!server.log().contains(&shop), "a token is in the log");
}

/// A connection that is closed while the client still sends is reset, and the client sees no answer.
#[tokio::test]
async fn who_sends_a_body_that_is_refused_gets_the_answer() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let large = json!({ "to": PHONE, "content": "x".repeat(900_000) }).to_string();
    let strange = "not-a-token".to_owned();
    for _ in 0..20 {
        for (token, status) in [(&shop, 413), (&strange, 401)] {
            let (got, _) =
                server.request("POST", "/api/v1/messages", Some(token), Some(&large)).await;
            assert_eq!(got, status);
        }
    }
    // Who asks first need not send it.
    let mut tcp =
        tokio::net::TcpStream::connect(server.base.trim_start_matches("http://")).await.unwrap();
    let asked = format!(
        "POST /api/v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {shop}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        large.len()
    );
    tcp.write_all(asked.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    tcp.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn bad_queries_headers_and_paths_are_refused() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    for (path, status) in [
        ("/api/v1/messages?limit=0", 400),
        ("/api/v1/messages?limit=201", 400),
        ("/api/v1/messages?limit=x", 400),
        ("/api/v1/messages?after=nonsense", 400),
        ("/api/v1/messages?status=lost", 400),
        ("/api/v1/messages?type=two", 400),
        ("/api/v1/messages?to=%ff", 400),
        ("/api/v1/messages/not-an-id", 404),
        ("/api/v1/messages/01a20a1b-7317-71ae-8f98-eacc86509605", 404),
        ("/api/v1/nothing", 404),
        ("/api/v1/messages/a/b/c", 404),
        ("/nothing", 404),
    ] {
        let (got, problem) = server.request("GET", path, Some(&shop), None).await;
        assert_eq!(got, status, "{path}: {problem}");
        assert!(problem["code"].is_string(), "{path}: {problem}");
    }
    let (status, problem) = server.request("DELETE", "/api/v1/messages", Some(&shop), None).await;
    assert_eq!((status, problem["code"].as_str()), (405, Some("method_not_allowed")));
    let post = |name: &'static str, value: String| {
        let url = format!("{}/api/v1/messages", server.base);
        let shop = shop.clone();
        async move {
            let request = crate::support::http().post(url).bearer_auth(shop);
            let request = request.body(json!({ "to": PHONE, "content": "x" }).to_string());
            request.header(name, value).send().await.unwrap().status().as_u16()
        }
    };
    assert_eq!(post("Idempotency-Key", "k".repeat(256)).await, 400);
    assert_eq!(post("Content-Type", "text/xml".into()).await, 415);
    assert_eq!(post("Content-Type", "application/json; charset=utf-8".into()).await, 202);
}

/// What no client library would send.
#[tokio::test]
async fn raw_nonsense_is_answered_or_cut_and_the_server_lives() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let address = server.base.strip_prefix("http://").unwrap().to_owned();
    let auth = format!("Authorization: Bearer {shop}\r\n");
    let head = "POST /api/v1/messages HTTP/1.1\r\nHost: x\r\n";
    let both = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    for (raw, wanted) in [
        ("nonsense\r\n\r\n".to_owned(), Some(400)),
        ("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n".to_owned(), Some(400)),
        (format!("{head}{auth}{both}"), None),
        (format!("{head}{auth}Content-Length: 99999999\r\n\r\n"), Some(413)),
        (format!("{head}Content-Length: 99999999\r\n\r\n"), Some(401)),
        (format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(70_000)), None),
        ("\0\0\0\0".to_owned(), None),
    ] {
        let mut socket = tokio::net::TcpStream::connect(&address).await.unwrap();
        let _ = socket.write_all(raw.as_bytes()).await;
        let mut answer = vec![0; 4096];
        let read = tokio::time::timeout(crate::support::DEADLINE, socket.read(&mut answer));
        let read = read.await.expect("an answer or an end").unwrap_or(0);
        let line = String::from_utf8_lossy(&answer[..read]).into_owned();
        let shown: String = raw.chars().take(80).collect();
        if let Some(wanted) = wanted {
            assert!(line.starts_with(&format!("HTTP/1.1 {wanted}")), "{shown}: {line}");
        } else {
            assert!(!line.starts_with("HTTP/1.1 2"), "{shown}: {line}");
        }
    }
    let database = server.database().await;
    let count: i64 = database.query_one("SELECT count(*) FROM messages", &[]).await.unwrap().get(0);
    assert_eq!(count, 0);
    server.send(&shop, PHONE, "still here").await;
}
