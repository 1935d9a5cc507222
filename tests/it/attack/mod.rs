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
