//! The background loops, by purpose: delivery, sweeping, jobs, membership, maintenance, counters.
//!
//! They hold no rules; each calls one use case over and over. A loop that panics is started again,
//! because a delivery that has stopped without anybody noticing is the worst of faults.

mod counters;
mod deliver;
mod jobs;
mod maintenance;
mod membership;
mod sweep;

use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::{App, Role},
    domain::job::JobKind,
    queue::{Consumer, Queue},
};

/// Starts the loops of a role; `consumer` is where a worker's wake-ups come from. They end when `stop`
/// is cancelled.
pub fn start(
    app: &App,
    role: Role,
    consumer: Option<&Consumer>,
    tracker: &TaskTracker,
    stop: &CancellationToken,
) {
    let loops = Loops { app, tracker, stop };
    metrics::gauge!("esh3ar_role", "role" => role.name()).set(1.0);
    loops.supervise("presence log", membership::presence_log);
    loops.supervise("heartbeat", membership::heartbeat);
    loops.supervise("figures", counters::figures);
    loops.supervise("health", counters::health);
    if role != Role::Worker {
        loops.supervise("check positions", sweep::positions);
        loops.supervise("drain", membership::drain);
        loops.supervise("revocations", membership::revocations);
        loops.supervise("token use", membership::token_use);
        loops.supervise("backpressure", counters::backpressure);
    }
    if role != Role::Gateway {
        loops.deliver(consumer);
        loops.supervise("sweep", sweep::due_messages);
        loops.supervise("dead letter notices", jobs::dead_letter_notices);
        loops.supervise("totals", counters::totals);
        loops.supervise("reconciliation", maintenance::reconciliation);
        loops.supervise("cleanup", maintenance::cleanup);
        loops.supervise("retention", maintenance::retention);
        for kind in JobKind::ALL {
            // It ends by itself when its running jobs have ended.
            tracker.spawn(jobs::run(app.clone(), kind, stop.clone()));
        }
    }
}

/// What every loop is started with.
struct Loops<'a> {
    app: &'a App,
    tracker: &'a TaskTracker,
    stop: &'a CancellationToken,
}

impl Loops<'_> {
    fn deliver(&self, consumer: Option<&Consumer>) {
        if let Queue::Local(queue) = self.app.queue() {
            for share in 0..queue.shares() {
                let queue = queue.clone();
                self.supervise("deliver", move |app| {
                    deliver::from_local_queue(app, queue.clone(), share)
                });
            }
        }
        if let Some(consumer) = consumer {
            for share in 0..consumer.shares() {
                let consumer = consumer.clone();
                self.supervise("deliver", move |app| {
                    deliver::from_broker(app, consumer.clone(), share)
                });
            }
            let consumer = consumer.clone();
            self.supervise("dead frames", move |app| deliver::dead_frames(app, consumer.clone()));
        }
    }

    fn supervise<F>(&self, name: &'static str, work: impl Fn(App) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let app = self.app.clone();
        supervise(self.tracker, self.stop, name, move || work(app.clone()));
    }
}

/// The wait before a loop that panicked is started again.
const RESTART_DELAY: Duration = Duration::from_secs(1);

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
            tokio::time::sleep(RESTART_DELAY).await;
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
