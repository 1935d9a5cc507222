//! Which web pages may call the server, and which host a request may name.

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::{Method, Response};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{DEADLINE, Server, http};

const PHONE: &str = "+967771234567";
const OURS: &str = "https://app.example.com";

async fn asked(server: &Server, method: Method, path: &str, origin: &str, token: &str) -> Response {
    let request = http().request(method, format!("{}{path}", server.base));
    request.header("origin", origin).bearer_auth(token).send().await.unwrap()
}

fn header(answer: &Response, name: &str) -> Option<String> {
    Some(answer.headers().get(name)?.to_str().unwrap().to_owned())
}

/// The status line that a raw request gets.
async fn raw(server: &Server, request: &str) -> String {
    raw_at(&server.base, request).await
}

/// The same from another listener.
async fn raw_at(base: &str, request: &str) -> String {
    let address = base.trim_start_matches("http://");
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = tokio::time::timeout(DEADLINE, socket.read(&mut answer)).await;
    let read = read.expect("an answer").unwrap_or(0);
    let text = String::from_utf8_lossy(&answer[..read]).into_owned();
    text.lines().next().unwrap_or_default().to_owned()
}

/// A handshake of a page, or of an app when `origin` is empty.
async fn upgraded(server: &Server, path: &str, origin: &str, token: &str) -> String {
    let origin = if origin.is_empty() { String::new() } else { format!("Origin: {origin}\r\n") };
    upgraded_with(server, path, &origin, token).await
}

/// A handshake with these lines.
async fn upgraded_with(server: &Server, path: &str, lines: &str, token: &str) -> String {
    let host = server.base.trim_start_matches("http://");
    let request = format!(
        "GET {path}?access_token={token} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n"
    );
    raw(server, &request).await
}

const PATHS: [(Method, &str); 3] = [
    (Method::POST, "/hub/negotiate?negotiateVersion=1"),
    (Method::GET, "/api/v1/messages"),
    (Method::POST, "/online-mobile-user/negotiate"),
];

#[tokio::test]
async fn without_a_list_no_page_of_another_origin_may_call() {
    let server = Server::start().await;
    let token = server.phone(PHONE);
    for (method, path) in PATHS {
        let answer = asked(&server, method, path, OURS, &token).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(header(&answer, "access-control-allow-origin"), None, "{path}");
        assert_eq!(header(&answer, "access-control-allow-credentials"), None, "{path}");
        let preflight = asked(&server, Method::OPTIONS, path, OURS, "").await;
        assert_eq!(preflight.status(), 403, "{path}");
        assert!(preflight.text().await.unwrap().contains("origin_not_allowed"));
    }
    for path in ["/hub", "/online-mobile-user"] {
        assert!(upgraded(&server, path, OURS, &token).await.contains(" 403 "), "{path}");
        assert!(upgraded(&server, path, "null", &token).await.contains(" 403 "), "{path}");
        // Apps name no origin, or the server's own.
        assert!(upgraded(&server, path, "", &token).await.contains(" 101 "), "{path}");
        assert!(upgraded(&server, path, &server.base, &token).await.contains(" 101 "), "{path}");
    }
}

