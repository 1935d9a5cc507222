//! Copies of the database that lists and histories may be read from.
//!
//! A copy is asked only for what it surely has. Every read first learns where the log of the original
//! ends now, which one small question answers for all reads that wait for it, and goes to a copy that
//! has replayed the log up to there. So a list shows what was committed before it was asked for, by
//! anybody, through any process; a copy that is behind, or fails in the middle, costs a moment and is
//! never seen.

pub(super) mod watch;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use deadpool::managed::{Object, PoolError, TimeoutType, Timeouts};
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::types::PgLsn;

use super::{
    Client, Error, StatementGroup, Statements as _,
    client::StatementMetrics,
    connect::{self, Pool, name},
    primary::PrimaryConnector,
    statement::statements,
};
use crate::domain::replica::{LagMeasurement, LogPositions, ReplicaHealth, ReplicaMonitor};

pub use watch::ReplicasWork;

/// How long a copy may take for a connection or an answer; then the original is asked.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the original may take to say where its log ends.
const POSITION_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a read waits for a copy to replay the last of the log, and how often it looks.
const CATCH_UP: Duration = Duration::from_millis(25);
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// How long a read waits for one of a copy's connections to become free.
const CROWD: Duration = Duration::from_millis(50);
/// Reads that may wait for the position; more go to the original.
const QUEUE_CAPACITY: usize = 1024;

statements! {
    POSITION = "SELECT lsn, pg_walfile_name(lsn) AS file FROM pg_current_wal_lsn() AS lsn";
    // None on a server that is no copy.
    REPLAYED = "SELECT pg_last_wal_replay_lsn() AS lsn";
}

/// A place in the log of the original.
#[derive(Clone, Copy, Debug)]
struct Position {
    /// Which line of the log's history: a failover begins a new one, on which the same numbers mean
    /// something else.
    timeline: i64,
    lsn: u64,
}

/// The copies. Cheap to clone.
#[derive(Clone)]
pub struct Replicas {
    inner: Arc<Inner>,
}

struct Inner {
    /// One connection to the original for questions about its log: they must not wait for sends.
    original: Pool,
    meters: Arc<StatementMetrics>,
    positions: Mutex<LogPositions>,
    questions: mpsc::Sender<oneshot::Sender<Position>>,
    turn: AtomicUsize,
    replicas: Vec<Replica>,
}

struct Replica {
    name: Arc<str>,
    pool: Pool,
    /// One connection for measuring, so that a crowd of reads does not look like a failure.
    probe: Pool,
    meters: Arc<StatementMetrics>,
    judged: Mutex<Judged>,
    reads: metrics::Counter,
}

/// What is thought of a copy.
#[derive(Default)]
struct Judged {
    watch: ReplicaMonitor,
    lag: Option<Duration>,
    fault: Option<String>,
    /// The line of history it follows; unknown until it was found to be a copy of the original.
    timeline: Option<i64>,
}

/// How a copy stands, for people.
#[derive(Clone, Debug)]
pub struct ReplicaState {
    /// Its host and port.
    pub name: Arc<str>,
    /// Whether it is read from.
    pub standing: ReplicaHealth,
    /// How far it lagged when last measured.
    pub lag: Option<Duration>,
    /// Why it is left out.
    pub fault: Option<String>,
}

/// Why a read went to the original.
#[derive(Clone, Copy)]
enum PassedOver {
    NoneUsable,
    NoPosition,
    Behind,
    Busy,
    Failed,
}

/// What an attempt at a copy came to.
enum Read<T> {
    Found(T),
    Behind,
    Busy,
}

impl PassedOver {
    fn name(self) -> &'static str {
        match self {
            PassedOver::NoneUsable => "none_usable",
            PassedOver::NoPosition => "no_position",
            PassedOver::Behind => "behind",
            PassedOver::Busy => "busy",
            PassedOver::Failed => "failed",
        }
    }
}

