//! The calls of the diagnostics hub.

use crate::server::hub::protocol::codec::Data;

/// A call whose arguments have been read.
#[derive(Debug)]
pub enum DiagnosticCall {
    Echo(Data),
    Fail(String),
    /// Streams this many numbers.
    Count(u64),
    /// Streams numbers until it is cancelled.
    Forever,
    /// Joins the items of the upload with this id.
    Concat(String),
    CallMe(String),
    AskMe(String),
    ConnectionId,
    Calls,
}