#[tokio::test]
async fn listed_pages_may_call_with_credentials_and_any_without() {
    let listed = Server::start_with(&[("ESH3AR__HTTP__CORS_ORIGINS", OURS)]).await;
    let any = Server::start_with(&[("ESH3AR__HTTP__CORS_ORIGINS", "*")]).await;
    for (server, origin, wanted) in [
        (&listed, OURS, Some((OURS, true))),
        (&listed, "https://other.example", None),
        (&listed, "https://app.example.com.other.example", None),
        (&listed, "http://app.example.com", None),
        (&any, "https://other.example", Some(("*", false))),
    ] {
        let token = server.phone(PHONE);
        for (method, path) in PATHS {
            let preflight = asked(server, Method::OPTIONS, path, origin, "").await;
            assert_eq!(preflight.status().as_u16(), if wanted.is_some() { 204 } else { 403 });
            let answer = asked(server, method, path, origin, &token).await;
            let credentials = header(&answer, "access-control-allow-credentials");
            assert_eq!(
                header(&answer, "access-control-allow-origin").as_deref(),
                wanted.map(|(shown, _)| shown),
                "{origin} {path}"
            );
            assert_eq!(
                credentials.is_some(),
                wanted.is_some_and(|(_, with)| with),
                "{origin} {path}"
            );
            assert!(header(&answer, "vary").unwrap().contains("Origin"), "{origin} {path}");
        }
        let line = upgraded(server, "/hub", origin, &token).await;
        assert!(
            line.contains(if wanted.is_some() { " 101 " } else { " 403 " }),
            "{origin}: {line}"
        );
    }
}

/// What the official client of a browser does over each transport without WebSockets, and what its page may see.
#[tokio::test]
async fn pages_may_use_event_streams_and_long_polling_and_see_what_they_need() {
    let server = Server::start_with(&[("ESH3AR__HTTP__CORS_ORIGINS", OURS)]).await;
    let token = server.phone(PHONE);
    let ask = |method: Method, path: String, origin: &'static str, accept: &'static str| {
        let request = http().request(method, format!("{}{path}", server.base));
        request.header("origin", origin).header("accept", accept).bearer_auth(&token).send()
    };
    for accept in ["text/event-stream", "*/*"] {
        for (origin, wanted) in [(OURS, Some(OURS)), ("https://other.example", None)] {
            let path = "/hub/negotiate?negotiateVersion=1".to_owned();
            let answer = ask(Method::POST, path, origin, "*/*").await.unwrap();
            let answer: Value = answer.json().await.unwrap();
            let path = format!("/hub?id={}", answer["connectionToken"].as_str().unwrap());
            for method in [Method::GET, Method::POST, Method::DELETE] {
                let answer = ask(method.clone(), path.clone(), origin, accept).await.unwrap();
                let what = format!("{accept} {origin} {method} {}", answer.status());
                let shown = header(&answer, "access-control-allow-origin");
                assert_eq!(shown.as_deref(), wanted, "{what}");
                let with = header(&answer, "access-control-allow-credentials");
                assert_eq!(with.as_deref(), wanted.map(|_| "true"), "{what}");
            }
        }
    }
    // Refusals too: a page shows them, or waits.
    let refused = asked(&server, Method::GET, "/api/v1/messages", OURS, "esh_wrong").await;
    assert_eq!(refused.status(), 401);
    assert_eq!(header(&refused, "access-control-allow-origin").as_deref(), Some(OURS));
    let exposed = header(&refused, "access-control-expose-headers").unwrap();
    assert!(exposed.contains("retry-after") && exposed.contains("x-request-id"), "{exposed}");
    // Before each request of a page, without a token.
    for (path, wanted) in [
        ("/hub/negotiate", ["authorization", "x-requested-with", "x-signalr-user-agent"]),
        ("/api/v1/messages", ["content-type", "idempotency-key", "x-request-id"]),
    ] {
        let asking = http().request(Method::OPTIONS, format!("{}{path}", server.base));
        let answer = asking
            .header("origin", OURS)
            .header("access-control-request-method", "POST")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 204, "{path}");
        assert_eq!(header(&answer, "access-control-allow-credentials").as_deref(), Some("true"));
        let allowed = header(&answer, "access-control-allow-headers").unwrap();
        for name in wanted {
            assert!(allowed.contains(name), "{path}: {allowed}");
        }
    }
}

