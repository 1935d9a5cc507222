//! One recipient: a connection to the hub that records what arrives and acknowledges it.
//!
//! Frames are searched for the values that are needed instead of being parsed: the load must not cost more than
//! what it measures.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::Message as Frame;
use uuid::Uuid;

use super::{
    Error,
    send::MARK_LEN,
    server_address::{ServerAddress, Socket},
};
use crate::{bench::checker::Tag, domain::MessageId};

const RECORD_SEPARATOR: char = '\u{1e}';
const HANDSHAKE: &str = "{\"protocol\":\"json\",\"version\":1}\u{1e}";
/// The interval of the official clients.
const PING_INTERVAL: Duration = Duration::from_secs(15);
const PING: &str = "{\"type\":6}\u{1e}";
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Arrival {
    pub(super) id: MessageId,
    pub(super) tag: Tag,
    pub(super) due_micros: u64,
    /// Conversation and `seq`, for chat.
    pub(super) place: Option<(Uuid, i64)>,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct HubFrame {
    pub(super) arrivals: Vec<Arrival>,
    /// Messages whose acknowledgement was answered, and is durable.
    pub(super) acknowledged: u64,
}

pub(super) struct Receiver {
    socket: Socket,
    first: Vec<Arrival>,
    /// Message counts of the acknowledgements that are not answered yet. Answers arrive in order.
    open: VecDeque<u64>,
    next_ping: Instant,
}

impl Receiver {
    pub(super) async fn connect(place: &ServerAddress, token: &str) -> Result<Receiver, Error> {
        let connected = async {
            let mut socket = place.hub(token).await?;
            let failed = |error: &dyn std::fmt::Display| Error::Connect(error.to_string());
            socket.send(Frame::text(HANDSHAKE)).await.map_err(|error| failed(&error))?;
            match socket.next().await {
                Some(Ok(Frame::Text(text))) if text.starts_with("{}") => {
                    // Pending messages may be in the same frame as the handshake response.
                    let first = arrivals(&text);
                    let next_ping = Instant::now() + PING_INTERVAL;
                    Ok(Receiver { socket, first, open: VecDeque::new(), next_ping })
                }
                Some(Err(error)) => Err(failed(&error)),
                _ => Err(failed(&"the handshake was not answered")),
            }
        };
        let timed_out = || Error::Connect("the handshake was not answered in time".to_owned());
        tokio::time::timeout(HANDSHAKE_TIMEOUT, connected).await.map_err(|_| timed_out())?
    }

    /// The next frame; empty if it has neither. An error ends the connection.
    pub(super) async fn next(&mut self) -> Result<HubFrame, Error> {
        if !self.first.is_empty() {
            return Ok(HubFrame { arrivals: std::mem::take(&mut self.first), acknowledged: 0 });
        }
        loop {
            let wait = self.next_ping.saturating_duration_since(Instant::now());
            let frame = match tokio::time::timeout(wait, self.socket.next()).await {
                Err(_) => {
                    self.write(PING.to_owned()).await?;
                    continue;
                }
                Ok(None) => return Err(Error::Connect("closed".to_owned())),
                Ok(Some(Err(error))) => return Err(Error::Connect(error.to_string())),
                Ok(Some(Ok(frame))) => frame,
            };
            if let Frame::Text(text) = frame {
                let answered = (0..answers(&text)).filter_map(|_| self.open.pop_front());
                return Ok(HubFrame { acknowledged: answered.sum(), arrivals: arrivals(&text) });
            }
        }
    }

    pub(super) fn unanswered(&self) -> u64 {
        self.open.iter().sum()
    }

    /// Acknowledges without waiting for the answer.
    pub(super) async fn acknowledge(&mut self, arrived: &[Arrival]) -> Result<(), Error> {
        let mut text = String::with_capacity(60 + arrived.len() * 39);
        text.push_str(
            "{\"type\":1,\"invocationId\":\"a\",\"target\":\"Acknowledge\",\"arguments\":[[",
        );
        for (n, arrival) in arrived.iter().enumerate() {
            if n > 0 {
                text.push(',');
            }
            text.push('"');
            let mut buffer = [0; uuid::fmt::Hyphenated::LENGTH];
            text.push_str(arrival.id.0.as_hyphenated().encode_lower(&mut buffer));
            text.push('"');
        }
        text.push_str("]]}");
        text.push(RECORD_SEPARATOR);
        self.open.push_back(arrived.len() as u64);
        self.write(text).await
    }

    /// Marks a conversation as read up to `seq`, without an answer.
    pub(super) async fn mark_read(&mut self, conversation: Uuid, seq: i64) -> Result<(), Error> {
        self.write(format!(
            "{{\"type\":1,\"target\":\"MarkRead\",\"arguments\":[{{\"conversationId\":\
             \"{conversation}\",\"upToSeq\":{seq}}}]}}{RECORD_SEPARATOR}"
        ))
        .await
    }

    async fn write(&mut self, text: String) -> Result<(), Error> {
        self.next_ping = Instant::now() + PING_INTERVAL;
        let sent = self.socket.send(Frame::text(text)).await;
        sent.map_err(|error| Error::Connect(error.to_string()))
    }

    pub(super) async fn close(mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.socket.close(None)).await;
    }
}

