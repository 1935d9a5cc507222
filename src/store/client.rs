//! A connection in use: every statement through it is timed, by what it is for, and none waits for ever.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use deadpool::managed::Object;
use deadpool_postgres::StatementCache;
use tokio_postgres::{Row, SimpleQueryMessage, error::SqlState, types::ToSql};

use super::{
    Error, Statement,
    connection_limiter::ConnectionPermit,
    primary::{ConnectionTrust, PrimaryConnector, TrackedConnection},
};

/// What statements are for, in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatementGroup {
    Sends,
    Chat,
    /// Storing what became of messages: acknowledged, written, missed.
    Statuses,
    /// What a connection has still to get.
    Pending,
    /// Messages that the broker named.
    WakeUps,
    /// Looking for what is due, stuck or passed over.
    Sweeps,
    Lists,
    /// Conversations: opened, read, archived.
    Conversations,
    /// Taking, doing and ending jobs.
    Jobs,
    /// Who somebody is, and what they may do.
    Access,
    /// The processes of the installation, and what they know of each other.
    Nodes,
    /// Books, retention and counting.
    Upkeep,
    /// Recording who looked at whose data.
    Audit,
    /// All others: administration and commands.
    Other,
}

impl StatementGroup {
    /// Every group, in order.
    pub const ALL: [StatementGroup; 14] = [
        StatementGroup::Sends,
        StatementGroup::Chat,
        StatementGroup::Statuses,
        StatementGroup::Pending,
        StatementGroup::WakeUps,
        StatementGroup::Sweeps,
        StatementGroup::Lists,
        StatementGroup::Conversations,
        StatementGroup::Jobs,
        StatementGroup::Access,
        StatementGroup::Nodes,
        StatementGroup::Upkeep,
        StatementGroup::Audit,
        StatementGroup::Other,
    ];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            StatementGroup::Sends => "sends",
            StatementGroup::Chat => "chat",
            StatementGroup::Statuses => "statuses",
            StatementGroup::Pending => "pending",
            StatementGroup::WakeUps => "wake_ups",
            StatementGroup::Sweeps => "sweeps",
            StatementGroup::Lists => "lists",
            StatementGroup::Conversations => "conversations",
            StatementGroup::Jobs => "jobs",
            StatementGroup::Access => "access",
            StatementGroup::Nodes => "nodes",
            StatementGroup::Upkeep => "upkeep",
            StatementGroup::Audit => "audit",
            StatementGroup::Other => "other",
        }
    }
}

/// Where the times of statements, and of waiting for a connection, are counted.
pub(super) struct StatementMetrics {
    statements: Vec<metrics::Histogram>,
    waits: Vec<metrics::Histogram>,
}

impl StatementMetrics {
    pub(super) fn new() -> Arc<StatementMetrics> {
        let each = |of: fn(StatementGroup) -> metrics::Histogram| {
            StatementGroup::ALL.into_iter().map(of).collect()
        };
        Arc::new(StatementMetrics {
            statements: each(
                |group| metrics::histogram!("esh3ar_database_statement_seconds", "group" => group.name()),
            ),
            waits: each(
                |group| metrics::histogram!("esh3ar_database_pool_wait_seconds", "group" => group.name()),
            ),
        })
    }

    pub(super) fn waited(&self, group: StatementGroup, took: Duration) {
        if let Some(waits) = self.waits.get(group as usize) {
            waits.record(took.as_secs_f64());
        }
    }
}

/// Postgres cuts a statement of ours after fifteen seconds. What is not answered long after that is a
/// server that stands still.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);
/// A statement that nobody waits for any more was slow if it had taken this long: its connection may lead
/// to a server that stands still.
const SLOW_STATEMENT: Duration = Duration::from_secs(2);

/// A connection in use.
pub struct Client {
    held: Held,
    watch: Watch,
    // Dropped last: who waits for the place finds the connection.
    _place: ConnectionPermit,
}

enum Held {
    /// It goes back to its pool.
    Pooled(Object<PrimaryConnector>),
    /// It is closed with its owner.
    Alone(TrackedConnection),
}

impl Held {
    fn session(&self) -> &TrackedConnection {
        match self {
            Held::Pooled(object) => object,
            Held::Alone(session) => session,
        }
    }
}

/// A transaction; dropped, it is rolled back.
pub struct Transaction<'a> {
    inner: deadpool_postgres::Transaction<'a>,
    watch: Watch,
}

/// How a connection's statements are watched.
#[derive(Clone)]
struct Watch {
    group: StatementGroup,
    meters: Arc<StatementMetrics>,
    limit: Option<Duration>,
    trust: ConnectionTrust,
}

/// A statement under way. It is timed also when who waited for it gives it up; and a connection whose slow
/// statement is given up is doubted.
struct Running<'a> {
    watch: &'a Watch,
    begun: Instant,
    answered: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let took = self.begun.elapsed();
        if let Some(statements) = self.watch.meters.statements.get(self.watch.group as usize) {
            statements.record(took.as_secs_f64());
        }
        if !self.answered && took >= SLOW_STATEMENT {
            self.watch.trust.doubt();
        }
    }
}

impl Watch {
    async fn run<T>(
        &self,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        let mut running = Running { watch: self, begun: Instant::now(), answered: false };
        let limit = self.limit.unwrap_or(Duration::MAX);
        let Ok(answer) = tokio::time::timeout(limit, work).await else {
            return Err(Error::Unavailable("no answer in time".to_owned()));
        };
        running.answered = true;
        answer.map_err(|error| {
            if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) {
                self.trust.doubt_server();
            }
            error.into()
        })
    }
}

