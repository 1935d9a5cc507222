//! `retention.*`: how long things are kept.

use crate::{
    config::{
        duration::LONGEST,
        keys::{default, unset},
        parse::{duration, kept},
        section::section,
    },
    domain::retention::Retention,
};

section! {
    fill Retention in "retention." {
        /// How long dead letters are kept.
        dead_letters = default("7d").live() => duration(LONGEST),
        /// How long it is kept who looked at whose data.
        audit_log = default("365d").live() => duration(LONGEST),
        /// How long messages are kept that are delivered, read or failed for good, from their acceptance;
        /// unset or 0: for ever.
        messages = unset("365d").live() => kept,
        /// How long the unusual steps of messages' ways are kept; unset or 0: as long as the messages.
        events = unset("90d").live() => kept,
        /// How long the rows of messages are kept that an administrator deleted, from their deletion.
        deleted = default("7d").live() => duration(LONGEST),
        /// How long a repeat with the same key gets the first answer.
        idempotency_keys = default("24h").live() => duration(LONGEST),
    }
}
