//! Why the broker cannot be used.

use std::{io, time::Duration};

/// No text contains a password.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No answer, or not in time.
    #[error("the broker cannot be reached: {0}")]
    Unreachable(String),
    #[error("what answers there is no RabbitMQ")]
    Foreign,
    #[error("the broker is RabbitMQ {0}; 3.10 or newer is needed")]
    Old(String),
    /// The broker refused a command or closed the connection.
    #[error("{0}")]
    Refused(String),
    /// A queue or exchange of this name exists with other properties.
    #[error("a queue or exchange is there with other properties: {0}")]
    Mismatch(String),
    /// Publishes were returned or a consumer was cancelled: a queue is gone.
    #[error("a queue is missing")]
    Missing,
    #[error("the broker does not confirm publishes")]
    Unconfirmed,
}

impl Error {
    pub(super) fn silent(patience: Duration) -> Error {
        Error::Unreachable(format!("no answer in {} s", patience.as_secs()))
    }

    pub(super) fn is_mismatch(&self) -> bool {
        matches!(self, Error::Mismatch(_))
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::Unreachable(error.to_string())
    }
}

impl From<lapin::Error> for Error {
    fn from(error: lapin::Error) -> Error {
        use lapin::ErrorKind;
        match error.kind() {
            ErrorKind::IOError(inner) => Error::Unreachable(inner.to_string()),
            ErrorKind::MissingHeartbeatError => Error::Unreachable(error.to_string()),
            ErrorKind::ProtocolError(inner) => {
                let text = inner.get_message().to_string();
                // The code, 406, is used for other errors, too.
                let is_mismatch = text.contains("inequivalent arg");
                if is_mismatch { Error::Mismatch(text) } else { Error::Refused(text) }
            }
            _ => Error::Refused(error.to_string()),
        }
    }
}