#[tokio::test]
async fn a_page_without_tls_is_not_the_server_s_own_where_a_balancer_says_tls() {
    let server = Server::start_with(&[("ESH3AR__HTTP__TRUSTED_PROXIES", "127.0.0.1")]).await;
    let token = server.phone(PHONE);
    let plain = server.base.clone();
    let secure = plain.replace("http://", "https://");
    for (origin, says, wanted) in [
        (&plain, "", " 101 "),
        (&secure, "", " 101 "),
        (&plain, "X-Forwarded-Proto: https\r\n", " 403 "),
        (&secure, "X-Forwarded-Proto: https\r\n", " 101 "),
    ] {
        let lines = format!("Origin: {origin}\r\n{says}");
        let line = upgraded_with(&server, "/hub", &lines, &token).await;
        assert!(line.contains(wanted), "{origin} {says}: {line}");
    }
}

#[tokio::test]
async fn a_request_names_one_host() {
    let server = Server::start_with(&[("ESH3AR__ADMIN__LISTEN", "127.0.0.1:0")]).await;
    for (head, wanted) in [
        ("GET /health HTTP/1.1\r\n\r\n", " 400 "),
        ("GET /health HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n", " 400 "),
        ("GET /health HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n", " 400 "),
        ("GET /health HTTP/1.1\r\nHost: a.example/x\r\n\r\n", " 400 "),
        ("GET /health HTTP/1.1\r\nHost: user@a.example\r\n\r\n", " 400 "),
        ("GET /health HTTP/1.1\r\nHost: a.example,b.example\r\n\r\n", " 400 "),
        ("GET /health HTTP/1.1\r\nHost: a.example:x\r\n\r\n", " 400 "),
        ("GET /health HTTP/1.1\r\nHost:\r\n\r\n", " 400 "),
        ("GET /health HTTP/1.0\r\nHost: a.example\r\nHost: b.example\r\n\r\n", " 400 "),
        ("GET http://a.example/health HTTP/1.1\r\n\r\n", " 400 "),
        ("GET http://a.example/health HTTP/1.1\r\nHost: b.example\r\n\r\n", " 400 "),
        ("GET http://a.example/health HTTP/1.1\r\nHost: a.example\r\n\r\n", " 200 "),
        ("POST /hub/negotiate HTTP/1.1\r\nContent-Length: 0\r\n\r\n", " 400 "),
        ("GET /health HTTP/1.1\r\nHost: a.example\r\n\r\n", " 200 "),
        ("GET /health HTTP/1.0\r\n\r\n", " 200 "),
    ] {
        let line = raw(&server, head).await;
        assert!(line.contains(wanted), "{head}: {line}");
    }
    // Every listener.
    let found = std::fs::read_to_string(server.data().join("serve.json")).unwrap();
    let found: Value = serde_json::from_str(&found).unwrap();
    let admin = found["admin"].as_str().unwrap();
    for base in [admin, &server.metrics] {
        for (hosts, wanted) in [
            ("", " 400 "),
            ("Host: a.example\r\nHost: b.example\r\n", " 400 "),
            ("Host: a.example\r\n", " 200 "),
        ] {
            let line = raw_at(base, &format!("GET /health HTTP/1.1\r\n{hosts}\r\n")).await;
            assert!(line.contains(wanted), "{base} {hosts}: {line}");
        }
    }
}

#[tokio::test]
async fn a_request_of_http_2_names_one_host() {
    let server = Server::start().await;
    let address = server.base.trim_start_matches("http://");
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    for (hosts, wanted) in [
        (&[][..], 200),
        (&[address], 200),
        (&["b.example"], 400),
        (&[address, address], 400),
        (&["a.example,b.example"], 400),
    ] {
        let mut request = hyper::Request::get(format!("{}/health", server.base));
        for host in hosts {
            request = request.header("host", *host);
        }
        let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status().as_u16(), wanted, "{hosts:?}");
        let text = answer.collect().await.unwrap().to_bytes();
        assert_eq!(String::from_utf8_lossy(&text).contains("invalid_host"), wanted == 400);
    }
    connection.abort();
}
