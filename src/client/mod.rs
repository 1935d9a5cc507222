//! A client of the appliance, written from the documentation only: used by commands and tests. It uses
//! nothing of the server's own code.
#![deny(missing_docs)]

mod api;
mod hub;

pub use api::{ApiClient, ApiResponse, BodyChunks, StreamedResponse, encode, fetch};
pub use hub::{HubClient, HubEvent};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server cannot be reached, or the connection was lost.
    #[error("no connection: {0}")]
    Connection(String),
    /// The server answered with an error.
    #[error("refused with {status}: {detail}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The error's `detail`.
        detail: String,
    },
    /// The server violated the protocol.
    #[error("not understood: {0}")]
    Protocol(String),
    /// A method of the hub failed.
    #[error("the call failed: {0}")]
    Call(String),
    /// No response in time.
    #[error("no answer in time")]
    TimedOut,
}

/// What precedes a method's own error in the text of a failed call, as the hub's protocol says.
const HUB_EXCEPTION: &str = "HubException: ";

impl Error {
    /// Of a failed call the server's own text, `code: text`.
    pub fn call_text(&self) -> Option<&str> {
        let Error::Call(text) = self else { return None };
        Some(text.split_once(HUB_EXCEPTION).map_or(text.as_str(), |(_, own)| own))
    }

    /// Whether the token was rejected: a retry would not help.
    pub fn is_auth_error(&self) -> bool {
        matches!(self, Error::Refused { status: 401 | 403, .. })
    }
}

/// Installs the TLS provider; to be called before anything else. Further calls do nothing.
pub fn prepare() {
    // Fails only if a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
