//! What a session tells its driver.

use bytes::Bytes;

use crate::server::hub::protocol::codec::{CompletionResult, Data};

/// What the driver of a session is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum SessionAction {
    /// Write these bytes: whole messages, never to be split over frames.
    Send(Bytes),
    /// The client and the server understand each other; calls of the client may go out from here.
    HandshakeDone,
    /// Call a method.
    Invoke {
        /// Names the call; without it no answer is next_ping.
        invocation_id: Option<String>,
        /// The method's name, to be matched without case.
        target: String,
        /// The arguments, by position.
        arguments: Vec<Data>,
        /// The client's uploads to this call.
        stream_ids: Vec<String>,
        /// Which kind of answer the client expects.
        kind: InvocationKind,
    },
    /// An item of a client's upload.
    StreamItem {
        /// The upload; if there is none, the item is to be ignored.
        id: String,
        /// The item.
        item: Data,
    },
    /// The end of a client's upload, or its answer to a call of ours.
    Completion {
        /// The upload or the call; if there is neither, this is to be ignored.
        id: String,
        /// How it ended.
        outcome: CompletionResult,
    },
    /// Stop a stream.
    Cancel {
        /// The stream; if there is none, this is to be ignored.
        id: String,
    },
    /// Flush what was sent, then end the transport. Nothing follows.
    End {
        /// Why.
        reason: EndReason,
    },
}

/// The kinds of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvocationKind {
    /// One answer. Holds back the input that follows until [`Session::complete`](super::Session::complete)
    /// or [`Session::release`](super::Session::release).
    Plain,
    /// A stream of answers. Does not hold back anything; ended by [`Session::answer`](super::Session::answer).
    Stream,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The handshake was refused, or the server left before it.
    HandshakeFailed,
    /// No handshake came in time.
    HandshakeTimeout,
    /// The client sent what is not the protocol.
    ProtocolError,
    /// The client sent a message longer than allowed, or more than it was asked for.
    TooLong,
    /// The client fell silent.
    ClientTimeout,
    /// The client said goodbye.
    ClientClosed,
    /// The client said goodbye with an error: it may have failed on what it was sent.
    ClientFailed,
    /// The server said goodbye.
    ServerClosed,
    /// The client lost its transport and did not come back in time, or for what is not kept any more.
    Abandoned,
}

impl EndReason {
    /// A name for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            EndReason::HandshakeFailed => "handshake_failed",
            EndReason::HandshakeTimeout => "handshake_timeout",
            EndReason::ProtocolError => "protocol_error",
            EndReason::TooLong => "too_long",
            EndReason::ClientTimeout => "client_timeout",
            EndReason::ClientClosed => "client_closed",
            EndReason::ClientFailed => "client_failed",
            EndReason::ServerClosed => "server_closed",
            EndReason::Abandoned => "abandoned",
        }
    }
}
