//! The actions of a session and the reasons for its end.

use bytes::Bytes;

use crate::server::hub::protocol::codec::{CompletionResult, Data};

/// For the driver of the session, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum SessionAction {
    /// Write whole messages; they must not be split over frames.
    Send(Bytes),
    /// The handshake succeeded: calls of the client may be sent from here on.
    HandshakeDone,
    Invoke {
        /// Without it no completion is sent.
        invocation_id: Option<String>,
        /// Compared without case.
        target: String,
        arguments: Vec<Data>,
        /// The client's uploads to this call.
        stream_ids: Vec<String>,
        kind: InvocationKind,
    },
    /// An item of a client's upload; ignored if there is no such upload.
    StreamItem { id: String, item: Data },
    /// The end of a client's upload, or its answer to a call of ours; ignored if there is neither.
    Completion { id: String, outcome: CompletionResult },
    /// Stop a stream; ignored if there is none.
    Cancel { id: String },
    /// Flush the output, then close the transport. No action follows.
    End { reason: EndReason },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvocationKind {
    /// One answer. Input waits until [`Session::complete`](super::Session::complete) or
    /// [`Session::release`](super::Session::release).
    Plain,
    /// A stream of answers, ended by [`Session::answer`](super::Session::answer). Input does not wait.
    Stream,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The handshake was refused, or the server closed before it.
    HandshakeFailed,
    HandshakeTimeout,
    ProtocolError,
    /// A message, or the unread input, exceeded its limit.
    TooLong,
    ClientTimeout,
    /// The client sent a Close message.
    ClientClosed,
    /// The client sent a Close message with an error: it may have failed on its input.
    ClientFailed,
    ServerClosed,
    /// The client did not reconnect in time, or misses messages that are no longer kept.
    Abandoned,
}

impl EndReason {
    /// For logs and metrics.
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