/// Completions in a frame.
fn answers(frame: &str) -> usize {
    frame.split(RECORD_SEPARATOR).filter(|record| record.starts_with("{\"type\":3")).count()
}

/// The messages of a frame, in order.
fn arrivals(frame: &str) -> Vec<Arrival> {
    let mut found = Vec::new();
    for record in frame.split(RECORD_SEPARATOR) {
        if !record.contains("\"target\":\"Receive") {
            continue;
        }
        let mut rest = record;
        while let Some(arrival) = next_arrival(&mut rest) {
            found.push(arrival);
        }
    }
    found
}

fn next_arrival(rest: &mut &str) -> Option<Arrival> {
    const ID: &str = "\"id\":\"";
    const CONTENT: &str = "\"content\":\"";
    let after = rest.get(rest.find(ID)? + ID.len()..)?;
    let id = Uuid::try_parse(after.get(..36)?).ok()?;
    let begin = after.find(CONTENT)?;
    let content = after.get(begin + CONTENT.len()..)?;
    let place = place(after.get(..begin)?);
    *rest = content.get(MARK_LEN..)?;
    let number = |text: Option<&str>| u64::from_str_radix(text?, 16).ok();
    Some(Arrival {
        id: MessageId(id),
        due_micros: number(content.get(..MARK_LEN / 2))?,
        tag: number(content.get(MARK_LEN / 2..MARK_LEN))?,
        place,
    })
}

/// Finds conversation and `seq` in the JSON before the content.
fn place(head: &str) -> Option<(Uuid, i64)> {
    const CONVERSATION: &str = "\"conversationId\":\"";
    const SEQ: &str = "\"seq\":";
    let after = head.get(head.find(CONVERSATION)? + CONVERSATION.len()..)?;
    let conversation = Uuid::try_parse(after.get(..36)?).ok()?;
    let digits = after.get(after.find(SEQ)? + SEQ.len()..)?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    Some((conversation, digits.get(..end)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_looked_through() {
        let id = |n: u128| Uuid::from_u128(n);
        let message = |n: u128| {
            format!(
                "{{\"id\":\"{}\",\"type\":\"oneWay\",\"from\":\"a\",\"to\":\"+1\",\
                 \"content\":\"{:016x}{:016x}xxx\",\"status\":\"pending\"}}",
                id(n),
                n * 10,
                n
            )
        };
        let frame = format!(
            "{{\"type\":6}}\u{1e}{{\"type\":1,\"target\":\"ReceiveMessage\",\"arguments\":[{}]}}\u{1e}\
             {{\"type\":1,\"target\":\"ReceivePendingMessages\",\"arguments\":[[{},{}]]}}\u{1e}",
            message(1),
            message(2),
            message(3)
        );
        let expected = [1, 2, 3].map(|n: u64| Arrival {
            id: MessageId(id(u128::from(n))),
            tag: n,
            due_micros: n * 10,
            place: None,
        });
        assert_eq!(arrivals(&frame), expected);
        let chat = format!(
            "{{\"target\":\"ReceiveMessage\",\"arguments\":[{{\"id\":\"{}\",\"type\":\"chat\",\
             \"conversationId\":\"{}\",\"seq\":12,\"content\":\"{:032x}\"}}]}}",
            id(1),
            id(2),
            0
        );
        assert_eq!(arrivals(&chat)[0].place, Some((id(2), 12)));
        let answer = "{\"type\":3,\"invocationId\":\"a\",\"result\":1}\u{1e}";
        assert_eq!(arrivals(answer), []);
        assert_eq!((answers(answer), answers(&frame)), (1, 0));
        assert_eq!(arrivals("{\"target\":\"ReceiveMessage\",\"id\":\"short"), []);
    }
}
