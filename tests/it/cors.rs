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
    let host = server.base.trim_start_matches("http://");
    let request = format!(
        "GET {path}?access_token={token} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{origin}\r\n"
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
