//! `auth.*`: tokens.

use std::time::Duration;

use crate::config::{
    duration::MAX_DURATION,
    key::default,
    parse::{duration, retention},
    sections::section::section,
};

section! {
    /// Tokens.
    pub struct AuthConfig in "auth." {
        /// Default lifetime of a phone's access token.
        access_token_ttl: Duration = default("90d").reloadable() => duration(MAX_DURATION),
        /// Default lifetime of an administrator's token; 0: it never expires.
        admin_token_ttl: Option<Duration> = default("90d").reloadable() => retention,
    }
}
