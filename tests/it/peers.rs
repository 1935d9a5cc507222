//! From which address somebody asks: what balancers say that are trusted, and what nobody else may say.

use std::{
    net::IpAddr,
    process::Command,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    balancers::program,
    support::{
        DEADLINE, Folder, Server,
        guard::{Guarded, free_port},
        wait_for,
    },
};

const TRUSTED: (&str, &str) = ("ESH3AR__HTTP__TRUSTED_PROXIES", "127.0.0.0/8");
const LIST: &str = "/api/v1/admin/users";

/// The address that the audit log has of the last list of users.
pub async fn last_peer(server: &Server, admin: &str) -> String {
    let path = "/api/v1/admin/audit?action=user.list&limit=1";
    let (_, log) = server.request("GET", path, Some(admin), None).await;
    log["items"][0]["peer"].as_str().unwrap_or_default().to_owned()
}

/// Lists the users with these headers. Gives the address that the audit log has of it.
async fn peer_of(server: &Server, admin: &str, headers: &[(&str, &str)]) -> String {
    let mut request = server.http().get(format!("{}{LIST}", server.base)).bearer_auth(admin);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    assert_eq!(request.send().await.unwrap().status(), 200);
    last_peer(server, admin).await
}

#[tokio::test]
async fn without_trusted_proxies_no_header_is_believed() {
    let server = Server::start().await;
    let admin = server.user("root", "Admin");
    for headers in [
        &[][..],
        &[("x-forwarded-for", "203.0.113.9")],
        &[("forwarded", "for=203.0.113.9")],
        &[("x-real-ip", "203.0.113.9")],
        &[("x-esh3ar-peer", "203.0.113.9 AAAA")],
    ] {
        assert_eq!(peer_of(&server, &admin, headers).await, "127.0.0.1", "{headers:?}");
    }
    let mut tcp = connect(&server).await;
    tcp.write_all(&proxy_header([203, 0, 113, 9])).await.unwrap();
    let answer = ask(&mut tcp, &admin).await;
    assert!(answer.starts_with("HTTP/1.1 400") || answer.is_empty(), "{answer}");
}

#[tokio::test]
async fn what_a_trusted_balancer_says_is_believed_from_the_right() {
    let server = Server::start_with(&[TRUSTED]).await;
    let admin = server.user("root", "Admin");
    for (headers, expected) in [
        (&[][..], "127.0.0.1"),
        (&[("x-forwarded-for", "6.6.6.6, 203.0.113.9")], "203.0.113.9"),
        (&[("x-forwarded-for", "6.6.6.6, 203.0.113.9, 127.0.0.7")], "203.0.113.9"),
        (&[("x-forwarded-for", "6.6.6.6, nonsense")], "127.0.0.1"),
        (&[("forwarded", "for=6.6.6.6, for=\"[2001:db8::7]:80\"")], "2001:db8::7"),
        (&[("forwarded", "for=6.6.6.6"), ("x-forwarded-for", "203.0.113.9")], "127.0.0.1"),
    ] {
        assert_eq!(peer_of(&server, &admin, headers).await, expected, "{headers:?}");
    }
    // A command on the server comes from nowhere.
    assert!(server.run(&["user", "list"]).status.success());
    assert_eq!(last_peer(&server, &admin).await, "");
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.base.strip_prefix("http://").unwrap()).await.unwrap()
}

/// A header of PROXY protocol v2 for a client with this address.
fn proxy_header(client: [u8; 4]) -> Vec<u8> {
    let addresses = [&client[..], &[10, 0, 0, 1], &4711u16.to_be_bytes(), &80u16.to_be_bytes()];
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &addresses.concat()].concat()
}

