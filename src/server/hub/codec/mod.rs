//! The messages of the hub protocol and their bytes, one file per encoding.
//!
//! An encoding is chosen once per connection by the handshake. This room finds where a message
//! ends, reads it and writes it; it knows neither connections nor what the messages are for.

mod data;
mod excess;
mod json;
mod messagepack;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde::Serialize;

use crate::server::pagination;

pub use self::{
    data::Data,
    excess::{Excess, Head, Taken},
};

/// The byte that ends a record: JSON messages and both halves of every handshake.
pub const RECORD_END: u8 = 0x1E;

/// An encoding of the hub protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// JSON records, each ended by [`RECORD_END`].
    Json,
    /// MessagePack arrays, each after its length.
    MessagePack,
}

impl Protocol {
    /// Every encoding a client may choose.
    pub const ALL: [Protocol; 2] = [Protocol::Json, Protocol::MessagePack];

    /// The encoding a handshake asks for; names are compared without case, as the official server
    /// does.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.name().eq_ignore_ascii_case(name))
    }

    /// Its name in the handshake.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Json => "json",
            Protocol::MessagePack => "messagepack",
        }
    }

    /// Whether its messages go out in WebSocket frames of text. The JavaScript client fails on JSON
    /// in a binary frame.
    pub fn is_text(self) -> bool {
        match self {
            Protocol::Json => true,
            Protocol::MessagePack => false,
        }
    }
}

/// How an invocation ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It ended without a result, as streams do. A method that returns nothing returns null, as with
    /// the official server.
    Void,
    /// It returned this.
    Value(Data),
    /// It failed, with the text the other side is to see.
    Error(String),
}

/// A message from a client.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// Call a method.
    Invocation {
        /// Names the call in its completion; without it no answer whatsoever is due.
        invocation_id: Option<String>,
        /// The method's name.
        target: String,
        /// The arguments, by position.
        arguments: Vec<Data>,
        /// The client's uploads to this call.
        stream_ids: Vec<String>,
    },
    /// Call a method that answers with a stream.
    StreamInvocation {
        /// Names the stream.
        invocation_id: String,
        /// The method's name.
        target: String,
        /// The arguments, by position.
        arguments: Vec<Data>,
        /// The client's uploads to this call.
        stream_ids: Vec<String>,
    },
    /// One item of a client's upload.
    StreamItem {
        /// The upload.
        invocation_id: String,
        /// The item; null is an item too.
        item: Data,
    },
    /// The end of a client's upload, or its answer to a call of ours.
    Completion {
        /// The upload or the call.
        invocation_id: String,
        /// How it ended.
        outcome: Outcome,
    },
    /// Stop a stream.
    CancelInvocation {
        /// The stream.
        invocation_id: String,
    },
    /// The client is there.
    Ping,
    /// The client leaves.
    Close {
        /// Why, when it was for an error.
        error: Option<String>,
        /// Means nothing from a client.
        allow_reconnect: bool,
    },
    /// The client has every counted message up to this one (stateful reconnect).
    Ack {
        /// Counted from 1.
        sequence_id: u64,
    },
    /// What follows is a replay from this message on (stateful reconnect).
    Sequence {
        /// Counted from 1.
        sequence_id: u64,
    },
    /// A message of a type not known here, which is to be ignored.
    Unknown,
}

