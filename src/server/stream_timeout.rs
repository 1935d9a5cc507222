//! Streams of HTTP/2 whose client takes nothing of its answer. A client can keep the window of a stream shut for as long
//! as it likes, and the connection stays alive by the answers to its PINGs: each stream therefore has an end of its
//! own. What takes nothing over HTTP/1 does not read its socket, for which the connection has a time-out.

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

/// What of its answer a stream was given, between the answer's body and the task of the stream.
#[derive(Debug, Default)]
pub struct StreamProgress {
    /// Twice the number of pieces that were given; one more while the last one is not taken.
    given: AtomicU64,
}

impl StreamProgress {
    /// That of the stream whose task this is; none over HTTP/1.
    pub fn of_this_stream() -> Option<Arc<StreamProgress>> {
        PROGRESS.try_with(Arc::clone).ok()
    }

    /// A piece of the answer was given.
    pub fn give(&self) {
        // Only the task of the stream writes it.
        self.given.store((self.given.load(Ordering::Relaxed) | 1) + 2, Ordering::Relaxed);
    }

    /// Everything that was given is taken.
    pub fn take(&self) {
        self.given.store(self.given.load(Ordering::Relaxed) & !1, Ordering::Relaxed);
    }

    /// Which piece is not taken, if one is not.
    fn waiting(&self) -> Option<u64> {
        let given = self.given.load(Ordering::Relaxed);
        (given & 1 == 1).then_some(given)
    }
}

/// Runs the streams of connections, and resets those whose client has taken no piece of the answer for too long.
#[derive(Clone, Copy, Debug)]
pub struct StreamExecutor {
    timeout: Duration,
}

impl StreamExecutor {
    /// How long a client may take nothing.
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

/// Ends with the stream, or drops it when no piece of its answer was taken for so long; that resets it.
async fn watch<F: Future>(stream: F, progress: Arc<StreamProgress>, timeout: Duration) {
    tokio::pin!(stream);
    // Set only while a piece waits, so that a stream whose client reads needs no timer.
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
                    tracing::debug!("a client took nothing of its answer for too long");
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
            // Slowly, but each in time.
            for _ in 0..4 {
                given.give();
                tokio::time::sleep(TIMEOUT / 2).await;
            }
            given.take();
            // Nothing happens for a long time, as in a stream of events.
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
