//! Runs jobs, a few of each kind at once, and notifies administrators of dead letters.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    app::{App, jobs::TakenJobs},
    domain::job::JobKind,
};

/// How long running jobs may take after the stop. Others run what is not done by then, when its lease ends.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(8);
/// The wait after a failure of the database.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// How often dead letters are looked for that administrators were not notified of.
const NOTICE_INTERVAL: Duration = Duration::from_secs(1);

/// Runs jobs of one kind until `stop`, then waits for those that are running.
pub async fn run(app: App, kind: JobKind, stop: CancellationToken) {
    let mut running = JoinSet::new();
    while !stop.is_cancelled() {
        while running.try_join_next().is_some() {}
        let room = kind.concurrency().saturating_sub(running.len());
        if room == 0 {
            tokio::select! {
                _ = running.join_next() => {}
                () = stop.cancelled() => {}
            }
            continue;
        }
        let wait = match app.jobs.take(kind, room).await {
            Ok(TakenJobs::Jobs(taken)) => {
                for job in taken {
                    if stop.is_cancelled() {
                        let _ = app.jobs.release(&job).await;
                        continue;
                    }
                    let app = app.clone();
                    running.spawn(async move {
                        if let Err(error) = app.jobs.perform(kind, &job).await {
                            tracing::warn!(%error, kind = kind.name(), "the end of a job could not be stored");
                        }
                    });
                }
                continue;
            }
            Ok(TakenJobs::Nothing(wait)) => wait,
            Err(error) => {
                tracing::warn!(%error, kind = kind.name(), "jobs could not be taken");
                RETRY_DELAY
            }
        };
        if let Ok(count) = app.jobs.count(kind).await {
            metrics::gauge!("esh3ar_jobs_waiting", "kind" => kind.name()).set(count as f64);
        }
        tokio::select! {
            () = app.jobs.wait(kind, wait) => {}
            () = stop.cancelled() => {}
        }
    }
    let finish = async { while running.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_GRACE, finish).await.is_err() {
        tracing::warn!(kind = kind.name(), "running jobs did not end in time");
    }
}

/// Notifies administrators of new dead letters.
pub async fn dead_letter_notices(app: App) {
    loop {
        if let Err(error) = app.jobs.send_notices().await {
            tracing::warn!(%error, "administrators could not be notified of dead letters");
        }
        tokio::time::sleep(NOTICE_INTERVAL).await;
    }
}
