//! Reads request bodies within limits of size, time and memory.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Incoming};

use super::{
    budget::{BudgetExceeded, Reservation},
    size_limits::MAX_JSON_LEN,
};

/// How much of a refused body is read and discarded, and for how long.
const MAX_DISCARD_LEN: usize = 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BodyError {
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// In bytes.
        limit: usize,
    },
    #[error("timed out waiting for the body")]
    TimedOut,
    /// The body ended early.
    #[error("the body is incomplete")]
    Broken,
    /// The memory budget is used up.
    #[error("no memory budget left for the body")]
    NoRoom(BudgetExceeded),
}

/// Reads a body of at most `limit` bytes, with an idle timeout and a reservation of the budget. A body that
/// announces more is refused before it is read.
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
    // A large body reserves all of it at once, so that several do not block each other half way.
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
            // A body without a length may reach the limit.
            let wanted = if needed > MAX_JSON_LEN { limit } else { needed };
            reserved.grow(wanted - room).map_err(BodyError::NoRoom)?;
            room = wanted;
        }
        // Nearly every body arrives in one chunk, which is not copied.
        if have == 0 {
            whole = Some(data);
        } else {
            if needed > parts.capacity() {
                // Allocated at once: untouched memory costs nothing, and growing would hold twice as much
                // during the copy.
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

/// A streamed body. The client sends no faster than it is read.
#[derive(Debug)]
pub struct BodyStream {
    body: Incoming,
    limit: usize,
    left: usize,
    idle: Duration,
}

impl BodyStream {
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

/// Discards the rest of a refused body. The response is sent when the client has sent its request: closing
/// while the client still sends resets the connection, and the client does not see the response. A client that
/// sends more than 1 MiB or longer than 2 s is reset.
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
