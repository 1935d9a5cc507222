//! Answers that are too long to be put together, or take too long to be waited for in silence: a JSON
//! document a line.

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

use super::{reply, route::LINES};

/// Lines that wait for whoever reads them.
const WAITING: usize = 64;
/// How long somebody may not read.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the lines of an answer are written. Dropped without [`Lines::end`], the answer breaks off.
pub(super) struct Lines {
    to: mpsc::Sender<Line>,
    room: Arc<Semaphore>,
    whole: Arc<AtomicBool>,
    patience: Duration,
}

/// A line that waits, and the room that it takes.
struct Line {
    text: Bytes,
    _room: OwnedSemaphorePermit,
}

/// Nobody reads the answer any more, or not for too long.
#[derive(Debug)]
pub(super) struct Gone;

/// The answer ends before its end.
#[derive(Debug, thiserror::Error)]
#[error("the response is incomplete")]
struct BrokenOff;

/// An answer, and where its lines are written.
pub(super) fn lines() -> (Lines, Response) {
    let (lines, written) = pipe(PATIENCE);
    (lines, as_lines(warp::reply::stream(written).into_response()))
}

/// Lines, and what is read of them: a failure at last when they ended before their end, whatever the cause,
/// so that some of an answer is never taken for all of it.
fn pipe(patience: Duration) -> (Lines, impl Stream<Item = Result<Bytes, BrokenOff>>) {
    let (to, mut from) = mpsc::channel(WAITING);
    let whole = Arc::new(AtomicBool::new(false));
    let room = Arc::new(Semaphore::new(LINES));
    let lines = Lines { to, room, whole: Arc::clone(&whole), patience };
    let written = poll_fn(move |context| {
        let line: Option<Line> = ready!(from.poll_recv(context));
        // Told once: after a failure there is nothing any more.
        let broken = line.is_none() && !whole.swap(true, Ordering::AcqRel);
        Poll::Ready(if broken { Some(Err(BrokenOff)) } else { line.map(|line| Ok(line.text)) })
    });
    (lines, written)
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
    /// Nobody reads any more, or has read for a minute.
    pub(super) async fn put<T: Serialize>(&self, line: &T) -> Result<(), Gone> {
        let text = text(line);
        let sent = async {
            let room = Arc::clone(&self.room).acquire_many_owned(taken(&text)).await;
            let line = Line { text, _room: room.map_err(|_| Gone)? };
            self.to.send(line).await.map_err(|_| Gone)
        };
        tokio::time::timeout(self.patience, sent).await.unwrap_or(Err(Gone))
    }

    /// Writes one if there is room now.
    pub(super) fn offer<T: Serialize>(&self, line: &T) {
        let text = text(line);
        if let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(taken(&text)) {
            let _ = self.to.try_send(Line { text, _room: room });
        }
    }

    /// Ends the answer: these were all its lines.
    pub(super) fn end(self) {
        self.whole.store(true, Ordering::Release);
    }
}

/// How much of the room a line takes: one that is longer than all of it takes all.
fn taken(text: &Bytes) -> u32 {
    u32::try_from(text.len().min(LINES)).unwrap_or(u32::MAX)
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
        let (lines, written) = pipe(Duration::from_millis(20));
        let mut put = 0;
        while lines.put(&json!(put)).await.is_ok() {
            put += 1;
        }
        assert_eq!(put, WAITING, "nobody reads");
        drop(lines);
        // Whoever reads on after all gets what was written, and hears that it is not all there is.
        let read: Vec<bool> = written.map(|line| line.is_ok()).collect().await;
        assert_eq!(read.iter().filter(|ok| **ok).count(), WAITING);
        assert_eq!((read.len(), read.last()), (WAITING + 1, Some(&false)));

        let (lines, mut written) = pipe(Duration::from_secs(10));
        let writing = tokio::spawn(async move {
            for n in 0..2 * WAITING {
                lines.put(&json!(n)).await.unwrap();
            }
            lines.end();
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut read = 0;
        while let Some(line) = written.next().await {
            assert!(line.is_ok());
            read += 1;
        }
        assert_eq!(read, 2 * WAITING);
        writing.await.unwrap();
    }

    #[tokio::test]
    async fn long_lines_wait_for_room_and_one_that_is_longer_than_all_passes() {
        let (lines, mut written) = pipe(Duration::from_millis(50));
        let half = "x".repeat(LINES / 2);
        lines.put(&half).await.unwrap();
        assert!(lines.put(&half).await.is_err(), "with its quotation marks it is more than half");
        assert!(written.next().await.unwrap().is_ok());
        lines.put(&"x".repeat(2 * LINES)).await.unwrap();
        assert!(lines.put(&1).await.is_err());
        assert!(written.next().await.unwrap().unwrap().len() > 2 * LINES);
        lines.put(&1).await.unwrap();
    }

    #[tokio::test]
    async fn an_answer_whose_writer_dies_breaks_off() {
        let (lines, written) = pipe(PATIENCE);
        let died = tokio::spawn(async move {
            lines.put(&json!(1)).await.unwrap();
            panic!("half way");
        });
        assert!(died.await.is_err());
        let read: Vec<bool> = written.map(|line| line.is_ok()).collect().await;
        assert_eq!(read, [true, false]);
    }
}
