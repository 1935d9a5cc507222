//! Backup and restore of the whole database.
//!
//! `pg_dump` and `pg_restore` move the rows. This module exports the snapshot, counts what a restore must
//! reproduce, and creates, swaps and drops databases.

pub mod catalog;
mod entries;
pub mod filler;
pub mod log;
mod programs;

use std::collections::BTreeMap;

use time::{Date, Month};

use super::{
    Client, Error, Statement, Statements, Store, pool::Target, reconciliation, roles::quoted,
    statement::statements,
};

pub use filler::{Filler, FillerError};
pub use programs::{ProgramError, Programs};

statements! {
    EXPORT_SNAPSHOT: once = "SELECT pg_export_snapshot() AS id";
    SIZE: once = "SELECT pg_database_size(current_database()) AS bytes";
    IS_ENCRYPTED: once = "
        SELECT coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)
            AS encrypted";
    IS_TABLE: once = "SELECT to_regclass($1::text) IS NOT NULL AS is_there";
    SCHEMA: once = "SELECT coalesce(max(version), 0) AS version FROM schema_migrations";
    TABLES: once = "
        SELECT relname::text AS name, quote_ident(relname) AS quoted FROM pg_class
        WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace ORDER BY 1";
    WORKING: once = "
        SELECT role || ' on ' || host || ', process ' || pid AS process FROM nodes
        WHERE seen_at > now() - make_interval(secs => $1) ORDER BY 1";
    BE_ALONE: once = "SELECT pg_try_advisory_lock($1) AS locked";
    GUESTS: once = "
        SELECT pid, coalesce(application_name, '') AS name, coalesce(usename::text, '') AS account,
               host(client_addr) AS address
        FROM pg_stat_activity
        WHERE datname = $1 AND application_name IS DISTINCT FROM $2
          AND coalesce(backend_type, 'client backend') = 'client backend'
        ORDER BY backend_start";
    END: once = "SELECT pg_terminate_backend(pid) FROM unnest($1::int4[]) pid";
    // Another database may have the same prefix: ours continue with a process id or a time.
    LEFT_BEHIND: once = "
        SELECT datname::text AS name FROM pg_database d WHERE starts_with(datname::text, $1)
        AND substr(datname::text, length($1) + 1) ~ '^[0-9_]+$'
        AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datname = d.datname)
        ORDER BY 1";
    IS_DATABASE: once = "SELECT FROM pg_database WHERE datname = $1";
}

/// How many rows a table has; its name is quoted where it must be.
fn count_of(table: &str) -> Statement {
    let text = format!("SELECT count(*) AS count FROM {table}");
    Statement::built(concat!(module_path!(), "::count_of"), text).once()
}

/// The forms of [`count_of`]: they differ in the table only.
pub(super) fn built() -> Vec<Statement> {
    vec![count_of("messages")]
}

/// Row counts of a backup, to verify a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseContents {
    pub tables: BTreeMap<String, i64>,
    /// Messages that the reconciliation could not account for.
    pub unaccounted: u64,
}

/// An exported snapshot; valid while this value lives.
pub struct ExportedSnapshot {
    _client: Client,
    /// Snapshot id.
    pub id: String,
    pub contents: DatabaseContents,
    /// The newest migration that was applied; 0 for none.
    pub schema: i32,
}

/// A full scan needs sequential scans and no timeout.
const FULL_SCAN_SETTINGS: &str = "SET enable_seqscan = on; SET enable_bitmapscan = on; SET enable_hashjoin = on; \
     SET enable_mergejoin = on; SET statement_timeout = 0; SET lock_timeout = 0; \
     SET idle_in_transaction_session_timeout = 0";

/// Exports a snapshot.
pub async fn snapshot(store: &Store) -> Result<ExportedSnapshot, Error> {
    let mut client = store.client().await?.alone();
    client.without_timeout();
    client.batch_execute(FULL_SCAN_SETTINGS).await?;
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let id = client.query_one(&EXPORT_SNAPSHOT, &[]).await?.try_get("id")?;
    let schema = schema(&client).await?;
    let contents = contents_in(&client).await?;
    Ok(ExportedSnapshot { _client: client, id, contents, schema })
}

/// Counts the rows of a database.
pub async fn contents(store: &Store) -> Result<DatabaseContents, Error> {
    let mut client = store.client().await?.alone();
    client.without_timeout();
    client.batch_execute(FULL_SCAN_SETTINGS).await?;
    contents_in(&client).await
}

/// Size of the database, in bytes.
pub async fn size(store: &Store) -> Result<u64, Error> {
    let bytes: i64 = store.client().await?.query_one(&SIZE, &[]).await?.try_get("bytes")?;
    Ok(u64::try_from(bytes).unwrap_or_default())
}

