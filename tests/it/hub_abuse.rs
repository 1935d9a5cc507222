//! Clients of the hub that mean no good, or whose luck is bad.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message as Frame, client::IntoClientRequest as _},
};

use crate::support::{DEADLINE, Server, run, run_json};

const PHONE: &str = "+967771234567";
/// In time for a revocation.
const SOON: Duration = Duration::from_secs(3);

struct Socket {
    stream: WebSocketStream<TcpStream>,
}

type Refused = tungstenite::Error;

impl Socket {
    async fn connect(server: &Server, token: &str, id: Option<&str>) -> Result<Socket, Refused> {
        let host = server.base.strip_prefix("http://").unwrap();
        let id = id.map(|id| format!("&id={id}")).unwrap_or_default();
        let url = format!("ws://{host}/hub/diagnostics?access_token={token}{id}");
        let tcp = TcpStream::connect(host).await.unwrap();
        let (stream, _) = client_async(url.into_client_request().unwrap(), tcp).await?;
        Ok(Socket { stream })
    }

    async fn shake(&mut self, protocol: &str, version: u8) {
        self.say(&json!({"protocol": protocol, "version": version})).await;
        let answer = self.stream.next().await.unwrap().unwrap();
        assert_eq!(answer.into_data(), "{}\u{1e}");
    }

    async fn say(&mut self, message: &Value) {
        self.stream.send(Frame::text(format!("{message}\u{1e}"))).await.unwrap();
    }

    async fn call(&mut self, target: &str, arguments: Value) {
        let call =
            json!({"type": 1, "invocationId": "1", "target": target, "arguments": arguments});
        self.say(&call).await;
    }

    /// The next message that fits; `None` at the end, or when there is none in time.
    async fn find(&mut self, within: Duration, fits: impl Fn(&Value) -> bool) -> Option<Value> {
        let next = async {
            loop {
                let text = match self.stream.next().await? {
                    Ok(Frame::Text(text)) => text,
                    Ok(_) => continue,
                    Err(_) => return None,
                };
                for record in text.split_terminator('\u{1e}') {
                    let record: Value = serde_json::from_str(record).unwrap();
                    if fits(&record) {
                        return Some(record);
                    }
                }
            }
        };
        tokio::time::timeout(within, next).await.ok().flatten()
    }

    async fn goodbye(&mut self, within: Duration) -> Option<Value> {
        self.find(within, |record| record["type"] == 7).await
    }
}

async fn server() -> Server {
    Server::start_with(&[("ESH3AR__HTTP__DIAGNOSTICS_HUB", "true")]).await
}

/// The token of a connection that may come back.
async fn negotiate(server: &Server, token: &str) -> String {
    let url = format!(
        "{}/hub/diagnostics/negotiate?negotiateVersion=1&useStatefulReconnect=true",
        server.base
    );
    let request = crate::support::http().post(url).bearer_auth(token);
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    answer["connectionToken"].as_str().unwrap().to_owned()
}

/// Another token of the phone's, and its id.
fn another_token(server: &Server) -> (String, String) {
    let made = run_json(&server.data(), &["token", "create", "--mobile", PHONE]);
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (text("token"), text("id"))
}

