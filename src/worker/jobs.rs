//! Does jobs, a few of each kind at once.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    app::{App, jobs::TakenJobs},
    domain::job::JobKind,
};

/// How long jobs in hand may take when the process stops; what is not done then is done by others
/// when its lease ends.
const LAST: Duration = Duration::from_secs(8);
/// The wait after a failure of the database.
const AGAIN: Duration = Duration::from_secs(1);
/// How often the administrators' mail is thought of.
const NOTICES_EVERY: Duration = Duration::from_secs(1);

/// Until `stop`; then what is in hand is finished.
pub async fn run(app: App, kind: JobKind, stop: CancellationToken) {
    let mut in_hand = JoinSet::new();
    while !stop.is_cancelled() {
        while in_hand.try_join_next().is_some() {}
        let room = kind.concurrency().saturating_sub(in_hand.len());
        if room == 0 {
            tokio::select! {
                _ = in_hand.join_next() => {}
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
                    in_hand.spawn(async move {
                        if let Err(error) = app.jobs.perform(kind, &job).await {
                            tracing::warn!(%error, kind = kind.name(), "a job's end was not noted");
                        }
                    });
                }
                continue;
            }
            Ok(TakenJobs::Nothing(wait)) => wait,
            Err(error) => {
                tracing::warn!(%error, kind = kind.name(), "jobs could not be taken");
                AGAIN
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
    let finish = async { while in_hand.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST, finish).await.is_err() {
        tracing::warn!(kind = kind.name(), "jobs in hand did not end in time");
    }
}

/// For ever.
pub async fn notices(app: App) {
    loop {
        if let Err(error) = app.jobs.send_notices().await {
            tracing::warn!(%error, "the administrators could not be told of dead letters");
        }
        tokio::time::sleep(NOTICES_EVERY).await;
    }
}
