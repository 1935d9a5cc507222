//! The messages of the hub protocol and their bytes, one file per encoding.
//!
//! The handshake chooses an encoding per connection. The codec finds the end of a message, reads it and
//! writes it; it knows neither connections nor the purpose of messages.

mod data;
mod json;
mod message_head;
mod messagepack;
mod oversized;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde::Serialize;

use crate::server::pagination;

pub use self::{
    data::Data,
    message_head::MessageHead,
    oversized::{OversizedMessage, SkipProgress},
};

/// Ends a record: a JSON message, and both halves of every handshake.
pub const RECORD_END: u8 = 0x1E;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Records, each ended by [`RECORD_END`].
    Json,
    /// Arrays, each preceded by its length.
    MessagePack,
}

impl Protocol {
    pub const ALL: [Protocol; 2] = [Protocol::Json, Protocol::MessagePack];

    /// Names are compared without case, as the official server does.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.name().eq_ignore_ascii_case(name))
    }

    /// As in the handshake.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Json => "json",
            Protocol::MessagePack => "messagepack",
        }
    }

    /// Whether messages are sent in text frames of a WebSocket. The JavaScript client fails on JSON in a
    /// binary frame.
    pub fn is_text(self) -> bool {
        match self {
            Protocol::Json => true,
            Protocol::MessagePack => false,
        }
    }
}

/// The result in a completion.
#[derive(Clone, Debug, PartialEq)]
pub enum CompletionResult {
    /// No result, as at the end of a stream. A method that returns nothing returns null, as with the
    /// official server.
    Void,
    Value(Data),
    /// The text for the other side.
    Error(String),
}

#[derive(Clone, Debug, PartialEq)]
pub enum ClientMessage {
    Invocation {
        /// Without it no completion may be sent.
        invocation_id: Option<String>,
        target: String,
        arguments: Vec<Data>,
        /// The client's uploads to this call.
        stream_ids: Vec<String>,
    },
    StreamInvocation {
        invocation_id: String,
        target: String,
        arguments: Vec<Data>,
        /// The client's uploads to this call.
        stream_ids: Vec<String>,
    },
    /// One item of a client's upload.
    StreamItem {
        invocation_id: String,
        /// May be null.
        item: Data,
    },
    /// The end of a client's upload, or its answer to a call of ours.
    Completion {
        invocation_id: String,
        outcome: CompletionResult,
    },
    CancelInvocation {
        invocation_id: String,
    },
    Ping,
    Close {
        error: Option<String>,
        /// Has no meaning from a client.
        allow_reconnect: bool,
    },
    /// The client received every counted message up to this one (stateful reconnect).
    Ack {
        /// Counted from 1.
        sequence_id: u64,
    },
    /// A replay from this message on follows (stateful reconnect).
    Sequence {
        /// Counted from 1.
        sequence_id: u64,
    },
    /// A message of an unknown type, to be ignored.
    Unknown,
}

