//! The load of a run, and its target.

use std::{sync::atomic::AtomicU64, time::Duration};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} is no http:// or https:// address")]
    Url(String),
    #[error("the server cannot be reached: {0}")]
    Connect(String),
    #[error("the server refused a connection with status {0}")]
    Refused(u16),
}

#[derive(Clone)]
pub struct LoadTarget {
    /// Several gateways are separated by commas.
    pub url: String,
    /// A business user's token.
    pub sender: String,
    /// Phone numbers and their tokens.
    pub recipients: Vec<(String, String)>,
    /// The server's process, if it runs on this machine.
    pub pid: Option<u32>,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub senders: usize,
    /// Messages per second (open loop). `None`: every sender sends as fast as it is answered (closed loop).
    pub rate: Option<f64>,
    /// Messages in one request.
    pub batch: usize,
    /// Bytes of content; at least 32.
    pub payload: usize,
    /// How long messages are sent, after the warm-up.
    pub duration: Duration,
    /// Messages sent before `duration` starts are not measured.
    pub warmup: Duration,
    /// `low`, `normal` or `high`.
    pub priority: String,
    /// The share of recipients that acknowledge, 0 to 1.
    pub acknowledge: f64,
}

/// Counts that can be read during the run.
#[derive(Debug, Default)]
pub struct LoadProgress {
    /// Recipients that are connected.
    pub connected: AtomicU64,
    pub accepted: AtomicU64,
    /// Different messages that arrived.
    pub received: AtomicU64,
}
