//! `retry.*`: when a delivery that is not acknowledged is tried again.

use crate::{
    config::{
        key::default,
        parse::{DAY, duration, whole},
        sections::section::section,
    },
    domain::retry::RetryPolicy,
};

section! {
    fill RetryPolicy in "retry." {
        /// How long a connected client has to acknowledge a message.
        acknowledge_timeout = default("5s").reloadable() => duration(DAY),
        /// Delay before the first retry; doubles with each further retry.
        base = default("1s").reloadable() => duration(DAY),
        /// Number of retries before a message fails, 0 to 20.
        attempts = default("6").reloadable() => whole(0..=20),
    }
}
