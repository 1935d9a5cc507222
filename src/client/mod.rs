//! A client of the appliance, as a stranger would write it from the documentation: used by the demo
//! and to try things out. It uses nothing of the server's own code.

mod api;
mod hub;

pub use api::{ApiClient, ApiResponse, BodyChunks, StreamedResponse, encode, fetch};
pub use hub::{HubClient, HubEvent};

/// Why a client got no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server cannot be reached or broke off.
    #[error("no connection: {0}")]
    Connection(String),
    /// The server said no.
    #[error("refused with {status}: {detail}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it said.
        detail: String,
    },
    /// The server said something that is not the protocol.
    #[error("not understood: {0}")]
    Protocol(String),
    /// A method of the hub failed.
    #[error("the call failed: {0}")]
    Call(String),
    /// Nothing came in time.
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

    /// Whether the token is to blame: trying again would not help.
    pub fn is_auth_error(&self) -> bool {
        matches!(self, Error::Refused { status: 401 | 403, .. })
    }
}

/// Makes TLS usable; to be called once before anything else. Calling it again does nothing.
pub fn prepare() {
    // Fails only when a provider is set already, which is what is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
