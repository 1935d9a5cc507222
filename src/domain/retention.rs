//! How long things are kept.

use std::time::Duration;

/// How long things are kept. `None`: for ever.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Dead letters.
    pub dead_letters: Duration,
    /// The audit log: who looked at whose data.
    pub audit_log: Duration,
    /// Messages that are delivered, read or failed for good, from their acceptance.
    pub messages: Option<Duration>,
    /// The unusual steps of messages' ways.
    pub events: Option<Duration>,
    /// The rows of messages that an administrator deleted, from their deletion.
    pub deleted: Duration,
    /// Idempotency keys and their answers.
    pub idempotency_keys: Duration,
}
