//! Write timeout of HTTP/2 streams. A client can keep the window of a stream closed and the connection alive
//! with PINGs, so each stream has a timeout of its own. Over HTTP/1 such a client does not read its socket,
//! which has a write timeout.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Poll, ready},
    time::Duration,
};

use hyper::rt::Executor;
use tokio::time::Sleep;

tokio::task_local! {
    static PROGRESS: Arc<StreamProgress>;
}

/// Shared by the body of a response and the task of its stream.
#[derive(Debug, Default)]
pub struct StreamProgress {
    /// Twice the number of chunks given, plus one while the last is not taken.
    given: AtomicU64,
}

impl StreamProgress {
    /// The progress of the current task's stream; `None` over HTTP/1.
    pub fn of_this_stream() -> Option<Arc<StreamProgress>> {
        PROGRESS.try_with(Arc::clone).ok()
    }

    /// A chunk was given to the stream.
    pub fn give(&self) {
        // Only the task of the stream writes.
        self.given.store((self.given.load(Ordering::Relaxed) | 1) + 2, Ordering::Relaxed);
    }

    /// All chunks are taken.
    pub fn take(&self) {
        self.given.store(self.given.load(Ordering::Relaxed) & !1, Ordering::Relaxed);
    }

    /// The chunk that is not taken, if any.
    fn waiting(&self) -> Option<u64> {
        let given = self.given.load(Ordering::Relaxed);
        (given & 1 == 1).then_some(given)
    }
}

/// Runs the streams of connections, and resets a stream whose client takes no chunk within the timeout.
#[derive(Clone, Copy, Debug)]
pub struct StreamExecutor {
    timeout: Duration,
}

impl StreamExecutor {
    pub fn new(timeout: Duration) -> StreamExecutor {
        StreamExecutor { timeout }
    }
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        let progress = Arc::new(StreamProgress::default());
        let watched = watch(stream, Arc::clone(&progress), self.timeout);
        tokio::spawn(PROGRESS.scope(progress, watched));
    }
}

/// Ends with the stream, or drops it after the timeout, which resets it.
async fn watch<F: Future>(stream: F, progress: Arc<StreamProgress>, timeout: Duration) {
    tokio::pin!(stream);
    // Set only while a chunk waits, so that a stream whose client reads needs no timer.
    let mut due: Option<(u64, Pin<Box<Sleep>>)> = None;
    poll_fn(|context| {
        if stream.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        loop {
            let Some(piece) = progress.waiting() else {
                due = None;
                return Poll::Pending;
            };
            match &mut due {
                Some((of, sleep)) if *of == piece => {
                    ready!(sleep.as_mut().poll(context));
                    metrics::counter!("esh3ar_answers_not_taken_total").increment(1);
                    tracing::debug!("client did not read its response in time");
                    return Poll::Ready(());
                }
                _ => due = Some((piece, Box::pin(tokio::time::sleep(timeout)))),
            }
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn a_stream_ends_when_no_piece_is_taken() {
        let progress = Arc::new(StreamProgress::default());
        let begun = Instant::now();
        progress.give();
        watch(std::future::pending::<()>(), Arc::clone(&progress), TIMEOUT).await;
        assert!(begun.elapsed() >= TIMEOUT);
    }

    #[tokio::test]
    async fn a_stream_that_is_read_or_has_nothing_to_give_goes_on() {
        let progress = Arc::new(StreamProgress::default());
        let given = Arc::clone(&progress);
        let begun = Instant::now();
        let stream = async move {
            // Slow, but each within the timeout.
            for _ in 0..4 {
                given.give();
                tokio::time::sleep(TIMEOUT / 2).await;
            }
            given.take();
            // Idle for long, as an event stream.
            tokio::time::sleep(TIMEOUT * 2).await;
        };
        watch(stream, progress, TIMEOUT).await;
        assert!(begun.elapsed() >= TIMEOUT * 4);
    }

    #[tokio::test]
    async fn the_body_finds_the_progress_of_its_stream() {
        assert!(StreamProgress::of_this_stream().is_none());
        let (told, heard) = tokio::sync::oneshot::channel();
        StreamExecutor::new(TIMEOUT).execute(async move {
            let _ = told.send(StreamProgress::of_this_stream().is_some());
        });
        assert!(heard.await.unwrap());
    }
}