/// What a statement goes through.
pub struct StatementRunner<'a> {
    client: &'a tokio_postgres::Client,
    cache: &'a StatementCache,
    watch: &'a Watch,
}

impl StatementRunner<'_> {
    /// Prepares a statement, unless that was done before.
    async fn prepare(
        &self,
        statement: &Statement,
    ) -> Result<tokio_postgres::Statement, tokio_postgres::Error> {
        if statement.is_kept() {
            self.cache.prepare(self.client, statement.text()).await
        } else {
            self.client.prepare(statement.text()).await
        }
    }
}

/// A connection, or a transaction on one. As in the driver, with our errors and by our statements.
pub trait Statements: Sync {
    /// What statements go through.
    fn line(&self) -> StatementRunner<'_>;

    /// Runs a statement; gives how many rows it changed.
    fn execute(
        &self,
        statement: &Statement,
        values: &[&(dyn ToSql + Sync)],
    ) -> impl Future<Output = Result<u64, Error>> + Send {
        async move {
            let line = self.line();
            let run = async {
                let prepared = line.prepare(statement).await?;
                line.client.execute(&prepared, values).await
            };
            line.watch.run(run).await
        }
    }

    /// Runs a statement; gives its rows.
    fn query(
        &self,
        statement: &Statement,
        values: &[&(dyn ToSql + Sync)],
    ) -> impl Future<Output = Result<Vec<Row>, Error>> + Send {
        async move {
            let line = self.line();
            let run = async {
                let prepared = line.prepare(statement).await?;
                line.client.query(&prepared, values).await
            };
            line.watch.run(run).await
        }
    }

    /// Runs a statement; gives its only row.
    fn query_one(
        &self,
        statement: &Statement,
        values: &[&(dyn ToSql + Sync)],
    ) -> impl Future<Output = Result<Row, Error>> + Send {
        async move {
            let line = self.line();
            let run = async {
                let prepared = line.prepare(statement).await?;
                line.client.query_one(&prepared, values).await
            };
            line.watch.run(run).await
        }
    }

    /// Runs a statement; gives its only row, if it has one.
    fn query_opt(
        &self,
        statement: &Statement,
        values: &[&(dyn ToSql + Sync)],
    ) -> impl Future<Output = Result<Option<Row>, Error>> + Send {
        async move {
            let line = self.line();
            let run = async {
                let prepared = line.prepare(statement).await?;
                line.client.query_opt(&prepared, values).await
            };
            line.watch.run(run).await
        }
    }

    /// Runs commands that are no statements of the list: settings, the schema, locks of tables.
    fn batch_execute(&self, sql: &str) -> impl Future<Output = Result<(), Error>> + Send {
        async move {
            let line = self.line();
            line.watch.run(line.client.batch_execute(sql)).await
        }
    }

    /// Asks for a sign of life in one round trip, without preparing anything.
    fn simple_query(
        &self,
        sql: &str,
    ) -> impl Future<Output = Result<Vec<SimpleQueryMessage>, Error>> + Send {
        async move {
            let line = self.line();
            line.watch.run(line.client.simple_query(sql)).await
        }
    }
}

impl Client {
    pub(super) fn new(
        object: Object<PrimaryConnector>,
        group: StatementGroup,
        meters: Arc<StatementMetrics>,
    ) -> Client {
        let trust = object.trust.clone();
        let watch = Watch { group, meters, limit: Some(RESPONSE_TIMEOUT), trust };
        Client { held: Held::Pooled(object), watch, _place: ConnectionPermit::default() }
    }

    /// The same, with the place that it has among those of its kind.
    #[must_use]
    pub(super) fn at(self, place: ConnectionPermit) -> Client {
        Client { _place: place, ..self }
    }

    /// For statements that take as long as they take; Postgres must be told so too.
    pub(super) fn without_timeout(&mut self) {
        self.watch.limit = None;
    }

    /// Takes it out of its pool for good: it is closed when it is dropped, and what it holds is let go.
    #[must_use]
    pub(super) fn alone(self) -> Client {
        let held = match self.held {
            Held::Pooled(object) => Held::Alone(Object::take(object)),
            alone => alone,
        };
        // Another connection may take its place.
        Client { held, watch: self.watch, _place: ConnectionPermit::default() }
    }

    pub async fn transaction(&mut self) -> Result<Transaction<'_>, Error> {
        let session = match &mut self.held {
            Held::Pooled(object) => &mut **object,
            Held::Alone(session) => session,
        };
        let inner = self.watch.run(session.client.transaction()).await?;
        Ok(Transaction { inner, watch: self.watch.clone() })
    }
}

impl Statements for Client {
    fn line(&self) -> StatementRunner<'_> {
        let client = &self.held.session().client;
        StatementRunner { client, cache: &client.statement_cache, watch: &self.watch }
    }
}

impl Transaction<'_> {
    /// Begins a part of it that can be undone by itself.
    pub async fn transaction(&mut self) -> Result<Transaction<'_>, Error> {
        let inner = self.watch.run(self.inner.transaction()).await?;
        Ok(Transaction { inner, watch: self.watch.clone() })
    }

    /// Keeps what it did.
    ///
    /// # Errors
    /// Any failure of the database. [`Error::Unavailable`] says nothing of whether it was kept.
    pub async fn commit(self) -> Result<(), Error> {
        self.watch.run(self.inner.commit()).await
    }

    /// Undoes what it did.
    pub async fn rollback(self) -> Result<(), Error> {
        self.watch.run(self.inner.rollback()).await
    }
}

impl Statements for Transaction<'_> {
    fn line(&self) -> StatementRunner<'_> {
        let cache = &self.inner.statement_cache;
        StatementRunner { client: self.inner.client(), cache, watch: &self.watch }
    }
}
