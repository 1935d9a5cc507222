//! `retention.*`: how long things are kept.

use crate::{
    config::{
        duration::MAX_DURATION,
        key::{default, unset},
        parse::{duration, retention},
        sections::section::section,
    },
    domain::retention::Retention,
};

section! {
    fill Retention in "retention." {
        /// Retention of dead letters.
        dead_letters = default("7d").reloadable() => duration(MAX_DURATION),
        /// Retention of audit log entries.
        audit_log = default("365d").reloadable() => duration(MAX_DURATION),
        /// Retention of messages that are delivered, read or failed, counted from acceptance. Unset or 0:
        /// forever.
        messages = unset("365d").reloadable() => retention,
        /// Retention of delivery events (retries, lost connections and other exceptional steps of a message's
        /// timeline). Unset or 0: as long as the message.
        events = unset("90d").reloadable() => retention,
        /// Retention of messages deleted by an administrator, counted from deletion.
        deleted = default("7d").reloadable() => duration(MAX_DURATION),
        /// How long a request repeated with the same idempotency key gets the first response.
        idempotency_keys = default("24h").reloadable() => duration(MAX_DURATION),
    }
}
