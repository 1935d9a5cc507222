//! Retention periods.

use std::time::Duration;

/// Retention periods; `None` is forever.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Dead letters.
    pub dead_letters: Duration,
    /// Audit log entries.
    pub audit_log: Duration,
    /// Delivered, read and failed messages, counted from acceptance.
    pub messages: Option<Duration>,
    /// Delivery events.
    pub events: Option<Duration>,
    /// Messages deleted by an administrator, counted from deletion.
    pub deleted: Duration,
    /// Idempotency keys and their responses.
    pub idempotency_keys: Duration,
}
