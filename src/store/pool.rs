//! The database as the other rooms use it: connections by group and party, and reads from replicas.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use deadpool::managed::Timeouts;

pub use super::connect::{Target, may_be_unencrypted};
use super::{
    Client, Error, StatementGroup, Statements as _,
    client::StatementMetrics,
    connect::{self, Pool},
    connection_limiter::{ConnectionLimiter, PartyPermit},
    primary,
    replicas::{ReplicaState, Replicas, ReplicasWork},
    statement::statements,
};
use crate::domain::Party;

/// The database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pool: Pool,
    shares: ConnectionLimiter,
    meters: Arc<StatementMetrics>,
    replicas: Option<Replicas>,
}

/// The database as one party uses it: with a part of the connections at once; see [`Store::of`].
#[derive(Clone, Copy)]
pub struct PartyStore<'a> {
    store: &'a Store,
    party: Option<u64>,
}

/// How long a caller waits for a connection before it is told that there is none.
const WAIT: Duration = Duration::from_secs(5);
/// A setting without which an answered message could be lost.
const DURABLE: [&str; 3] = ["fsync", "full_page_writes", "synchronous_commit"];

statements! {
    SETTING: once = "SELECT current_setting($1) AS value";
    VERSION: once = "SHOW server_version";
}

/// A database URL that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the database URL cannot be read: {0}")]
pub struct BadUrl(String);

/// Reads a `postgres://` URL. Of several servers it means the one that takes writes. Other machines are reached by
/// TLS unless it says otherwise.
///
/// # Errors
/// What is wrong with it, without repeating it: it may hold a password.
pub fn parse_url(url: &str) -> Result<Target, BadUrl> {
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(BadUrl("it is not postgres://user:password@host:5432/database".to_owned()));
    }
    let target = url.parse::<Target>().map_err(|error| {
        BadUrl(
            std::error::Error::source(&error)
                .map_or_else(|| error.to_string(), ToString::to_string),
        )
    })?;
    if target.get_hosts().is_empty() && target.get_hostaddrs().is_empty() {
        return Err(BadUrl("it names no server".to_owned()));
    }
    if target.get_ports().contains(&0) {
        return Err(BadUrl("port 0 is nobody's".to_owned()));
    }
    let texts = [target.get_user(), target.get_dbname()].into_iter().flatten().map(str::as_bytes);
    if texts.chain(target.get_password()).any(|text| text.contains(&0)) {
        return Err(BadUrl("it holds a NUL character (%00)".to_owned()));
    }
    Ok(primary::prefer_primary(primary::require_tls(target, url)))
}

impl Store {
    /// Prepares a pool; connects only when a connection is asked for.
    ///
    /// # Errors
    /// Only when the pool cannot be built at all.
    pub fn new(config: Target, size: usize) -> Result<Store, Error> {
        let (pool, shares) = (connect::pool(config, size, WAIT)?, ConnectionLimiter::of_pool(size));
        Ok(Store { pool, shares, meters: StatementMetrics::new(), replicas: None })
    }

    /// The same, with copies of the database to read from; see [`Store::read`]. Until their work is
    /// started, none is.
    ///
    /// # Errors
    /// As [`Store::new`].
    pub fn with_replicas(
        config: Target,
        replicas: Vec<Target>,
        size: usize,
    ) -> Result<(Store, ReplicasWork), Error> {
        let meters = StatementMetrics::new();
        let (replicas, work) = Replicas::new(config.clone(), replicas, size, &meters)?;
        let (pool, shares) = (connect::pool(config, size, WAIT)?, ConnectionLimiter::of_pool(size));
        Ok((Store { pool, shares, meters, replicas: Some(replicas) }, work))
    }

