//! Database errors, by what the caller can do about them.

use deadpool::managed::PoolError;
use tokio_postgres::error::SqlState;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database is unreachable, starting or stopping, or did not answer in time. The outcome of the
    /// statement is unknown.
    #[error("the database cannot be reached: {0}")]
    Unavailable(String),
    /// The database's disk is full; the statement had no effect.
    #[error("the database's disk is full: {0}")]
    DiskFull(String),
    /// A unique constraint refused a row.
    #[error("violates the constraint {constraint}")]
    Conflict { constraint: String },
    /// A deadlock or serialization failure; the caller should retry.
    #[error("conflict with a concurrent transaction: {0}")]
    Contention(String),
    /// The party's queue of reads is full; no statement was sent.
    #[error("too many queued reads of one user")]
    Busy,
    /// A stored row cannot be decoded.
    #[error("cannot decode stored data: {0}")]
    Corrupt(String),
    /// Anything else: a bug.
    #[error("statement failed: {0}")]
    Other(String),
}

impl Error {
    /// Whether the call may be retried.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Error::Unavailable(_) | Error::DiskFull(_) | Error::Contention(_) | Error::Busy
        )
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            // Any error without a server response is a broken connection, except a value of the wrong type,
            // which is found before it is sent.
            let is_broken = error.is_closed() || is_io(&error);
            let chain = chain(&error);
            return if is_broken { Error::Unavailable(chain) } else { Error::Other(chain) };
        };
        let code = db.code();
        // Without the detail, which quotes the row: rows contain phone numbers.
        let text = format!("{} ({})", db.message(), code.code());
        match code {
            c if *c == SqlState::UNIQUE_VIOLATION => {
                Error::Conflict { constraint: db.constraint().unwrap_or_default().to_owned() }
            }
            c if *c == SqlState::T_R_DEADLOCK_DETECTED
                || *c == SqlState::T_R_SERIALIZATION_FAILURE
                || *c == SqlState::LOCK_NOT_AVAILABLE =>
            {
                Error::Contention(text)
            }
            c if *c == SqlState::DISK_FULL || tells_of_full_disk(db.message()) => {
                Error::DiskFull(text)
            }
            // This server was the primary or is about to become it: another one accepts writes, or this one
            // will in a moment.
            c if *c == SqlState::READ_ONLY_SQL_TRANSACTION
                || c.code().starts_with("08")
                || c.code().starts_with("57P")
                || c.code().starts_with("53")
                || c.code().starts_with("58")
                || *c == SqlState::QUERY_CANCELED
                || *c == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT =>
            {
                Error::Unavailable(text)
            }
            _ => Error::Other(text),
        }
    }
}

/// Whether a message of the database, its log or the system reports a full disk: only one of the many ways to
/// hit that has a code.
pub fn tells_of_full_disk(text: &str) -> bool {
    ["No space left on device", "os error 28", "Disk quota exceeded"]
        .iter()
        .any(|words| text.contains(words))
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>())
}

fn chain(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl From<PoolError<Error>> for Error {
    fn from(error: PoolError<Error>) -> Self {
        match error {
            PoolError::Backend(Error::Other(text)) => Error::Unavailable(text),
            PoolError::Backend(known) => known,
            PoolError::Timeout(_) => {
                Error::Unavailable("timed out waiting for a database connection".to_owned())
            }
            other => Error::Unavailable(other.to_string()),
        }
    }
}
