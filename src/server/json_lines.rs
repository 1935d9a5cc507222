//! Streamed responses (application/jsonl), a JSON document per line: for responses that are too long to build
//! or take long to finish.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, stream::poll_fn};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use warp::{Reply as _, reply::Response};

use super::{reply, size_limits::MAX_UNREAD_LINES_LEN};

/// Lines that wait for the client.
const QUEUE_CAPACITY: usize = 64;
/// How long the client may not read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Writes the lines of a response. Dropped without [`JsonLines::finish`], the response is truncated.
pub(super) struct JsonLines {
    to: mpsc::Sender<QueuedLine>,
    room: Arc<Semaphore>,
    whole: Arc<AtomicBool>,
    timeout: Duration,
}

struct QueuedLine {
    text: Bytes,
    _room: OwnedSemaphorePermit,
}

/// The client has disconnected, or has not read for too long.
#[derive(Debug)]
pub(super) struct Disconnected;

#[derive(Debug, thiserror::Error)]
#[error("the response is incomplete")]
struct Truncated;

/// A response, and the writer of its lines.
pub(super) fn lines() -> (JsonLines, Response) {
    let (lines, written) = channel(WRITE_TIMEOUT);
    (lines, as_lines(warp::reply::stream(written).into_response()))
}

/// A writer and the stream of its lines. The stream ends with an error unless the writer finished, so that a
/// part of a response is never taken for all of it.
fn channel(timeout: Duration) -> (JsonLines, impl Stream<Item = Result<Bytes, Truncated>>) {
    let (to, mut from) = mpsc::channel(QUEUE_CAPACITY);
    let whole = Arc::new(AtomicBool::new(false));
    let room = Arc::new(Semaphore::new(MAX_UNREAD_LINES_LEN));
    let lines = JsonLines { to, room, whole: Arc::clone(&whole), timeout };
    let written = poll_fn(move |context| {
        let line: Option<QueuedLine> = ready!(from.poll_recv(context));
        // Reported once; the stream ends after the error.
        let broken = line.is_none() && !whole.swap(true, Ordering::AcqRel);
        Poll::Ready(if broken { Some(Err(Truncated)) } else { line.map(|line| Ok(line.text)) })
    });
    (lines, written)
}

/// A response of one line.
pub(super) fn one<T: Serialize>(line: &T) -> Response {
    as_lines(reply::raw(StatusCode::OK, text(line)))
}

fn as_lines(mut response: Response) -> Response {
    let media = HeaderValue::from_static("application/jsonl");
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    // A proxy must not buffer the lines.
    let now = HeaderValue::from_static("no");
    response.headers_mut().insert("x-accel-buffering", now);
    response
}

impl JsonLines {
    /// Writes a line, as soon as there is room.
    ///
    /// # Errors
    /// The client has disconnected, or has not read for a minute.
    pub(super) async fn write<T: Serialize>(&self, line: &T) -> Result<(), Disconnected> {
        let text = text(line);
        let sent = async {
            let room = Arc::clone(&self.room).acquire_many_owned(taken(&text)).await;
            let line = QueuedLine { text, _room: room.map_err(|_| Disconnected)? };
            self.to.send(line).await.map_err(|_| Disconnected)
        };
        tokio::time::timeout(self.timeout, sent).await.unwrap_or(Err(Disconnected))
    }

    /// Writes a line if there is room now.
    pub(super) fn try_write<T: Serialize>(&self, line: &T) {
        let text = text(line);
        if let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(taken(&text)) {
            let _ = self.to.try_send(QueuedLine { text, _room: room });
        }
    }

    /// Ends the response as complete.
    pub(super) fn finish(self) {
        self.whole.store(true, Ordering::Release);
    }
}

/// The permits for a line. A line longer than the whole room takes all.
fn taken(text: &Bytes) -> u32 {
    u32::try_from(text.len().min(MAX_UNREAD_LINES_LEN)).unwrap_or(u32::MAX)
}

fn text<T: Serialize>(line: &T) -> Bytes {
    let mut text = serde_json::to_string(line).unwrap_or_default();
    text.push('\n');
    text.into()
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn an_answer_that_is_not_read_for_long_breaks_off_and_a_slow_one_is_whole() {
        let (lines, written) = channel(Duration::from_millis(20));
        let mut write = 0;
        while lines.write(&json!(write)).await.is_ok() {
            write += 1;
        }
        assert_eq!(write, QUEUE_CAPACITY, "nobody reads");
        drop(lines);
        // A client that reads on gets what was written, and then the error.
        let read: Vec<bool> = written.map(|line| line.is_ok()).collect().await;
        assert_eq!(read.iter().filter(|ok| **ok).count(), QUEUE_CAPACITY);
        assert_eq!((read.len(), read.last()), (QUEUE_CAPACITY + 1, Some(&false)));

        let (lines, mut written) = channel(Duration::from_secs(10));
        let writing = tokio::spawn(async move {
            for n in 0..2 * QUEUE_CAPACITY {
                lines.write(&json!(n)).await.unwrap();
            }
            lines.finish();
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut read = 0;
        while let Some(line) = written.next().await {
            assert!(line.is_ok());
            read += 1;
        }
        assert_eq!(read, 2 * QUEUE_CAPACITY);
        writing.await.unwrap();
    }

    #[tokio::test]
    async fn long_lines_wait_for_room_and_one_that_is_longer_than_all_passes() {
        let (lines, mut written) = channel(Duration::from_millis(50));
        let half = "x".repeat(MAX_UNREAD_LINES_LEN / 2);
        lines.write(&half).await.unwrap();
        assert!(lines.write(&half).await.is_err(), "with its quotation marks it is more than half");
        assert!(written.next().await.unwrap().is_ok());
        lines.write(&"x".repeat(2 * MAX_UNREAD_LINES_LEN)).await.unwrap();
        assert!(lines.write(&1).await.is_err());
        assert!(written.next().await.unwrap().unwrap().len() > 2 * MAX_UNREAD_LINES_LEN);
        lines.write(&1).await.unwrap();
    }

    #[tokio::test]
    async fn an_answer_whose_writer_dies_breaks_off() {
        let (lines, written) = channel(WRITE_TIMEOUT);
        let died = tokio::spawn(async move {
            lines.write(&json!(1)).await.unwrap();
            panic!("half way");
        });
        assert!(died.await.is_err());
        let read: Vec<bool> = written.map(|line| line.is_ok()).collect().await;
        assert_eq!(read, [true, false]);
    }
}