impl Replicas {
    pub(super) fn new(
        original: tokio_postgres::Config,
        replicas: Vec<tokio_postgres::Config>,
        size: usize,
        meters: &Arc<StatementMetrics>,
    ) -> Result<(Replicas, ReplicasWork), Error> {
        let (questions, asked) = mpsc::channel(QUEUE_CAPACITY);
        let replica = |config| Replica::new(config, size, meters);
        let replicas = replicas.into_iter().map(replica).collect::<Result<_, _>>();
        let replicas = Replicas {
            inner: Arc::new(Inner {
                original: connect::pool(original, 1, PROBE_TIMEOUT)?,
                meters: Arc::clone(meters),
                positions: Mutex::default(),
                questions,
                turn: AtomicUsize::new(0),
                replicas: replicas?,
            }),
        };
        let work = ReplicasWork::new(replicas.clone(), asked);
        Ok((replicas, work))
    }

    /// Runs a query on a copy; nothing if it has to run on the original.
    pub(super) async fn read<T, F>(&self, query: &impl Fn(Client) -> F) -> Option<T>
    where
        F: Future<Output = Result<T, Error>>,
    {
        match self.try_read(query).await {
            Ok(found) => Some(found),
            Err(why) => {
                metrics::counter!("esh3ar_replica_passed_over_total", "reason" => why.name())
                    .increment(1);
                None
            }
        }
    }

    async fn try_read<T, F>(&self, query: &impl Fn(Client) -> F) -> Result<T, PassedOver>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let replica = self.inner.next().ok_or(PassedOver::NoneUsable)?;
        let wanted = tokio::time::timeout(POSITION_TIMEOUT, self.position()).await;
        let wanted = wanted.ok().flatten().ok_or(PassedOver::NoPosition)?;
        if replica.judged().timeline != Some(wanted.timeline) {
            return Err(PassedOver::Behind);
        }
        let waits = Timeouts {
            wait: Some(CROWD),
            create: Some(PROBE_TIMEOUT),
            recycle: Some(PROBE_TIMEOUT),
        };
        let attempt = async {
            let client = match replica.pool.timeout_get(&waits).await {
                Ok(client) => replica.client(client, StatementGroup::Lists),
                Err(PoolError::Timeout(TimeoutType::Wait)) => return Ok(Read::Busy),
                Err(error) => return Err(Error::from(error)),
            };
            if !reaches(&client, wanted.lsn).await? {
                return Ok(Read::Behind);
            }
            query(client).await.map(Read::Found)
        };
        match tokio::time::timeout(PROBE_TIMEOUT, attempt).await {
            Ok(Ok(Read::Found(found))) => {
                replica.reads.increment(1);
                Ok(found)
            }
            Ok(Ok(Read::Behind)) => Err(PassedOver::Behind),
            Ok(Ok(Read::Busy)) => Err(PassedOver::Busy),
            Ok(Err(error)) => {
                // A broken connection speaks for all of them; anything else, such as a query that was
                // in the way of the replay, for itself.
                if matches!(error, Error::Unavailable(_)) {
                    replica.judge(LagMeasurement::Gone, Some(error.to_string()));
                }
                Err(PassedOver::Failed)
            }
            Err(_) => Err(PassedOver::Failed),
        }
    }

    /// Where the log of the original ends, asked after this was called.
    async fn position(&self) -> Option<Position> {
        let (reply, answer) = oneshot::channel();
        self.inner.questions.try_send(reply).ok()?;
        answer.await.ok()
    }

    pub(super) fn states(&self) -> Vec<ReplicaState> {
        self.inner.replicas.iter().map(Replica::state).collect()
    }

    pub(super) fn close(&self) {
        self.inner.original.close();
        for replica in &self.inner.replicas {
            replica.pool.close();
            replica.probe.close();
        }
    }
}

impl Inner {
    /// One usable copy after the other.
    fn next(&self) -> Option<&Replica> {
        let usable = || self.replicas.iter().filter(|replica| replica.is_usable());
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        usable().nth(turn.checked_rem(usable().count())?)
    }

    async fn original_client(&self) -> Result<Client, Error> {
        let object = self.original.get().await?;
        Ok(Client::new(object, StatementGroup::Nodes, Arc::clone(&self.meters)))
    }