/// Lists the users over a connection that stays.
async fn ask(tcp: &mut TcpStream, admin: &str) -> String {
    let request =
        format!("GET {LIST} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {admin}\r\n\r\n");
    let mut answer = vec![0; 4096];
    if tcp.write_all(request.as_bytes()).await.is_err() {
        return String::new();
    }
    let read = tcp.read(&mut answer).await.unwrap_or_default();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

#[tokio::test]
async fn a_balancer_that_passes_on_bytes_names_the_client_before_them() {
    let server = Server::start_with(&[TRUSTED]).await;
    let admin = server.user("root", "Admin");
    let mut tcp = connect(&server).await;
    tcp.write_all(&proxy_header([203, 0, 113, 9])).await.unwrap();
    for _ in 0..2 {
        assert!(ask(&mut tcp, &admin).await.starts_with("HTTP/1.1 200"));
        assert_eq!(last_peer(&server, &admin).await, "203.0.113.9");
    }
    // HTTP/2 behind it.
    let mut tcp = connect(&server).await;
    tcp.write_all(&proxy_header([203, 0, 113, 10])).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get(format!("{}{LIST}", server.base))
        .header("authorization", format!("Bearer {admin}"))
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let users: Value = serde_json::from_slice(&answer.collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(users["items"][0]["name"], "root");
    assert_eq!(last_peer(&server, &admin).await, "203.0.113.10");
    connection.abort();
    // One that is damaged, or never whole, ends its connection and nothing else.
    let mut damaged = connect(&server).await;
    damaged.write_all(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff").await.unwrap();
    let mut rest = Vec::new();
    let _ = damaged.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
    assert_eq!(peer_of(&server, &admin, &[]).await, "127.0.0.1");
}

/// HAProxy as the shipped configuration says for `mode tcp`.
#[tokio::test(flavor = "multi_thread")]
async fn haproxy_that_passes_on_bytes_names_its_clients() {
    let Some(haproxy) = program("haproxy") else { return };
    let server = Server::start_with(&[("ESH3AR__HTTP__TRUSTED_PROXIES", "127.0.0.1")]).await;
    let admin = server.user("root", "Admin");
    let folder = Folder::new();
    let address = format!("127.0.0.1:{}", free_port());
    let host = server.base.strip_prefix("http://").unwrap();
    let text = format!(
        "global\n maxconn 200\ndefaults\n mode tcp\n timeout connect 2s\n timeout client 30s\n \
         timeout server 30s\nfrontend in\n bind {address}\n default_backend out\nbackend out\n \
         server one {host} send-proxy-v2\n"
    );
    let file = folder.path().join("haproxy.cfg");
    std::fs::write(&file, text).unwrap();
    let arguments = ["-db", "-f", file.to_str().unwrap()];
    let _balancer = Guarded::start(folder.path(), "haproxy", Command::new(haproxy).args(arguments));
    let client = reqwest::Client::builder().local_address(IpAddr::from([127, 0, 0, 2]));
    let client = client.build().unwrap();
    let deadline = Instant::now() + DEADLINE;
    loop {
        let request = client.get(format!("http://{address}{LIST}")).bearer_auth(&admin).send();
        if request.await.is_ok_and(|answer| answer.status() == 200) {
            break;
        }
        assert!(Instant::now() < deadline, "haproxy reaches nobody");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(last_peer(&server, &admin).await, "127.0.0.2");
}

#[tokio::test]
async fn a_connection_of_a_hub_and_a_refusal_know_their_address() {
    let server = Server::start_with(&[TRUSTED, ("ESH3AR__LOG__LEVEL", "debug")]).await;
    let phone = server.phone("+967771234567");
    let host = server.base.strip_prefix("http://").unwrap();
    let mut socket = connect(&server).await;
    let upgrade = format!(
        "GET /hub?access_token={phone} HTTP/1.1\r\nhost: {host}\r\nconnection: Upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: \
         dGhlIHNhbXBsZSBub25jZQ==\r\nx-forwarded-for: 203.0.113.11\r\n\r\n"
    );
    socket.write_all(upgrade.as_bytes()).await.unwrap();
    // A masked text frame with the handshake, under a mask of zeros.
    let handshake = b"{\"protocol\":\"json\",\"version\":1}\x1e";
    let frame = [&[0x81, 0x80 | handshake.len() as u8, 0, 0, 0, 0][..], handshake].concat();
    socket.write_all(&frame).await.unwrap();
    let mut answered = Vec::new();
    while !answered.ends_with(b"{}\x1e") {
        assert!(socket.read_buf(&mut answered).await.unwrap() > 0);
    }
    drop(socket);
    let refused = server.http().get(format!("{}{LIST}", server.base)).bearer_auth("esh_nonsense");
    let refused = refused.header("x-forwarded-for", "203.0.113.12").send().await.unwrap();
    assert_eq!(refused.status(), 401);
    let told = |what: &str, peer: &str| {
        let log = server.log();
        let mut lines = log.lines().filter(|line| line.contains(what));
        lines.any(|line| line.contains(&format!("\"peer\":\"{peer}\""))).then_some(())
    };
    wait_for("the end of the connection in the log", || told("connection ended", "203.0.113.11"))
        .await;
    wait_for("the refusal in the log", || told("\"status\":401", "203.0.113.12")).await;
}
