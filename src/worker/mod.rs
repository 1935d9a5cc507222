//! The loops that work by themselves: delivering, sweeping, checking positions, tidying up.
//!
//! They hold no rules; each calls one use case over and over. A loop that panics is started again,
//! because a delivery that has stopped without anybody noticing is the worst of faults.

mod deliver;
mod jobs;
mod sweep;

use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{app::App, domain::job::JobKind};

/// Starts every loop. They end when `stop` is cancelled.
pub fn start(app: &App, tracker: &TaskTracker, stop: &CancellationToken) {
    for share in 0..app.queue().shares() {
        let app = app.clone();
        supervise(tracker, stop, "deliver", move || deliver::run(app.clone(), share));
    }
    let sweeping = app.clone();
    supervise(tracker, stop, "sweep", move || sweep::due(sweeping.clone()));
    let checking = app.clone();
    supervise(tracker, stop, "check positions", move || sweep::positions(checking.clone()));
    for kind in JobKind::ALL {
        // It ends by itself when it has finished what it has in hand.
        tracker.spawn(jobs::run(app.clone(), kind, stop.clone()));
    }
    let telling = app.clone();
    supervise(tracker, stop, "notices", move || jobs::notices(telling.clone()));
    let draining = app.clone();
    supervise(tracker, stop, "drain", move || sweep::drain(draining.clone()));
    let closing = app.clone();
    supervise(tracker, stop, "revocations", move || sweep::revocations(closing.clone()));
    let watching = app.clone();
    supervise(tracker, stop, "depth", move || sweep::depth(watching.clone()));
    let trailing = app.clone();
    supervise(tracker, stop, "trail", move || sweep::trail(trailing.clone()));
    let auditing = app.clone();
    supervise(tracker, stop, "books", move || sweep::books(auditing.clone()));
    let tidying = app.clone();
    supervise(tracker, stop, "tidy", move || sweep::tidy(tidying.clone()));
}

/// The wait before a loop that panicked is started again.
const AGAIN: Duration = Duration::from_secs(1);

fn supervise<F>(
    tracker: &TaskTracker,
    stop: &CancellationToken,
    name: &'static str,
    work: impl Fn() -> F + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let stop = stop.clone();
    tracker.spawn(async move {
        loop {
            let mut running = tokio::spawn(work());
            tokio::select! {
                () = stop.cancelled() => {
                    running.abort();
                    return;
                }
                ended = &mut running => match ended {
                    Ok(()) => return,
                    Err(error) => tracing::error!(%error, name, "a loop failed; starting it again"),
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    });
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn a_loop_that_panics_is_started_again() {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let starts = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&starts);
        supervise(&tracker, &stop, "a test", move || {
            let start = counted.fetch_add(1, Ordering::Relaxed);
            async move {
                assert!(start >= 2, "the first two fail");
                std::future::pending().await
            }
        });
        let begun = async {
            while starts.load(Ordering::Relaxed) < 3 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let begun = tokio::time::timeout(Duration::from_secs(20), begun).await;
        stop.cancel();
        tracker.close();
        tracker.wait().await;
        assert!(begun.is_ok(), "{starts:?} starts");
    }
}
