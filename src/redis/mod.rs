//! Redis: one way to it for commands, another for what other processes tell this one.
//!
//! Two connections, because Redis cuts a subscriber that is slow, and that must not take the commands
//! with it. While Redis is away every call fails at once; whoever asks has another way.

mod cache_entries;
mod connection;
mod presence;
mod rate_limits;
mod server_info;
mod target;

use std::time::Duration;

use thiserror::Error;

pub use connection::{Redis, RedisEvent, RedisSettings, RedisState};
pub use rate_limits::RateAdmission;
pub use server_info::{RedisMemory, RedisServerInfo, check_login};
pub use target::RedisTarget;

/// How long Redis may take to answer. It answers within a millisecond; what takes a second will not
/// come in time for anybody.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Before every key and channel. A version that means something else by them has another one.
const PREFIX: &str = "esh3ar:v1:";

/// Why Redis did not do what it was asked.
#[derive(Debug, Error)]
pub enum Error {
    /// It is away, and that is known.
    #[error("Redis is away")]
    Down,
    /// It did not answer, or refused.
    #[error("Redis: {0}")]
    Failed(String),
}

impl From<::redis::RedisError> for Error {
    fn from(error: ::redis::RedisError) -> Self {
        Error::Failed(error.to_string())
    }
}
