//! What a run is to do, and to which server.

use std::{sync::atomic::AtomicU64, time::Duration};

/// Why there is no run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be read.
    #[error("{0} is no http:// or https:// address")]
    Url(String),
    /// The server cannot be reached, or ended.
    #[error("the server cannot be reached: {0}")]
    Connect(String),
    /// The server does not take a connection.
    #[error("the server refused a connection with status {0}")]
    Refused(u16),
}

/// The server under load.
#[derive(Clone)]
pub struct LoadTarget {
    /// Its address; those of several gateways with commas.
    pub url: String,
    /// A business user's token.
    pub sender: String,
    /// Phone numbers and their tokens.
    pub recipients: Vec<(String, String)>,
    /// Its process, if it is on this machine.
    pub pid: Option<u32>,
}

/// What to do to it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Connections that send.
    pub senders: usize,
    /// Messages a second by an open loop; `None` for as many as go, each sender one after the other.
    pub rate: Option<f64>,
    /// Messages in one request.
    pub batch: usize,
    /// Bytes of content; at least 32.
    pub payload: usize,
    /// How long messages are sent, after the warm-up.
    pub duration: Duration,
    /// How long before that what is sent does not count.
    pub warmup: Duration,
    /// `low`, `normal` or `high`.
    pub priority: String,
    /// The share of recipients that acknowledge, 0 to 1.
    pub acknowledge: f64,
}

/// How far it is, for whoever watches.
#[derive(Debug, Default)]
pub struct LoadProgress {
    /// Recipients that are connected.
    pub connected: AtomicU64,
    /// Messages accepted.
    pub accepted: AtomicU64,
    /// Different messages that arrived.
    pub received: AtomicU64,
}