/// Whether the connection is encrypted. If so, the server's certificate was verified: [`Store`] has no other
/// encryption.
pub async fn is_encrypted(store: &Store) -> Result<bool, Error> {
    Ok(store.client().await?.query_one(&IS_ENCRYPTED, &[]).await?.try_get("encrypted")?)
}

async fn exists(client: &impl Statements, table: &str) -> Result<bool, Error> {
    Ok(client.query_one(&IS_TABLE, &[&table]).await?.try_get("is_there")?)
}

async fn schema(client: &impl Statements) -> Result<i32, Error> {
    if !exists(client, "schema_migrations").await? {
        return Ok(0);
    }
    Ok(client.query_one(&SCHEMA, &[]).await?.try_get("version")?)
}

/// The newest migration of a database; 0 for none.
pub async fn schema_of(store: &Store) -> Result<i32, Error> {
    schema(&store.client().await?).await
}

async fn contents_in(client: &impl Statements) -> Result<DatabaseContents, Error> {
    let mut tables = BTreeMap::new();
    for row in client.query(&TABLES, &[]).await? {
        let (name, quoted): (String, String) = (row.try_get("name")?, row.try_get("quoted")?);
        tables.insert(name, client.query_one(&count_of(&quoted), &[]).await?.try_get("count")?);
    }
    let mut unaccounted = 0;
    // Older schemas have no `ledger_days`.
    if tables.contains_key("ledger_days") {
        let beginning = Date::from_calendar_date(1970, Month::January, 1);
        let beginning = beginning.map_err(|error| Error::Other(error.to_string()))?;
        let days = reconciliation::days_in(client, beginning).await?;
        unaccounted = days.iter().map(|day| day.missing().unsigned_abs()).sum();
    }
    Ok(DatabaseContents { tables, unaccounted })
}

/// Whether a database contains no data worth keeping.
pub fn is_empty(contents: &DatabaseContents) -> bool {
    ["business_users", "mobile_users", "messages", "conversations"]
        .iter()
        .all(|table| contents.tables.get(*table).copied().unwrap_or_default() == 0)
}

/// Processes with a heartbeat in the last ten seconds, as host and pid.
pub async fn live_processes(client: &Client) -> Result<Vec<String>, Error> {
    if !exists(client, "nodes").await? {
        return Ok(Vec::new());
    }
    let silent = super::nodes::HEARTBEAT_TIMEOUT.as_secs_f64();
    let rows = client.query(&WORKING, &[&silent]).await?;
    rows.iter().map(|row| Ok(row.try_get("process")?)).collect()
}

/// Clears leases, processes and presence.
const CLEAR_RUNTIME_STATE: &str = "
    DELETE FROM nodes;
    UPDATE runs SET stopped_at = alive_at WHERE stopped_at IS NULL;
    UPDATE jobs SET leased = false, run_at = now() WHERE leased;
    UPDATE recipients SET disconnected_at = now(), disconnect_reason = 'restored from a backup'
    WHERE disconnected_at IS NULL";

/// Clears the state of processes and connections from a restored database.
pub async fn clear_runtime_state(client: &Client) -> Result<(), Error> {
    client.batch_execute(&format!("BEGIN; {CLEAR_RUNTIME_STATE}; COMMIT")).await?;
    Ok(())
}

/// A session on a database.
#[derive(Clone, Debug)]
pub struct DatabaseSession {
    pub pid: i32,
    /// `application_name`; may be empty.
    pub name: String,
    /// User name.
    pub user: String,
    /// Client address; `None` for this machine.
    pub from: Option<String>,
}

/// Excludes other restores on the server while this value lives.
pub struct RestoreLock {
    _client: Client,
}

/// The advisory lock's key: "esh3ar" in ASCII, and one more letter.
const RESTORE_LOCK_ID: i64 = 0x0065_7368_3361_7273;

/// Prefix of databases that a restore fills; a time follows.
const NEW_DATABASE_PREFIX: &str = "esh3ar_new_";

/// The databases of the server, through a connection to a maintenance database.
pub struct Databases {
    store: Store,
    own: String,
    /// `application_name` of our own connections.
    name: String,
}

/// Prefix of scratch databases.
const SCRATCH_PREFIX: &str = "esh3ar_verify_";

impl Databases {
    /// Connects to the server of `target`.
    ///
    /// # Errors
    /// Only when no pool can be built.
    pub fn beside(target: &Target) -> Result<Databases, Error> {
        let own = target.get_dbname().or(target.get_user()).unwrap_or("esh3ar").to_owned();
        let name = target.get_application_name().unwrap_or("esh3ar").to_owned();
        let mut maintenance = target.clone();
        maintenance.dbname("postgres");
        Ok(Databases { store: Store::new(maintenance, 1)?, own, name })
    }

