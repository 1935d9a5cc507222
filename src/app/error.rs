//! Why a use case did not do what was asked.

use std::time::Duration;

use crate::{
    domain::{Permission, message::FieldError},
    store,
};

/// A failed use case. Each border maps it once: to a problem of HTTP, to a completion of the hub, to
/// an exit status.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}", fields_text(.0))]
    Invalid(Vec<FieldError>),
    /// No token, or one that opens nothing.
    #[error("a valid token is needed")]
    Unauthenticated,
    /// The caller may not do this kind of thing at all.
    #[error("this needs the permission {}", .0.name())]
    Forbidden(Permission),
    /// The route is for the other kind of user.
    #[error("this is for {0} users")]
    WrongAudience(&'static str),
    /// What was to be answered cannot be: one-way messages go one way.
    #[error(
        "one-way messages come from business users and cannot be replied to; \
         a reply needs a conversation"
    )]
    ReadOnly,
    /// There is no such thing, or none that the caller may see.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// It stands in the way of something that is there.
    #[error("{0}")]
    Conflict(String),
    /// The content policy of the sender refuses the message.
    #[error("the content policy refuses this message: {}", fields_text(.0))]
    ContentRefused(Vec<FieldError>),
    /// An idempotency key came back with another request.
    #[error("this Idempotency-Key was used for another request")]
    KeyReused,
    /// A client's own name for a message came back with another message. Nothing was stored.
    #[error(
        "this clientMessageId was used for a message with another content, type or conversation; \
         give each message its own"
    )]
    ClientMessageIdReused,
    /// The caller has sent or changed as much as it may for now.
    #[error("at most {most} {what} per {per}; the next passes in {} s", whole_seconds(*.retry_after))]
    RateLimited {
        /// When the next one passes.
        retry_after: Duration,
        most: u32,
        what: &'static str,
        /// In which time.
        per: &'static str,
    },
    /// More than can be taken now.
    #[error("overloaded; try again later")]
    Overloaded { retry_after: Duration },
    /// A dependency cannot be reached. What was asked may have happened.
    #[error("the database cannot be reached; try again with the same Idempotency-Key")]
    Unavailable,
    /// The database has no room left on its disk. Nothing that was asked has happened.
    #[error(
        "the disk of the database is full: nothing can be stored before there is room on it; try again \
         later with the same Idempotency-Key"
    )]
    DiskFull,
    /// Another part that this needs does not answer. Nothing was done.
    #[error("{0} does not answer; try again later")]
    Away(&'static str),
    /// A fault of ours; the cause is in the log.
    #[error("an internal error")]
    Internal,
}

/// Whole seconds, rounded up and at least one: what `Retry-After` can say.
pub fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

fn fields_text(fields: &[FieldError]) -> String {
    fields.iter().map(|field| field.message.as_str()).collect::<Vec<_>>().join("; ")
}

impl Error {
    pub fn field(field: &'static str, code: &'static str, message: impl Into<String>) -> Error {
        Error::Invalid(vec![FieldError::new(field, code, message)])
    }
}

impl Error {
    /// What everybody is told whose part of a batch could not be stored. The cause is logged once, by who
    /// wrote the batch.
    pub(super) fn of_batch(error: &store::Error) -> Error {
        match error {
            store::Error::DiskFull(_) => Error::DiskFull,
            error if error.is_transient() => Error::Unavailable,
            _ => Error::Internal,
        }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Unavailable(cause) | store::Error::Contention(cause) => {
                tracing::warn!(%cause, "the database is not available");
                Error::Unavailable
            }
            store::Error::Busy => Error::Overloaded { retry_after: Duration::from_secs(1) },
            store::Error::DiskFull(cause) => {
                tracing::error!(%cause, "the disk of the database is full");
                Error::DiskFull
            }
            store::Error::Conflict { constraint } => {
                Error::Conflict(format!("there is one already ({constraint})"))
            }
            store::Error::Corrupt(cause) | store::Error::Other(cause) => {
                tracing::error!(%cause, "the database refused a statement");
                Error::Internal
            }
        }
    }
}
