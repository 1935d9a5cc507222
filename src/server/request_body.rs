//! Reading a request's body without trusting it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Incoming};

use super::{
    budget::{BudgetExceeded, Reservation},
    size_limits::MAX_JSON_LEN,
};

/// What is read and thrown away of a body that was refused, and for how long.
const MAX_DISCARD_LEN: usize = 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a body was not read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BodyError {
    /// More than allowed.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// What is allowed, in bytes.
        limit: usize,
    },
    /// Nothing came for too long.
    #[error("the body did not arrive in time")]
    TimedOut,
    /// It ended before its end.
    #[error("the body broke off")]
    Broken,
    /// There is no room for it now.
    #[error("there is no room for the body now")]
    NoRoom(BudgetExceeded),
}

/// Reads a body of at most `limit` bytes that never pauses longer than `idle`, and takes its room from a budget.
/// One that announces more than `limit` is refused before any of it is read.
///
/// # Errors
/// See [`BodyError`].
pub async fn read(
    body: &mut Incoming,
    limit: usize,
    idle: Duration,
    reserved: &mut Reservation,
) -> Result<Bytes, BodyError> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(BodyError::TooLarge { limit });
    }
    // Of a large body at once, so that several are not begun of which none fits.
    let mut room = if announced > MAX_JSON_LEN { announced } else { 0 };
    reserved.grow(room).map_err(BodyError::NoRoom)?;
    let mut whole: Option<Bytes> = None;
    let mut parts = BytesMut::new();
    while let Some(data) = chunk(body, idle).await? {
        let have = parts.len() + whole.as_ref().map_or(0, Bytes::len);
        if have + data.len() > limit {
            return Err(BodyError::TooLarge { limit });
        }
        let needed = have + data.len();
        if needed > room {
            // One that does not say how large it is may become as large as it may be.
            let wanted = if needed > MAX_JSON_LEN { limit } else { needed };
            reserved.grow(wanted - room).map_err(BodyError::NoRoom)?;
            room = wanted;
        }
        // Nearly every body comes in one piece, which is then not copied.
        if have == 0 {
            whole = Some(data);
        } else {
            if needed > parts.capacity() {
                // At once: memory that is not written to costs nothing, and a copy when it grows would hold twice as much.
                parts.reserve(room.max(announced).max(needed) - parts.len());
            }
            if let Some(first) = whole.take() {
                parts.extend_from_slice(&first);
            }
            parts.extend_from_slice(&data);
        }
    }
    Ok(whole.unwrap_or_else(|| parts.freeze()))
}

/// The next data of a body; `None` at its end.
async fn chunk(body: &mut Incoming, idle: Duration) -> Result<Option<Bytes>, BodyError> {
    loop {
        let frame = match tokio::time::timeout(idle, body.frame()).await {
            Err(_) => return Err(BodyError::TimedOut),
            Ok(None) => return Ok(None),
            Ok(Some(Err(_))) => return Err(BodyError::Broken),
            Ok(Some(Ok(frame))) => frame,
        };
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
}

/// A body that is taken in chunks. The client sends no faster than they are taken.
#[derive(Debug)]
pub struct BodyStream {
    body: Incoming,
    limit: usize,
    left: usize,
    idle: Duration,
}

impl BodyStream {
    /// Of at most `limit` bytes, which never pauses longer than `idle`.
    pub fn new(body: Incoming, limit: usize, idle: Duration) -> BodyStream {
        BodyStream { body, limit, left: limit, idle }
    }

    /// The next chunk; `None` at the end.
    ///
    /// # Errors
    /// See [`BodyError`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        let Some(data) = chunk(&mut self.body, self.idle).await? else { return Ok(None) };
        let limit = self.limit;
        self.left = self.left.checked_sub(data.len()).ok_or(BodyError::TooLarge { limit })?;
        Ok(Some(data))
    }
}

/// Reads what is left of a body that was refused, and keeps nothing of it. The answer is sent when the client
/// has sent its request: a connection that is closed while the client still sends is reset, and the client
/// does not see the answer. A client that sends more than 1 MiB or longer than 2 s is reset all the same.
pub async fn discard(body: &mut Incoming) {
    let discarding = async {
        let mut left = MAX_DISCARD_LEN;
        while let Some(Ok(frame)) = body.frame().await {
            let size = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(size) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, discarding).await;
}