fn revoke(server: &Server, id: &str) {
    assert!(run(&server.data(), &["token", "revoke", id]).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_closes_what_it_let_in_however_that_came_in() {
    let server = server().await;
    let first = server.phone(PHONE);

    // It was revoked while the client took its time for the handshake.
    let (late, late_id) = another_token(&server);
    let mut slow = Socket::connect(&server, &late, None).await.unwrap();
    let begun = Instant::now();
    revoke(&server, &late_id);

    // The client came back with it, after another had let it in.
    let (second, second_id) = another_token(&server);
    let id = negotiate(&server, &first).await;
    let mut before = Socket::connect(&server, &first, Some(&id)).await.unwrap();
    before.shake("json", 2).await;
    let mut back = Socket::connect(&server, &second, Some(&id)).await.unwrap();
    assert!(back.find(DEADLINE, |record| record["type"] == 9).await.is_some());
    revoke(&server, &second_id);
    let goodbye = back.goodbye(SOON).await.expect("the end of it");
    assert!(goodbye.get("allowReconnect").is_none(), "{goodbye}");

    // The client acknowledges nothing, so that it is told nothing more.
    let (full, full_id) = another_token(&server);
    let id = negotiate(&server, &full).await;
    let mut mute = Socket::connect(&server, &full, Some(&id)).await.unwrap();
    mute.shake("json", 2).await;
    for _ in 0..5 {
        mute.call("Echo", json!(["x".repeat(30_000)])).await;
        assert!(mute.find(DEADLINE, |record| record["type"] == 3).await.is_some());
    }
    revoke(&server, &full_id);
    assert!(mute.goodbye(SOON).await.is_some());

    tokio::time::sleep(Duration::from_secs(12).saturating_sub(begun.elapsed())).await;
    slow.shake("json", 1).await;
    assert!(slow.goodbye(SOON).await.is_some());
}

#[tokio::test]
async fn a_connection_without_a_return_is_not_taken_over() {
    let server = server().await;
    let phone = server.phone(PHONE);
    let id = negotiate(&server, &phone).await;
    let mut first = Socket::connect(&server, &phone, Some(&id)).await.unwrap();
    // It may come back by the negotiation, but not by the version.
    first.shake("json", 1).await;
    match Socket::connect(&server, &phone, Some(&id)).await {
        Err(Refused::Http(response)) => assert_eq!(response.status(), 409),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("taken over"),
    }
    first.call("Echo", json!([1])).await;
    assert!(first.find(DEADLINE, |record| record["result"] == 1).await.is_some());
}

#[tokio::test]
async fn who_comes_back_need_not_wait_for_a_socket_that_is_stuck() {
    let server = server().await;
    let phone = server.phone(PHONE);
    let id = negotiate(&server, &phone).await;
    let mut stuck = Socket::connect(&server, &phone, Some(&id)).await.unwrap();
    stuck.shake("json", 2).await;
    // It reads nothing any more, until neither side can send.
    let call = json!({"type": 1, "target": "CallMe", "arguments": ["x".repeat(30_000)]});
    let mut acknowledged = 0;
    loop {
        acknowledged += 1;
        let both = format!("{call}\u{1e}{}\u{1e}", json!({"type": 8, "sequenceId": acknowledged}));
        let sent = stuck.stream.send(Frame::text(both));
        if tokio::time::timeout(Duration::from_millis(500), sent).await.is_err() {
            break;
        }
    }
    let begun = Instant::now();
    let mut back = Socket::connect(&server, &phone, Some(&id)).await.unwrap();
    assert!(back.find(DEADLINE, |record| record["type"] == 9).await.is_some());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn answers_many_times_as_long_as_their_calls_go_out_in_parts() {
    let server = server().await;
    let mut socket = Socket::connect(&server, &server.phone(PHONE), None).await.unwrap();
    socket.shake("messagepack", 1).await;
    // 10 bytes each: [1, {}, "1", "x", [], []], of a method that is not there.
    let call = [9, 0x96, 1, 0x80, 0xA1, b'1', 0xA1, b'x', 0x90, 0x90];
    let calls = 100_000;
    socket.stream.send(Frame::binary(call.repeat(calls))).await.unwrap();
    let mut answers = 0;
    let all = async {
        while answers < calls {
            let frame = socket.stream.next().await.expect("more").unwrap().into_data();
            assert!(frame.len() < 256 * 1024, "{} bytes at once", frame.len());
            answers += frame.windows(6).filter(|bytes| bytes == b"exist.").count();
        }
    };
    tokio::time::timeout(DEADLINE, all).await.unwrap();
}

#[tokio::test]
async fn who_sends_far_too_much_is_told_so() {
    let server = server().await;
    let mut socket = Socket::connect(&server, &server.phone(PHONE), None).await.unwrap();
    socket.shake("json", 1).await;
    // The head of a frame of 8 MiB, and its bytes for as long as the server takes them.
    let (mut read, mut write) = (socket.stream.get_mut()).split();
    let body = async {
        write.write_all(&[0x81, 0xFF, 0, 0, 0, 0, 0, 0x80, 0, 0, 1, 2, 3, 4]).await.unwrap();
        for _ in 0..128 {
            if write.write_all(&[b'x'; 65_536]).await.is_err() {
                break;
            }
        }
    };
    let answer = async {
        let mut heard = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut read, &mut heard).await.map(|_| heard)
    };
    let both = async { tokio::join!(body, answer) };
    let ((), heard) = tokio::time::timeout(DEADLINE, both).await.unwrap();
    let heard = String::from_utf8_lossy(&heard.expect("an end, no reset")).into_owned();
    assert!(heard.contains("The maximum message size of 262144B was exceeded."), "{heard}");
}

#[tokio::test]
async fn one_user_cannot_keep_the_others_out() {
    let server = server().await;
    let phone = server.phone(PHONE);
    let other = server.phone("+967770000009");
    let client = crate::support::http();
    let ask = |token: &str| {
        let url = format!("{}/hub/negotiate?negotiateVersion=1", server.base);
        let request = client.post(url).bearer_auth(token);
        async move { request.send().await.unwrap() }
    };
    let mut granted = 0;
    let refused = loop {
        let response = ask(&phone).await;
        if response.status() != 200 {
            break response;
        }
        granted += 1;
        assert!(granted < 10_000, "no limit");
    };
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(ask(&other).await.status(), 200);
}

/// A connection whose frames are written by hand.
struct Frames {
    tcp: TcpStream,
    heard: Vec<u8>,
}

impl Frames {
    async fn open(server: &Server, token: &str) -> Frames {
        let host = server.base.strip_prefix("http://").unwrap();
        let mut tcp = TcpStream::connect(host).await.unwrap();
        let hello = format!(
            "GET /hub/diagnostics HTTP/1.1\r\nhost: {host}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             authorization: Bearer {token}\r\n\r\n"
        );
        tcp.write_all(hello.as_bytes()).await.unwrap();
        let mut frames = Frames { tcp, heard: Vec::new() };
        assert!(frames.hears("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=").await, "switched");
        frames.send(0x81, b"{\"protocol\":\"json\",\"version\":1}\x1e").await;
        assert!(frames.hears("{}\u{1e}").await, "shaken hands");
        frames
    }

    async fn send(&mut self, first: u8, payload: &[u8]) {
        let mut frame = vec![first, 0xFF];
        frame.extend((payload.len() as u64).to_be_bytes());
        if first >= 0x88 {
            frame = vec![first, 0x80 | payload.len() as u8];
        }
        frame.extend([1, 2, 3, 4]);
        frame.extend(
            payload.iter().zip([1, 2, 3, 4].iter().cycle()).map(|(byte, mask)| byte ^ mask),
        );
        self.tcp.write_all(&frame).await.unwrap();
    }

    /// Whether this comes, once more than before.
    async fn hears(&mut self, wanted: &str) -> bool {
        let wait = async {
            loop {
                if let Some(at) =
                    self.heard.windows(wanted.len()).position(|part| part == wanted.as_bytes())
                {
                    self.heard.drain(..at + wanted.len());
                    return true;
                }
                let mut more = [0; 4096];
                match self.tcp.read(&mut more).await {
                    Ok(0) | Err(_) => return false,
                    Ok(read) => self.heard.extend(&more[..read]),
                }
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.expect("something, or the end")
    }
}

fn echo(id: usize, length: usize) -> String {
    let call = json!({
        "type": 1, "invocationId": format!("b{id}"), "target": "Echo",
        "arguments": ["☎".repeat(length / 3)],
    });
    format!("{call}\u{1e}")
}

#[tokio::test]
async fn messages_come_in_frames_of_any_length_and_in_fragments() {
    let server = server().await;
    let phone = server.phone(PHONE);
    // Far more than may wait at once, in one frame: each message is within the limit.
    let mut frames = Frames::open(&server, &phone).await;
    let many: String = (0..300).map(|id| echo(id, 12_000)).collect();
    frames.send(0x81, many.as_bytes()).await;
    for id in 0..300 {
        assert!(frames.hears(&format!("\"invocationId\":\"b{id}\"")).await, "{id}");
    }
    // In fragments that cut characters, with a ping between.
    let call = echo(999, 300);
    let bytes = call.as_bytes();
    let (last, others) = bytes.split_last().unwrap();
    for (n, byte) in others.iter().enumerate() {
        frames.send(if n == 0 { 0x01 } else { 0x00 }, &[*byte]).await;
        if n == 100 {
            frames.send(0x89, b"are you there").await;
            assert!(frames.hears("are you there").await, "a pong");
        }
    }
    frames.send(0x80, &[*last]).await;
    assert!(frames.hears("\"invocationId\":\"b999\"").await);
    // What is no text ends it with a reason, in whatever kind of frame it comes.
    frames.send(0x81, b"\xff\xfe\x1e").await;
    assert!(frames.hears("Error reading JSON.").await);
    assert!(frames.heard.len() < 200, "and nothing else: {}", frames.heard.len());
}

#[tokio::test]
async fn frames_against_the_rules_end_the_connection() {
    let server = server().await;
    let phone = server.phone(PHONE);
    // A continuation of nothing, a kind that is none, a bit that is reserved.
    for first in [0x80, 0x83, 0xC1] {
        let mut frames = Frames::open(&server, &phone).await;
        frames.send(first, b"x").await;
        assert!(!frames.hears("\u{1e}never").await, "{first:x}");
    }
    // A message begins within another.
    let mut frames = Frames::open(&server, &phone).await;
    frames.send(0x01, b"{").await;
    frames.send(0x81, b"{}\x1e").await;
    assert!(!frames.hears("\u{1e}never").await);
    // Without a mask.
    let mut frames = Frames::open(&server, &phone).await;
    frames.tcp.write_all(&[0x81, 1, b'x']).await.unwrap();
    assert!(!frames.hears("\u{1e}never").await);
}
