//! Asks where the original's log ends, and how far the copies have come.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Inner, PROBE_TIMEOUT, Position, Replica, Replicas, replayed};
use crate::{
    domain::replica::LagMeasurement,
    store::{Error, StatementGroup, Statements as _, statement::statements},
};

/// How often each copy is measured: one that stalls has to be left out within two seconds.
const EVERY: Duration = Duration::from_millis(300);
/// How long a measurement waits for a copy to come to where the original was, bit by bit. What is not
/// there by then is told from the original's earlier positions.
const WAITS: [Duration; 4] = [
    Duration::from_millis(0),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(100),
];

statements! {
    // After a failover a copy notes its new line of history with the next of its own checkpoints, or when
    // what it replays must be told apart from what it had: whichever came last.
    INTRODUCTION = "
        SELECT pg_is_in_recovery() AS in_recovery, s.system_identifier,
               greatest(c.timeline_id, r.min_recovery_end_timeline)::int8 AS timeline
        FROM pg_control_system() s, pg_control_checkpoint() c, pg_control_recovery() r";
    SYSTEM: once = "SELECT system_identifier FROM pg_control_system()";
}

/// The loops that reads from copies live by.
pub struct ReplicasWork {
    replicas: Replicas,
    asked: mpsc::Receiver<oneshot::Sender<Position>>,
}

/// What a copy says of itself.
struct Copy {
    system: i64,
    timeline: i64,
}

impl ReplicasWork {
    pub(super) fn new(
        replicas: Replicas,
        asked: mpsc::Receiver<oneshot::Sender<Position>>,
    ) -> ReplicasWork {
        ReplicasWork { replicas, asked }
    }

    /// Starts the loops; they end when `stop` is cancelled.
    pub fn start(self, tracker: &TaskTracker, stop: &CancellationToken) {
        for number in 0..self.replicas.inner.replicas.len() {
            let (replicas, stop) = (self.replicas.clone(), stop.clone());
            tracker.spawn(async move {
                let _ = stop.run_until_cancelled(measure_for_ever(&replicas.inner, number)).await;
            });
        }
        let stop = stop.clone();
        tracker.spawn(async move {
            let _ = stop.run_until_cancelled(answer(self.asked, self.replicas)).await;
        });
    }

    /// Measures every copy once, for `esh3ar doctor`.
    pub async fn look(&self) {
        let inner = &self.replicas.inner;
        for replica in &inner.replicas {
            match inner.ask_original().await {
                Ok(_) => measure(inner, replica).await,
                Err(error) => replica.judge(LagMeasurement::Gone, Some(error.to_string())),
            }
        }
    }
}

/// Answers all that wait with one question; who comes while it is asked waits for the next.
async fn answer(mut asked: mpsc::Receiver<oneshot::Sender<Position>>, replicas: Replicas) {
    while let Some(first) = asked.recv().await {
        let mut waiting = vec![first];
        while let Ok(next) = asked.try_recv() {
            waiting.push(next);
        }
        match tokio::time::timeout(PROBE_TIMEOUT, replicas.inner.ask_original()).await {
            Ok(Ok(position)) => {
                for reply in waiting {
                    let _ = reply.send(position);
                }
            }
            // Dropping the replies tells those who wait.
            Ok(Err(error)) => tracing::debug!(%error, "the log's position is not known"),
            Err(_) => tracing::debug!("the log's position was not told in time"),
        }
    }
}

async fn measure_for_ever(inner: &Inner, number: usize) {
    let Some(replica) = inner.replicas.get(number) else { return };
    loop {
        measure(inner, replica).await;
        tokio::time::sleep(EVERY).await;
    }
}

async fn measure(inner: &Inner, replica: &Replica) {
    // While the original is away nothing can be said of its copies; nor is any of them read then.
    let Ok(Ok(position)) = tokio::time::timeout(PROBE_TIMEOUT, inner.ask_original()).await else {
        return;
    };
    let found = match tokio::time::timeout(PROBE_TIMEOUT, look(inner, replica, position)).await {
        Ok(found) => found,
        Err(_) => Err(format!("no answer in {} s", PROBE_TIMEOUT.as_secs())),
    };
    match found {
        Ok((followed, measured)) => {
            replica.judged().timeline = Some(followed);
            let fault = measured.lag().filter(|lag| *lag > crate::domain::replica::MAX_LAG);
            let fault = fault.map(|lag| format!("lags {:.1} s", lag.as_secs_f64()));
            replica.judge(measured, fault);
        }
        Err(fault) => replica.judge(LagMeasurement::Gone, Some(fault)),
    }
}

/// The line of history that a copy follows and how far it is behind, or why it is of no use.
async fn look(
    inner: &Inner,
    replica: &Replica,
    wanted: Position,
) -> Result<(i64, LagMeasurement), String> {
    let asked = Instant::now();
    let words = |error: Error| error.to_string();
    let object = replica.probe.get().await.map_err(|error| words(error.into()))?;
    let client = replica.client(object, StatementGroup::Nodes);
    let copy = introduce(&client).await.map_err(words)?.ok_or("it is no replica")?;
    if replica.judged().timeline.is_none() && system(inner).await.map_err(words)? != copy.system {
        return Err("it is a replica of another database".to_owned());
    }
    if copy.timeline != wanted.timeline {
        let (its, wanted) = (copy.timeline, wanted.timeline);
        return Err(format!("it follows timeline {its}, the primary is on {wanted}"));
    }
    let mut reached = 0;
    for (n, wait) in WAITS.into_iter().enumerate() {
        tokio::time::sleep(wait).await;
        reached = replayed(&client).await.map_err(words)?;
        if reached >= wanted.lsn {
            let lag = if n == 0 { Duration::ZERO } else { asked.elapsed() };
            return Ok((copy.timeline, LagMeasurement::Lag(lag)));
        }
    }
    Ok((copy.timeline, inner.positions().lag(reached, Instant::now())))
}

async fn introduce(client: &super::Client) -> Result<Option<Copy>, Error> {
    let row = client.query_one(&INTRODUCTION, &[]).await?;
    let copy =
        Copy { system: row.try_get("system_identifier")?, timeline: row.try_get("timeline")? };
    Ok(row.try_get::<_, bool>("in_recovery")?.then_some(copy))
}

async fn system(inner: &Inner) -> Result<i64, Error> {
    let client = inner.original_client().await?;
    let row = client.query_one(&SYSTEM, &[]).await?;
    Ok(row.try_get::<_, i64>("system_identifier")?)
}
