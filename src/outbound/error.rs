//! Why a request got no answer, by kind.

use std::error::Error as StdError;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address or the certificates are of no use.
    #[error("cannot be used: {0}")]
    Unusable(String),
    /// The address is inside a private network.
    #[error("leads into a private network")]
    Forbidden,
    /// No connection: no such host, nobody there, no TLS.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// The connection or the answer broke off.
    #[error("broke off: {0}")]
    Broken(String),
    /// The answer is too long.
    #[error("the answer has more than {limit} bytes")]
    TooLarge {
        /// The most.
        limit: usize,
    },
}

impl Error {
    /// Whether the server cannot have carried out the request.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Error::Unusable(_) | Error::Forbidden | Error::Unreachable(_))
    }
}

/// A name that leads into a private network.
#[derive(Debug, thiserror::Error)]
#[error("it leads into a private network")]
pub(super) struct PrivateAddress;

pub(super) fn unusable(error: reqwest::Error) -> Error {
    Error::Unusable(told(&error))
}

pub(super) fn of_request(error: reqwest::Error) -> Error {
    if causes(&error).any(|cause| cause.is::<PrivateAddress>()) {
        Error::Forbidden
    } else if error.is_connect() {
        Error::Unreachable(told(&error))
    } else if error.is_timeout() {
        Error::TimedOut
    } else if error.is_builder() {
        Error::Unusable(told(&error))
    } else {
        Error::Broken(told(&error))
    }
}

pub(super) fn of_response(error: reqwest::Error) -> Error {
    if error.is_timeout() { Error::TimedOut } else { Error::Broken(told(&error)) }
}

/// An error and what lies below it.
fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

/// The innermost cause. What stands around it names the address, which may hold a secret.
fn told(error: &reqwest::Error) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}
