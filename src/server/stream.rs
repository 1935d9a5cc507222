//! Answers that are too long to be put together, or take too long to be waited for in silence: a JSON
//! document a line.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::poll_fn;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use tokio::sync::mpsc;
use warp::{Reply as _, reply::Response};

use super::reply;

/// Lines that wait for whoever reads them.
const WAITING: usize = 64;
/// How long somebody may not read.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the lines of an answer are written.
pub(super) struct Lines {
    to: mpsc::Sender<Result<Bytes, BrokenOff>>,
}

/// Nobody reads the answer any more.
#[derive(Debug)]
pub(super) struct Gone;

/// The answer ends before its end.
#[derive(Debug, thiserror::Error)]
#[error("the answer breaks off")]
struct BrokenOff;

/// An answer, and where its lines are written. It ends when that is dropped.
pub(super) fn lines() -> (Lines, Response) {
    let (to, mut from) = mpsc::channel(WAITING);
    let response = warp::reply::stream(poll_fn(move |context| from.poll_recv(context)));
    (Lines { to }, as_lines(response.into_response()))
}

/// An answer of one line.
pub(super) fn one<T: Serialize>(line: &T) -> Response {
    as_lines(reply::raw(StatusCode::OK, text(line)))
}

fn as_lines(mut response: Response) -> Response {
    let media = HeaderValue::from_static("application/jsonl");
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    // What stands between must not keep lines until it has many.
    let now = HeaderValue::from_static("no");
    response.headers_mut().insert("x-accel-buffering", now);
    response
}

impl Lines {
    /// Writes one, as soon as there is room.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub(super) async fn put<T: Serialize>(&self, line: &T) -> Result<(), Gone> {
        let sent = tokio::time::timeout(PATIENCE, self.to.send(Ok(text(line)))).await;
        sent.map_err(|_| Gone)?.map_err(|_| Gone)
    }

    /// Writes one if there is room now.
    pub(super) fn offer<T: Serialize>(&self, line: &T) {
        let _ = self.to.try_send(Ok(text(line)));
    }

    /// Ends the answer so that it cannot be taken for whole.
    pub(super) async fn break_off(&self) {
        let _ = tokio::time::timeout(PATIENCE, self.to.send(Err(BrokenOff))).await;
    }
}

fn text<T: Serialize>(line: &T) -> Bytes {
    let mut text = serde_json::to_string(line).unwrap_or_default();
    text.push('\n');
    text.into()
}