/// The texts are those of the official server, which clients log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not JSON, or not UTF-8.
    #[error("Error reading JSON.")]
    Json,
    #[error("Unexpected JSON Token Type '{0}'. Expected a JSON Object.")]
    NotAnObject(&'static str),
    #[error("Missing required property '{0}'.")]
    Missing(&'static str),
    #[error("Expected '{property}' to be of type {expected}.")]
    WrongType { property: &'static str, expected: &'static str },
    #[error("Expected '{0}' to be true or false.")]
    NotAFlag(&'static str),
    /// Not MessagePack, or not an array; names the part that could not be read.
    #[error("Reading {0} failed.")]
    MessagePack(&'static str),
    #[error("The 'error' and 'result' properties are mutually exclusive.")]
    ResultAndError,
}

/// The argument's own `Serialize` failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot encode a hub message")]
pub enum EncodeError {
    Json(#[from] serde_json::Error),
    MessagePack(#[from] rmp_serde::encode::Error),
}

/// What stands at the front of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// The bytes from `start` to `end` are the payload; `used` bytes are to be removed.
    Whole {
        start: usize,
        end: usize,
        /// With its framing.
        used: usize,
    },
    Partial,
    TooLong,
}

/// Finds the first message in `bytes`. Its first `scanned` bytes are known to contain no end: the length of
/// the buffer at the last [`Split::Partial`]. `max` limits the payload in bytes, regardless of how much of
/// it has arrived.
pub fn split(protocol: Protocol, bytes: &[u8], scanned: usize, max: usize) -> Split {
    match protocol {
        Protocol::Json => split_record(bytes, scanned, max),
        Protocol::MessagePack => messagepack::split(bytes, max),
    }
}

/// [`split`] for records; handshakes are records under every protocol.
pub fn split_record(bytes: &[u8], scanned: usize, max: usize) -> Split {
    // An end past the limit makes no difference.
    let reach = bytes.len().min(max.saturating_add(1));
    let fresh = bytes.get(scanned..reach).unwrap_or_default();
    match fresh.iter().position(|byte| *byte == RECORD_END) {
        Some(at) => Split::Whole { start: 0, end: scanned + at, used: scanned + at + 1 },
        None if bytes.len() > max => Split::TooLong,
        None => Split::Partial,
    }
}

pub fn parse(protocol: Protocol, payload: &[u8]) -> Result<ClientMessage, ParseError> {
    match protocol {
        Protocol::Json => json::parse(payload),
        Protocol::MessagePack => messagepack::parse(payload),
    }
}

/// A call of the client with one argument and without an answer. The .NET client compares `target` with
/// case.
pub fn invocation<T: Serialize>(
    protocol: Protocol,
    target: &str,
    argument: &T,
) -> Result<Bytes, EncodeError> {
    match protocol {
        Protocol::Json => json::invocation(None, target, argument),
        Protocol::MessagePack => messagepack::invocation(None, target, argument),
    }
}

/// A value as it stands in a message. [`call_with`] and [`call_with_list`] put such parts into a call, so
/// that a page is measured and written in one pass.
pub fn part<T: Serialize>(protocol: Protocol, value: &T) -> Result<Vec<u8>, EncodeError> {
    match protocol {
        Protocol::Json => Ok(serde_json::to_vec(value)?),
        Protocol::MessagePack => messagepack::part(value),
    }
}

/// [`invocation`] with an argument encoded by [`part`].
pub fn call_with(protocol: Protocol, target: &str, part: &[u8]) -> Bytes {
    match protocol {
        Protocol::Json => json::call(target, b"", [part], b""),
        Protocol::MessagePack => messagepack::call(target, None, [part]),
    }
}

/// [`invocation`] with a list of values encoded by [`part`].
pub fn call_with_list(protocol: Protocol, target: &str, parts: &[Vec<u8>]) -> Bytes {
    let items = parts.iter().map(Vec::as_slice);
    match protocol {
        Protocol::Json => json::call(target, b"[", items, b"]"),
        Protocol::MessagePack => messagepack::call(target, Some(parts.len()), items),
    }
}

/// The length of a text as it stands in a message.
pub fn text_len(protocol: Protocol, text: &str) -> usize {
    match protocol {
        Protocol::Json => pagination::json_length(text),
        // Its length prefix takes at most five bytes.
        Protocol::MessagePack => text.len() + 5,
    }
}

/// A call of the client that it answers with a completion of `id`.
pub fn question<T: Serialize>(
    protocol: Protocol,
    id: &str,
    target: &str,
    argument: &T,
) -> Result<Bytes, EncodeError> {
    match protocol {
        Protocol::Json => json::invocation(Some(id), target, argument),
        Protocol::MessagePack => messagepack::invocation(Some(id), target, argument),
    }
}

pub fn stream_item(protocol: Protocol, id: &str, item: &Data) -> Bytes {
    match protocol {
        Protocol::Json => json::stream_item(id, item),
        Protocol::MessagePack => messagepack::stream_item(id, item),
    }
}

/// Stateful reconnect: the messages up to this one have been received.
pub fn acknowledgement(protocol: Protocol, sequence_id: u64) -> Bytes {
    numbered(protocol, 8, sequence_id)
}

/// Stateful reconnect: a replay begins at this message.
pub fn sequence(protocol: Protocol, sequence_id: u64) -> Bytes {
    numbered(protocol, 9, sequence_id)
}

fn numbered(protocol: Protocol, kind: u8, sequence_id: u64) -> Bytes {
    match protocol {
        Protocol::Json => json::numbered(kind, sequence_id),
        Protocol::MessagePack => messagepack::numbered(kind, sequence_id),
    }
}

pub fn completion(protocol: Protocol, id: &str, outcome: &CompletionResult) -> Bytes {
    match protocol {
        Protocol::Json => json::completion(id, outcome),
        Protocol::MessagePack => messagepack::completion(id, outcome),
    }
}

pub fn ping(protocol: Protocol) -> Bytes {
    match protocol {
        Protocol::Json => json::ping(),
        Protocol::MessagePack => messagepack::ping(),
    }
}

/// A client with automatic reconnect returns only when `allow_reconnect` is set.
pub fn close(protocol: Protocol, error: Option<&str>, allow_reconnect: bool) -> Bytes {
    match protocol {
        Protocol::Json => json::close(error, allow_reconnect),
        Protocol::MessagePack => messagepack::close(error, allow_reconnect),
    }
}
