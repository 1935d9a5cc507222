//! `auth.*`: tokens.

use std::time::Duration;

use crate::config::{duration::LONGEST, keys::default, parse::duration, section::section};

section! {
    /// Tokens.
    pub struct AuthConfig in "auth." {
        /// How long an access token of a phone is valid unless it is made otherwise.
        access_token_ttl: Duration = default("90d").live() => duration(LONGEST),
    }
}