    /// The database as a party uses it, in whose name everything that follows is asked; with `None` it is the process
    /// itself.
    pub fn of<'a>(&self, party: impl Into<Option<&'a Party>>) -> PartyStore<'_> {
        let party = party.into().map(|party| self.shares.key(party));
        PartyStore { store: self, party }
    }

    /// The database as it is asked for a client of this address, before its party is known.
    pub fn of_address(&self, address: IpAddr) -> PartyStore<'_> {
        PartyStore { store: self, party: Some(self.shares.key_of_address(address)) }
    }

    /// How the copies stand.
    pub fn replicas(&self) -> Vec<ReplicaState> {
        self.replicas.as_ref().map(Replicas::states).unwrap_or_default()
    }

    /// A connection.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when none becomes free or the server does not answer.
    pub async fn client(&self) -> Result<Client, Error> {
        self.client_for(StatementGroup::Other).await
    }

    /// A connection for statements that are counted by themselves.
    ///
    /// # Errors
    /// As [`Store::client`].
    pub async fn client_for(&self, group: StatementGroup) -> Result<Client, Error> {
        self.client_with(group, Instant::now(), None).await
    }

    async fn client_with(
        &self,
        group: StatementGroup,
        asked: Instant,
        of_party: Option<PartyPermit>,
    ) -> Result<Client, Error> {
        let found = async {
            let began = Instant::now();
            let place = self.shares.place(group, of_party).await?;
            // Both waits together are no longer than one.
            let left = WAIT.saturating_sub(began.elapsed());
            let timeouts = Timeouts { wait: Some(left), create: Some(WAIT), recycle: Some(WAIT) };
            Ok::<_, Error>((self.pool.timeout_get(&timeouts).await?, place))
        };
        let found = found.await;
        self.meters.waited(group, asked.elapsed());
        let (object, place) = found?;
        Ok(Client::new(object, group, Arc::clone(&self.meters)).at(place))
    }

    /// Answers if the database does. The result is the round trip's duration.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn ping(&self) -> Result<(), Error> {
        self.client_for(StatementGroup::Nodes).await?.simple_query("SELECT 1").await?;
        Ok(())
    }

    /// The settings that weaken durability, as `name = value`; empty when all is well.
    ///
    /// # Errors
    /// Any failure of the database.
    pub async fn durability_faults(&self) -> Result<Vec<String>, Error> {
        let client = self.client().await?;
        let mut faults = Vec::new();
        for setting in DURABLE {
            let row = client.query_one(&SETTING, &[&setting]).await?;
            let value: String = row.try_get("value")?;
            if value == "off" || (setting == "synchronous_commit" && value == "local") {
                faults.push(format!("{setting} = {value}"));
            }
        }
        Ok(faults)
    }

    /// The server's version, such as `15.18`.
    ///
    /// # Errors
    /// Any failure of the database.
    pub async fn version(&self) -> Result<String, Error> {
        let row = self.client().await?.query_one(&VERSION, &[]).await?;
        Ok(row.try_get("server_version")?)
    }

    /// Connections in use and open, for the health page.
    pub fn usage(&self) -> (usize, usize) {
        let status = self.pool.status();
        (status.size.saturating_sub(status.available), status.size)
    }

    /// Closes every connection; later calls fail.
    pub fn close(&self) {
        self.pool.close();
        if let Some(replicas) = &self.replicas {
            replicas.close();
        }
    }
}

impl PartyStore<'_> {
    /// Runs a query that only reads, on a copy of the database if one may be used, else on the database
    /// itself. Whichever it is, the query sees everything that was committed before this was called,
    /// through whichever process; and no failure of a copy is the caller's. So the query may run twice.
    ///
    /// For lists and histories. What decides something reads from [`PartyStore::client`].
    ///
    /// # Errors
    /// Those of the query, and of having a connection; [`Error::Busy`] when too many reads of the party wait.
    pub async fn read<T, F>(&self, query: impl Fn(Client) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let asked = Instant::now();
        let of_party = self.turn(StatementGroup::Lists).await?;
        if let Some(replicas) = &self.store.replicas
            && let Some(found) = replicas.read(&query).await
        {
            return Ok(found);
        }
        query(self.store.client_with(StatementGroup::Lists, asked, of_party).await?).await
    }

    /// A connection.
    ///
    /// # Errors
    /// As [`Store::client`]; [`Error::Busy`] when too many reads of the party wait.
    pub async fn client(&self) -> Result<Client, Error> {
        self.client_for(StatementGroup::Other).await
    }

    /// A connection for statements that are counted by themselves.
    ///
    /// # Errors
    /// As [`PartyStore::client`].
    pub async fn client_for(&self, group: StatementGroup) -> Result<Client, Error> {
        let asked = Instant::now();
        let of_party = self.turn(group).await?;
        self.store.client_with(group, asked, of_party).await
    }

    async fn turn(&self, group: StatementGroup) -> Result<Option<PartyPermit>, Error> {
        match self.party {
            None => Ok(None),
            Some(party) => self.store.shares.of_party(group, party).await,
        }
    }
}
