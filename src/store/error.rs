//! What can go wrong with the database, by what the caller can do about it.

use deadpool::managed::PoolError;
use tokio_postgres::error::SqlState;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database cannot be reached, is starting or stopping, or did not answer in time. What was
    /// asked may or may not have happened.
    #[error("the database cannot be reached: {0}")]
    Unavailable(String),
    /// The database has no room left on its disk, and did not do what was asked.
    #[error("the database's disk is full: {0}")]
    DiskFull(String),
    /// A unique constraint refused a row.
    #[error("violates the constraint {constraint}")]
    Conflict { constraint: String },
    /// Two transactions were in each other's way; trying again is right.
    #[error("conflict with a concurrent transaction: {0}")]
    Contention(String),
    /// The party has as many reads waiting as it may; nothing was asked of the database.
    #[error("too many queued reads of one user")]
    Busy,
    /// A stored row does not read as what it should be.
    #[error("cannot decode stored data: {0}")]
    Corrupt(String),
    /// Anything else: a fault of ours.
    #[error("statement failed: {0}")]
    Other(String),
}

impl Error {
    /// Whether the same call may be made again.
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
            // Everything without an answer of the server is a broken connection, except that a value
            // of the wrong type is found before it is sent.
            let is_broken = error.is_closed() || is_io(&error);
            let chain = chain(&error);
            return if is_broken { Error::Unavailable(chain) } else { Error::Other(chain) };
        };
        let code = db.code();
        // The message without its detail: a detail quotes the row, and rows hold phone numbers.
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
            // A server that was the primary, or is to become it: another one takes the writes, or this one
            // does in a moment.
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

/// Whether the words of the database, of its log or of the system say that a disk is full: only one of the
/// many ways to run into that has a code of its own.
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
