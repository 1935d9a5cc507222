//! Why a request got no response.

use std::error::Error as StdError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL or the certificates are invalid.
    #[error("cannot be used: {0}")]
    Unusable(String),
    #[error("leads into a private network")]
    Forbidden,
    /// No connection: DNS, TCP or TLS failed.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    #[error("no answer in time")]
    TimedOut,
    #[error("broke off: {0}")]
    Broken(String),
    #[error("the answer has more than {limit} bytes")]
    TooLarge { limit: usize },
}

impl Error {
    /// Whether the server cannot have executed the request.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Error::Unusable(_) | Error::Forbidden | Error::Unreachable(_))
    }
}

/// A name that resolves to private addresses only.
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

/// An error and its sources.
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

/// The innermost source. The outer ones contain the URL, which may contain a secret.
fn told(error: &reqwest::Error) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}