/// Why a message is not one. The texts are those of the official server, which clients log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not JSON, or not UTF-8.
    #[error("Error reading JSON.")]
    Json,
    /// JSON, but not an object.
    #[error("Unexpected JSON Token Type '{0}'. Expected a JSON Object.")]
    NotAnObject(&'static str),
    /// A property that this type of message must have is absent.
    #[error("Missing required property '{0}'.")]
    Missing(&'static str),
    /// A property has a value of the wrong type.
    #[error("Expected '{property}' to be of type {expected}.")]
    WrongType {
        /// The property.
        property: &'static str,
        /// The type it must have.
        expected: &'static str,
    },
    /// A property that must be a truth value is not.
    #[error("Expected '{0}' to be true or false.")]
    NotAFlag(&'static str),
    /// Not MessagePack, or not the array that a message is; what could not be read.
    #[error("Reading {0} failed.")]
    MessagePack(&'static str),
    /// A completion that succeeded and failed.
    #[error("The 'error' and 'result' properties are mutually exclusive.")]
    ResultAndError,
}

/// Why a message cannot be written: the argument's own `Serialize` failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot encode a hub message")]
pub enum EncodeError {
    /// As JSON.
    Json(#[from] serde_json::Error),
    /// As MessagePack.
    MessagePack(#[from] rmp_serde::encode::Error),
}

/// What the front of a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// A whole message: the bytes from `start` to `end` are to be read, `used` bytes taken away.
    Whole {
        /// Where the message begins, after what frames it.
        start: usize,
        /// Where it ends.
        end: usize,
        /// Length with its frame.
        used: usize,
    },
    /// A part of a message.
    Partial,
    /// A message longer than allowed.
    TooLong,
}

/// Finds the first message in `bytes`. Its first `scanned` bytes are known to hold no end: the
/// length of the buffer at the last [`Split::Partial`]. `max` limits the payload, in bytes; that a
/// message is too long does not depend on how much of it has come.
pub fn split(protocol: Protocol, bytes: &[u8], scanned: usize, max: usize) -> Split {
    match protocol {
        Protocol::Json => split_record(bytes, scanned, max),
        Protocol::MessagePack => messagepack::split(bytes, max),
    }
}

/// [`split`] for records, which handshakes are under every protocol.
pub fn split_record(bytes: &[u8], scanned: usize, max: usize) -> Split {
    // Past the limit an end makes no difference, so that part is not looked at.
    let reach = bytes.len().min(max.saturating_add(1));
    let fresh = bytes.get(scanned..reach).unwrap_or_default();
    match fresh.iter().position(|byte| *byte == RECORD_END) {
        Some(at) => Split::Whole { start: 0, end: scanned + at, used: scanned + at + 1 },
        None if bytes.len() > max => Split::TooLong,
        None => Split::Partial,
    }
}

/// Reads the payload of one message.
pub fn parse(protocol: Protocol, payload: &[u8]) -> Result<Incoming, ParseError> {
    match protocol {
        Protocol::Json => json::parse(payload),
        Protocol::MessagePack => messagepack::parse(payload),
    }
}

/// A call of the client's `target` with one argument and no answer due, whole. `target` goes out in
/// the exact case given, which the .NET client compares.
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

/// A value as it stands in a message. Such parts are put into a call by [`call_with`] and
/// [`call_with_list`], so that a page is measured and written in one pass.
pub fn part<T: Serialize>(protocol: Protocol, value: &T) -> Result<Vec<u8>, EncodeError> {
    match protocol {
        Protocol::Json => Ok(serde_json::to_vec(value)?),
        Protocol::MessagePack => messagepack::part(value),
    }
}

/// [`invocation`] with an argument that [`part`] has written.
pub fn call_with(protocol: Protocol, target: &str, part: &[u8]) -> Bytes {
    match protocol {
        Protocol::Json => json::call(target, b"", [part], b""),
        Protocol::MessagePack => messagepack::call(target, None, [part]),
    }
}

/// [`invocation`] with a list of values that [`part`] has written.
pub fn call_with_list(protocol: Protocol, target: &str, parts: &[Vec<u8>]) -> Bytes {
    let items = parts.iter().map(Vec::as_slice);
    match protocol {
        Protocol::Json => json::call(target, b"[", items, b"]"),
        Protocol::MessagePack => messagepack::call(target, Some(parts.len()), items),
    }
}

/// How long a text is as it stands in a message.
pub fn text_len(protocol: Protocol, text: &str) -> usize {
    match protocol {
        Protocol::Json => pagination::json_length(text),
        // After at most five bytes that tell its length.
        Protocol::MessagePack => text.len() + 5,
    }
}

/// A call of the client's `target` that it is to answer with a completion of `id`, whole.
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

/// One item of the stream `id`, whole.
pub fn stream_item(protocol: Protocol, id: &str, item: &Data) -> Bytes {
    match protocol {
        Protocol::Json => json::stream_item(id, item),
        Protocol::MessagePack => messagepack::stream_item(id, item),
    }
}

/// What stateful reconnect says besides messages: that they came, or where a replay begins.
pub fn acknowledgement(protocol: Protocol, sequence_id: u64) -> Bytes {
    numbered(protocol, 8, sequence_id)
}

/// See [`acknowledgement`]: the message with which a replay begins.
pub fn sequence(protocol: Protocol, sequence_id: u64) -> Bytes {
    numbered(protocol, 9, sequence_id)
}

fn numbered(protocol: Protocol, kind: u8, sequence_id: u64) -> Bytes {
    match protocol {
        Protocol::Json => json::numbered(kind, sequence_id),
        Protocol::MessagePack => messagepack::numbered(kind, sequence_id),
    }
}

/// The answer to the invocation `id`, whole.
pub fn completion(protocol: Protocol, id: &str, outcome: &Outcome) -> Bytes {
    match protocol {
        Protocol::Json => json::completion(id, outcome),
        Protocol::MessagePack => messagepack::completion(id, outcome),
    }
}

/// A ping, whole.
pub fn ping(protocol: Protocol) -> Bytes {
    match protocol {
        Protocol::Json => json::ping(),
        Protocol::MessagePack => messagepack::ping(),
    }
}

/// The server's goodbye, whole. A client with automatic reconnect comes back only when
/// `allow_reconnect` is set.
pub fn close(protocol: Protocol, error: Option<&str>, allow_reconnect: bool) -> Bytes {
    match protocol {
        Protocol::Json => json::close(error, allow_reconnect),
        Protocol::MessagePack => messagepack::close(error, allow_reconnect),
    }
}
