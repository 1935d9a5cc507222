//! A pooled connection: every statement is timed by its group, and none waits forever.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use deadpool::managed::Object;
use deadpool_postgres::StatementCache;
use tokio_postgres::{Row, SimpleQueryMessage, error::SqlState, types::ToSql};

use super::{
    Error, Statement, StatementGroup,
    connection_limiter::ConnectionPermit,
    primary::{ConnectionTrust, PrimaryConnector, TrackedConnection},
};

/// Histograms of statement durations and of waits for a connection.
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

/// `statement_timeout` is 15 s: without a response long after that, the server hangs.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);
/// A statement that was abandoned after this long: its connection may lead to a server that hangs.
const SLOW_STATEMENT: Duration = Duration::from_secs(2);

/// A connection in use.
pub struct Client {
    held: Held,
    watch: Watch,
    // Dropped last: the next holder of the permit then finds a free connection.
    _place: ConnectionPermit,
}

enum Held {
    /// Returned to the pool when dropped.
    Pooled(Object<PrimaryConnector>),
    /// Taken out of the pool; closed when dropped.
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

/// Timing and health of a connection's statements.
#[derive(Clone)]
struct Watch {
    group: StatementGroup,
    meters: Arc<StatementMetrics>,
    limit: Option<Duration>,
    trust: ConnectionTrust,
}

/// A running statement. It is also timed if its caller abandons it; abandoning a slow one marks the
/// connection as suspect.
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

/// Prepares and runs statements on a connection.
pub struct StatementRunner<'a> {
    client: &'a tokio_postgres::Client,
    cache: &'a StatementCache,
    watch: &'a Watch,
}

impl StatementRunner<'_> {
    /// Prepares a statement, or takes it from the connection's cache.
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

/// A connection or a transaction, with our errors and named statements.
pub trait Statements: Sync {
    fn line(&self) -> StatementRunner<'_>;

    /// Runs a statement; returns the number of changed rows.
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

    /// Runs a statement; returns its rows.
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

    /// Runs a statement; returns its only row.
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

    /// Runs a statement; returns its row, if there is one.
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

    /// Runs SQL that is not a declared statement: settings, schema, table locks.
    fn batch_execute(&self, sql: &str) -> impl Future<Output = Result<(), Error>> + Send {
        async move {
            let line = self.line();
            line.watch.run(line.client.batch_execute(sql)).await
        }
    }

    /// Pings the server in one round trip, without preparing anything.
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

    /// Attaches the permit that is held while the connection is in use.
    #[must_use]
    pub(super) fn at(self, place: ConnectionPermit) -> Client {
        Client { _place: place, ..self }
    }

    /// Disables the response timeout; the caller must set `statement_timeout`, too.
    pub(super) fn without_timeout(&mut self) {
        self.watch.limit = None;
    }

    /// Takes the connection out of the pool: it is closed when dropped, and its permit is released.
    #[must_use]
    pub(super) fn alone(self) -> Client {
        let held = match self.held {
            Held::Pooled(object) => Held::Alone(Object::take(object)),
            alone => alone,
        };
        // The pool may open another connection.
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
    /// Begins a savepoint.
    pub async fn transaction(&mut self) -> Result<Transaction<'_>, Error> {
        let inner = self.watch.run(self.inner.transaction()).await?;
        Ok(Transaction { inner, watch: self.watch.clone() })
    }

    /// Commits.
    ///
    /// # Errors
    /// Any failure of the database. After [`Error::Unavailable`] the outcome is unknown.
    pub async fn commit(self) -> Result<(), Error> {
        self.watch.run(self.inner.commit()).await
    }

    /// Rolls back.
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
