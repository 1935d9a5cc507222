//! The listener: slow clients, TLS, the stop.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{DEADLINE, Folder, Server};

fn address(server: &Server) -> String {
    server.base.strip_prefix("http://").unwrap().to_owned()
}

#[tokio::test]
async fn headers_that_dribble_are_cut_and_others_served() {
    let server = Server::start_with(&[("ESH3AR__HTTP__HEADER_TIMEOUT", "1s")]).await;
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut socket = TcpStream::connect(address(&server)).await.unwrap();
        socket.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
        slow.push(socket);
    }
    let begun = Instant::now();
    assert_eq!(server.request("GET", "/health", None, None).await.0, 200);
    assert!(begun.elapsed() < Duration::from_secs(5));
    for mut socket in slow {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(DEADLINE, socket.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "a half header is still open");
    }
    assert!(begun.elapsed() >= Duration::from_millis(900));
}

#[tokio::test]
async fn who_says_nothing_holds_no_place() {
    let server = Server::start_with(&[
        ("ESH3AR__HTTP__HEADER_TIMEOUT", "1s"),
        ("ESH3AR__HTTP__MAX_CONNECTIONS", "4"),
    ])
    .await;
    let mut silent = Vec::new();
    for word in ["", "", "PRI * HT", "P"] {
        let mut socket = TcpStream::connect(address(&server)).await.unwrap();
        socket.write_all(word.as_bytes()).await.unwrap();
        silent.push(socket);
    }
    let answered = server.request("GET", "/health/live", None, None);
    let answered = tokio::time::timeout(DEADLINE, answered).await.expect("a place became free");
    assert_eq!(answered.0, 200);
    for mut socket in silent {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(DEADLINE, socket.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "a silent connection is still open");
    }
    // HTTP/2 without TLS still works.
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let answer = client.get(format!("{}/health", server.base)).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_2));
}

#[tokio::test]
async fn a_half_header_does_not_hold_the_stop() {
    let mut server = Server::start().await;
    let mut socket = TcpStream::connect(address(&server)).await.unwrap();
    socket.write_all(b"GET /health HT").await.unwrap();
    let mut idle = TcpStream::connect(address(&server)).await.unwrap();
    idle.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut some = [0; 16];
    idle.read_exact(&mut some).await.unwrap();
    let begun = Instant::now();
    assert_eq!(server.stop().await, Some(0));
    assert!(begun.elapsed() < Duration::from_secs(19), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn one_connection_too_many_ends_the_longest_idle_one() {
    let server = Server::start_with(&[("ESH3AR__HTTP__MAX_CONNECTIONS", "6")]).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut socket = TcpStream::connect(address(&server)).await.unwrap();
        socket.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut some = [0; 12];
        socket.read_exact(&mut some).await.unwrap();
        assert_eq!(&some, b"HTTP/1.1 200");
        held.push(socket);
    }
    // Half of six, for those who have not authenticated.
    let mut rest = Vec::new();
    let first = held.remove(0).read_to_end(&mut rest).await;
    assert!(first.is_ok(), "{first:?}");
    for socket in &mut held {
        socket.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answers = Vec::new();
        while String::from_utf8_lossy(&answers).matches("HTTP/1.1 200").count() < 1 {
            let mut some = [0; 1024];
            let read = socket.read(&mut some).await.unwrap();
            assert!(read > 0, "another one was ended");
            answers.extend_from_slice(&some[..read]);
        }
    }
}

pub fn certificate(folder: &Path, name: &str) -> String {
    let names = ["localhost", "127.0.0.1"].map(str::to_owned);
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    let _ = name;
    made.cert.pem()
}

fn trusting(pem: &str) -> reqwest::Client {
    reqwest::Client::builder()
        .add_root_certificate(reqwest::Certificate::from_pem(pem.as_bytes()).unwrap())
        .build()
        .unwrap()
}

#[tokio::test]
async fn tls_is_served_and_a_renewed_certificate_taken_up() {
    use std::os::unix::fs::PermissionsExt as _;
    esh3ar::client::prepare();
    let folder = Folder::seeded();
    let path = folder.path().to_owned();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let first = certificate(&path, "first");
    let server = Server::start_in(
        folder,
        &[
            ("ESH3AR__HTTP__TLS_CERT", path.join("cert.pem").to_str().unwrap()),
            ("ESH3AR__HTTP__TLS_KEY", path.join("key.pem").to_str().unwrap()),
        ],
    )
    .await;
    let port = server.base.rsplit(':').next().unwrap();
    let url = format!("https://localhost:{port}/health");
    let body: Value = trusting(&first).get(&url).send().await.unwrap().json().await.unwrap();
    assert_eq!(body["status"], "healthy");
    // Plain HTTP gets nothing.
    assert!(crate::support::get(format!("{}/health", server.base)).await.is_err());
    let second = certificate(&path, "second");
    let renewed = async {
        while trusting(&second).get(&url).send().await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(DEADLINE, renewed).await.expect("the renewed certificate");
    // A broken pair keeps the last good one.
    fs::write(path.join("cert.pem"), "nonsense").unwrap();
    let told = async {
        while !server.log().contains("keeping the old certificate") {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(DEADLINE, told).await.unwrap();
    assert!(trusting(&second).get(&url).send().await.is_ok());
}
