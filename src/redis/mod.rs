//! The client of Redis, which presence, rate limits and the cache share. This room owns the `redis` crate.
//!
//! It has two connections, one for commands and one for messages of other processes: Redis disconnects a slow
//! subscriber, and that must not affect commands. While Redis is away every call fails at once; every caller
//! has a fallback.

mod cache_entries;
mod connection;
mod presence;
mod rate_limits;
mod seal;
mod server_info;
mod target;

use std::time::Duration;

use thiserror::Error;

pub use connection::{Redis, RedisEvent, RedisSettings, RedisState};
pub use presence::PresenceLookup;
pub use rate_limits::RateAdmission;
pub use seal::RedisSealer;
pub use server_info::{RedisMemory, RedisServerInfo, check_login};
pub use target::RedisTarget;

/// Redis usually answers within a millisecond. An answer after a second comes too late for every caller.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Prefix of every key and channel. It changes with their meaning. Before version 2, frames and pages were not
/// encrypted.
const PREFIX: &str = "esh3ar:v2:";

#[derive(Debug, Error)]
pub enum Error {
    /// Redis is known to be away.
    #[error("Redis is away")]
    Down,
    /// Redis did not answer, or refused.
    #[error("Redis: {0}")]
    Failed(String),
}

impl From<::redis::RedisError> for Error {
    fn from(error: ::redis::RedisError) -> Self {
        Error::Failed(error.to_string())
    }
}