    async fn ask_original(&self) -> Result<Position, Error> {
        let asked = Instant::now();
        let client = self.original_client().await?;
        let row = client.query_one(&POSITION, &[]).await?;
        let lsn = u64::from(row.try_get::<_, PgLsn>("lsn")?);
        let file: &str = row.try_get("file")?;
        let timeline = file.get(..8).and_then(|hex| i64::from_str_radix(hex, 16).ok());
        let timeline = timeline.ok_or_else(|| Error::Corrupt("name of a WAL file".to_owned()))?;
        // All that was committed when it was asked lies before that place.
        self.positions().note(asked, lsn);
        Ok(Position { timeline, lsn })
    }

    fn positions(&self) -> MutexGuard<'_, LogPositions> {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the server of this connection has replayed the log up to a place, or does within a moment.
async fn reaches(client: &Client, wanted: u64) -> Result<bool, Error> {
    let begun = Instant::now();
    loop {
        if replayed(client).await? >= wanted {
            return Ok(true);
        }
        if begun.elapsed() >= CATCH_UP {
            return Ok(false);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn replayed(client: &Client) -> Result<u64, Error> {
    let row = client.query_one(&REPLAYED, &[]).await?;
    Ok(row.try_get::<_, Option<PgLsn>>("lsn")?.map_or(0, u64::from))
}

impl Replica {
    fn new(
        config: tokio_postgres::Config,
        size: usize,
        meters: &Arc<StatementMetrics>,
    ) -> Result<Replica, Error> {
        let name: Arc<str> = name(&config).into();
        Ok(Replica {
            pool: connect::pool(config.clone(), size, PROBE_TIMEOUT)?,
            probe: connect::pool(config, 1, PROBE_TIMEOUT)?,
            meters: Arc::clone(meters),
            judged: Mutex::default(),
            reads: metrics::counter!("esh3ar_replica_reads_total", "replica" => name.to_string()),
            name,
        })
    }

    fn client(&self, object: Object<PrimaryConnector>, group: StatementGroup) -> Client {
        Client::new(object, group, Arc::clone(&self.meters))
    }

    fn judged(&self) -> MutexGuard<'_, Judged> {
        self.judged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_usable(&self) -> bool {
        self.judged().watch.standing() == ReplicaHealth::Usable
    }

    fn state(&self) -> ReplicaState {
        let judged = self.judged();
        ReplicaState {
            name: Arc::clone(&self.name),
            standing: judged.watch.standing(),
            lag: judged.lag,
            fault: judged.fault.clone(),
        }
    }

    /// Takes a measurement, or a failure, into account.
    fn judge(&self, measured: LagMeasurement, fault: Option<String>) {
        let (before, after) = {
            let mut judged = self.judged();
            let before = judged.watch.standing();
            judged.watch = judged.watch.after(measured);
            judged.lag = measured.lag();
            judged.fault = fault;
            if measured == LagMeasurement::Gone {
                judged.timeline = None;
            }
            (before, judged.watch.standing())
        };
        let (replica, name) = (&*self.name, self.name.to_string());
        if let Some(lag) = measured.lag() {
            metrics::gauge!("esh3ar_replica_lag_seconds", "replica" => name.clone())
                .set(lag.as_secs_f64());
        }
        let usable = after == ReplicaHealth::Usable;
        metrics::gauge!("esh3ar_replica_usable", "replica" => name).set(u8::from(usable));
        if after == before {
            return;
        }
        match after {
            ReplicaHealth::Usable => tracing::info!(replica, "a replica is read from"),
            ReplicaHealth::Lagging => {
                let lag = measured.lag().unwrap_or_default().as_secs_f64();
                tracing::warn!(replica, lag, "a replica is left out: it lags");
            }
            ReplicaHealth::Down => {
                let fault = self.state().fault.unwrap_or_default();
                tracing::warn!(replica, fault, "a replica is left out");
                // What hangs on a server that went must not be found when it is back.
                self.pool.retain(|_, _| false);
            }
        }
    }
}
