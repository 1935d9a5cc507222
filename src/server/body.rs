//! Reading a request's body without trusting it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Incoming};

/// What is read and thrown away of a body that was refused, and for how long.
const DISCARDED: usize = 1024 * 1024;
const DISCARDING: Duration = Duration::from_secs(2);

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
}

/// Reads a body of at most `limit` bytes that never pauses longer than `idle`. One that announces
/// more than `limit` is refused before any of it is read.
///
/// # Errors
/// See [`BodyError`].
pub async fn read(body: &mut Incoming, limit: usize, idle: Duration) -> Result<Bytes, BodyError> {
    if body.size_hint().lower() > limit as u64 {
        return Err(BodyError::TooLarge { limit });
    }
    let mut whole: Option<Bytes> = None;
    let mut parts = BytesMut::new();
    loop {
        let frame = match tokio::time::timeout(idle, body.frame()).await {
            Err(_) => return Err(BodyError::TimedOut),
            Ok(None) => break,
            Ok(Some(Err(_))) => return Err(BodyError::Broken),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        let have = parts.len() + whole.as_ref().map_or(0, Bytes::len);
        if have + data.len() > limit {
            return Err(BodyError::TooLarge { limit });
        }
        // Nearly every body comes in one piece, which is then not copied.
        if have == 0 {
            whole = Some(data);
        } else {
            if let Some(first) = whole.take() {
                parts.extend_from_slice(&first);
            }
            parts.extend_from_slice(&data);
        }
    }
    Ok(whole.unwrap_or_else(|| parts.freeze()))
}

/// Reads what is left of a body that was refused, and keeps nothing of it. The answer is sent when the client
/// has sent its request: a connection that is closed while the client still sends is reset, and the client
/// does not see the answer. A client that sends more than 1 MiB or longer than 2 s is reset all the same.
pub async fn discard(body: &mut Incoming) {
    let discarding = async {
        let mut left = DISCARDED;
        while let Some(Ok(frame)) = body.frame().await {
            let size = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(size) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    let _ = tokio::time::timeout(DISCARDING, discarding).await;
}