    /// The target's own name.
    pub fn own(&self) -> &str {
        &self.own
    }

    /// The name of the database that a restore fills, at a time.
    pub fn new_name(stamp: &str) -> String {
        format!("{NEW_DATABASE_PREFIX}{stamp}")
    }

    /// Acquires the restore lock; `None` while another restore holds it.
    pub async fn alone(&self) -> Result<Option<RestoreLock>, Error> {
        let client = self.store.client().await?.alone();
        let row = client.query_one(&BE_ALONE, &[&RESTORE_LOCK_ID]).await?;
        Ok(row.try_get::<_, bool>("locked")?.then_some(RestoreLock { _client: client }))
    }

    /// Other sessions on the target's database.
    pub async fn guests(&self) -> Result<Vec<DatabaseSession>, Error> {
        let rows = self.store.client().await?.query(&GUESTS, &[&self.own, &self.name]).await?;
        rows.iter()
            .map(|row| {
                Ok(DatabaseSession {
                    pid: row.try_get("pid")?,
                    name: row.try_get("name")?,
                    user: row.try_get("account")?,
                    from: row.try_get("address")?,
                })
            })
            .collect()
    }

    /// Terminates sessions.
    ///
    /// # Errors
    /// Any failure of the database; such as that it may not be done.
    pub async fn end(&self, pids: &[i32]) -> Result<(), Error> {
        self.store.client().await?.execute(&END, &[&pids]).await?;
        Ok(())
    }

    /// Databases that aborted restores left behind and nobody is connected to.
    pub async fn left_by_restores(&self) -> Result<Vec<String>, Error> {
        self.left(NEW_DATABASE_PREFIX).await
    }

    async fn left(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let rows = self.store.client().await?.query(&LEFT_BEHIND, &[&prefix]).await?;
        rows.iter().map(|row| Ok(row.try_get("name")?)).collect()
    }

    /// The name of a database for one check.
    pub fn scratch_name() -> String {
        format!("{SCRATCH_PREFIX}{}", std::process::id())
    }

    /// The name of a database that a restored one is compared with.
    pub fn reference_name() -> String {
        format!("{SCRATCH_PREFIX}{}_1", std::process::id())
    }

    async fn run(&self, sql: &str) -> Result<(), Error> {
        let mut client = self.store.client().await?;
        client.without_timeout();
        client.batch_execute("SET statement_timeout = 0").await?;
        client.batch_execute(sql).await
    }

    /// Creates an empty database, and drops what aborted checks left behind.
    ///
    /// # Errors
    /// Any failure of the database; such as that it may not be done.
    pub async fn create(&self, name: &str) -> Result<(), Error> {
        for old in self.left(SCRATCH_PREFIX).await? {
            // Another check may be using it; then it stays.
            let _ = self.run(&format!("DROP DATABASE IF EXISTS {}", quoted(&old))).await;
        }
        let name = quoted(name);
        self.run(&format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")).await?;
        // The details of an error are whole rows. Where that may not be set it is the owner's choice.
        let _ = self.run(&format!("ALTER DATABASE {name} SET log_error_verbosity = terse")).await;
        Ok(())
    }

    pub async fn drop(&self, name: &str) -> Result<(), Error> {
        self.run(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(name))).await
    }

    /// Replaces the target's database; the old one is kept under another name. Neither may have sessions.
    ///
    /// # Errors
    /// Any failure of the database; all names are then unchanged, unless the connection was lost during
    /// commit: see [`Databases::is_there`].
    pub async fn swap(&self, new: &str, kept: &str) -> Result<(), Error> {
        let (own, new, kept) = (quoted(&self.own), quoted(new), quoted(kept));
        let mut client = self.store.client().await?;
        client.without_timeout();
        // In one transaction, so that a crash never leaves no database of that name.
        let transaction = client.transaction().await?;
        transaction
            .batch_execute(&format!(
                "SET LOCAL statement_timeout = 0; ALTER DATABASE {own} RENAME TO {kept}; \
                 ALTER DATABASE {new} RENAME TO {own}"
            ))
            .await?;
        transaction.commit().await
    }

    /// Whether there is a database of this name.
    pub async fn is_there(&self, name: &str) -> Result<bool, Error> {
        let client = self.store.client().await?;
        Ok(client.query_opt(&IS_DATABASE, &[&name]).await?.is_some())
    }

    pub fn close(&self) {
        self.store.close();
    }
}
