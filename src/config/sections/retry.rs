//! `retry.*`: when a delivery that is not acknowledged is tried again.

use crate::{
    config::{
        keys::default,
        parse::{DAY, duration, whole},
        section::section,
    },
    domain::retry::RetryPolicy,
};

section! {
    fill RetryPolicy in "retry." {
        /// How long a live connection has to acknowledge a message.
        acknowledge_timeout = default("5s").live() => duration(DAY),
        /// Wait before the first retry; each further one doubles it.
        base = default("1s").live() => duration(DAY),
        /// Retries before a message fails.
        attempts = default("6").live() => whole(0..=20),
    }
}
