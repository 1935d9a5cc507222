//! Attacks on the server, and what has to hold while they run: who is still served, how much memory, how many rows
//! and places they take. The attacker shares the machine with the server, so a latency is only compared with that of
//! another run in the same test.

mod fairness;
mod memory;
mod places;
mod poison;
mod writes;

use std::time::{Duration, Instant};

use crate::support::Server;

/// The head of PROXY protocol v2 by which a trusted balancer names its client. With it one machine connects from
/// many addresses.
pub fn named(client: [u8; 4]) -> Vec<u8> {
    let mut head = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    head.extend_from_slice(&client);
    head.extend_from_slice(&[127, 0, 0, 1]);
    head.extend_from_slice(&[0x10, 0x01, 0x10, 0x02]);
    head
}

/// So many addresses of different clients.
pub fn addresses(count: u8) -> impl Iterator<Item = [u8; 4]> {
    (1..=count).map(|last| [203, 0, 113, last])
}

/// A server that reads requests and answers each with nothing: what an attack against it costs the victim is the
/// attacker's share of the machine. Gives its address.
pub async fn sink() -> String {
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut tcp = BufReader::new(tcp);
                loop {
                    let mut length = 0;
                    loop {
                        let mut line = String::new();
                        if tcp.read_line(&mut line).await.unwrap_or(0) == 0 {
                            return;
                        }
                        let line = line.to_ascii_lowercase();
                        if let Some(bytes) = line.strip_prefix("content-length:") {
                            length = bytes.trim().parse().unwrap();
                        }
                        if line == "\r\n" {
                            break;
                        }
                    }
                    let mut body = vec![0; length];
                    if tcp.read_exact(&mut body).await.is_err() {
                        return;
                    }
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
                    if tcp.get_mut().write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    base
}

/// How long another client's sends take, one after the other with a pause of 20 ms, while `attack` runs.
pub async fn sends_during<T>(
    server: &Server,
    token: &str,
    to: &str,
    attack: impl Future<Output = T>,
) -> (Vec<Duration>, T) {
    let client = server.http().clone();
    let mut took = Vec::new();
    tokio::pin!(attack);
    let done = loop {
        let begun = Instant::now();
        let send = client
            .post(format!("{}/api/v1/messages", server.base))
            .bearer_auth(token)
            .json(&serde_json::json!({ "to": to, "content": "as always" }))
            .send();
        let send = async {
            let answer = send.await.unwrap();
            assert_eq!(answer.status().as_u16(), 202);
        };
        tokio::pin!(send);
        let ended = tokio::select! {
            biased;
            () = &mut send => None,
            done = &mut attack => Some(done),
        };
        if let Some(done) = ended {
            send.await;
            took.push(begun.elapsed());
            break done;
        }
        took.push(begun.elapsed());
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
            done = &mut attack => break done,
        }
    };
    took.sort_unstable();
    (took, done)
}

/// The time under which this share of them stayed; they are sorted.
pub fn quantile(took: &[Duration], share: f64) -> Duration {
    let at = (took.len() as f64 * share) as usize;
    took.get(at.min(took.len().saturating_sub(1))).copied().unwrap_or_default()
}
