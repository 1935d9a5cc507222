//! The schema's versions: which there are, which are applied, and how to apply the rest.
//!
//! Migrations only go forward. They run under a transaction-scoped advisory lock, so that of two
//! nodes that start together one applies and the other finds nothing left to do.
//!
//! Each step is made so that the binaries before it go on working beside those that need it; a step
//! that cannot be says so in `serves`, and binaries older than that refuse the schema.

use ring::digest::{SHA256, digest};

use super::{Client, Error};

/// One step of the schema.
#[derive(Debug)]
pub struct Migration {
    /// Counts from 1.
    pub version: i32,
    /// The file's name without number and ending.
    pub name: &'static str,
    /// The oldest schema whose binaries work with this one too.
    pub serves: i32,
    sql: &'static str,
}

/// A step beside which every binary that knows the schema `serves` goes on working.
const fn step(version: i32, name: &'static str, serves: i32, sql: &'static str) -> Migration {
    Migration { version, name, serves, sql }
}

/// All steps this binary knows, in order.
pub const MIGRATIONS: &[Migration] = &[
    step(1, "one_way", 1, include_str!("../../migrations/0001_one_way.sql")),
    step(2, "two_modes", 2, include_str!("../../migrations/0002_two_modes.sql")),
    step(
        3,
        "access_and_delivery",
        3,
        include_str!("../../migrations/0003_access_and_delivery.sql"),
    ),
    step(4, "books", 4, include_str!("../../migrations/0004_books.sql")),
    step(5, "jobs", 5, include_str!("../../migrations/0005_jobs.sql")),
    step(6, "hub", 6, include_str!("../../migrations/0006_hub.sql")),
    step(7, "chat", 7, include_str!("../../migrations/0007_chat.sql")),
    step(8, "chat_versions", 8, include_str!("../../migrations/0008_chat_versions.sql")),
    step(9, "nodes", 9, include_str!("../../migrations/0009_nodes.sql")),
    step(10, "audit_log", 9, include_str!("../../migrations/0010_audit_log.sql")),
    step(11, "keeping", 9, include_str!("../../migrations/0011_keeping.sql")),
    step(12, "token_rotation", 9, include_str!("../../migrations/0012_token_rotation.sql")),
    step(13, "recipient_runs", 9, include_str!("../../migrations/0013_recipient_runs.sql")),
];

/// The advisory lock's key: "esh3ar" in ASCII.
const LOCK: i64 = 0x6573_6833_6172;

/// A migration failed or may not run.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database was migrated by a newer binary, beside which this one does not work.
    #[error("the schema is at version {found}, and this binary knows only {known}")]
    Newer {
        /// The schema's version.
        found: i32,
        /// The newest this binary knows.
        known: i32,
    },
    /// An applied migration is not the one this binary carries.
    #[error("migration {version} was applied with other contents than this binary's")]
    Changed {
        /// Which.
        version: i32,
    },
    /// A step failed; nothing of it was kept.
    #[error("migration {version} failed: {error}")]
    Step {
        /// Which.
        version: i32,
        /// Why.
        error: Error,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] Error),
}

impl From<tokio_postgres::Error> for MigrateError {
    fn from(error: tokio_postgres::Error) -> Self {
        MigrateError::Store(error.into())
    }
}

/// One line of `esh3ar migrate --status`.
#[derive(Debug, Clone)]
pub struct MigrationState {
    /// Counts from 1.
    pub version: i32,
    /// What it is called.
    pub name: String,
    /// When it was applied; `None` while it is not.
    pub applied_at: Option<time::OffsetDateTime>,
}

const CREATE: &str = "
    CREATE TABLE IF NOT EXISTS schema_migrations (
        version    integer PRIMARY KEY,
        name       text NOT NULL,
        sha256     bytea NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    );
    ALTER TABLE schema_migrations ADD COLUMN IF NOT EXISTS serves integer";

/// What is applied and what is not.
///
/// # Errors
/// [`MigrateError::Newer`], [`MigrateError::Changed`], or a failure of the database.
pub async fn status(client: &Client) -> Result<Vec<MigrationState>, MigrateError> {
    let exists: bool = client
        .query_one("SELECT to_regclass('schema_migrations') IS NOT NULL", &[])
        .await?
        .try_get(0)?;
    let applied = if exists { applied(client).await? } else { Vec::new() };
    judge(&applied)?;
    let known = MIGRATIONS.iter().map(|step| MigrationState {
        version: step.version,
        name: step.name.to_owned(),
        applied_at: applied.iter().find(|a| a.version == step.version).map(|a| a.at),
    });
    // Of a newer binary that this one works beside.
    let newer =
        applied.iter().filter(|a| MIGRATIONS.iter().all(|step| step.version != a.version)).map(
            |a| MigrationState { version: a.version, name: a.name.clone(), applied_at: Some(a.at) },
        );
    Ok(known.chain(newer).collect())
}

/// Applies what is missing up to `target` (all of it without one). Each step is a transaction.
///
/// # Errors
/// See [`MigrateError`]; what was applied before the failing step stays applied.
pub async fn run(client: &mut Client, target: Option<i32>) -> Result<Vec<i32>, MigrateError> {
    let mut done = Vec::new();
    loop {
        let transaction = client.transaction().await?;
        // Waiting for another node's migration may take longer than a statement otherwise may.
        transaction
            .batch_execute("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
            .await?;
        transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
        transaction.batch_execute(CREATE).await?;
        let applied = applied(&transaction).await?;
        judge(&applied)?;
        let next = MIGRATIONS.iter().find(|step| {
            target.is_none_or(|target| step.version <= target)
                && !applied.iter().any(|a| a.version == step.version)
        });
        let Some(step) = next else {
            transaction.commit().await?;
            return Ok(done);
        };
        let failed = |error: tokio_postgres::Error| MigrateError::Step {
            version: step.version,
            error: error.into(),
        };
        transaction.batch_execute(step.sql).await.map_err(failed)?;
        transaction
            .execute(
                "INSERT INTO schema_migrations (version, name, sha256, serves) VALUES ($1, $2, $3, $4)",
                &[&step.version, &step.name, &checksum(step.sql).as_slice(), &step.serves],
            )
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        tracing::info!(version = step.version, name = step.name, "migration applied");
        done.push(step.version);
    }
}

struct Applied {
    version: i32,
    name: String,
    sha256: Vec<u8>,
    at: time::OffsetDateTime,
    /// Not known of those that older binaries applied.
    serves: Option<i32>,
}

async fn applied(
    client: &impl deadpool_postgres::GenericClient,
) -> Result<Vec<Applied>, tokio_postgres::Error> {
    // By name, for a table whose steps were all applied by older binaries.
    client
        .query(
            "SELECT version, name, sha256, applied_at, (to_jsonb(m) ->> 'serves')::integer
             FROM schema_migrations m ORDER BY version",
            &[],
        )
        .await?
        .iter()
        .map(|row| {
            Ok(Applied {
                version: row.try_get(0)?,
                name: row.try_get(1)?,
                sha256: row.try_get(2)?,
                at: row.try_get(3)?,
                serves: row.try_get(4)?,
            })
        })
        .collect()
}

fn judge(applied: &[Applied]) -> Result<(), MigrateError> {
    let known = MIGRATIONS.iter().map(|step| step.version).max().unwrap_or(0);
    for entry in applied {
        match MIGRATIONS.iter().find(|step| step.version == entry.version) {
            None if entry.serves.is_some_and(|serves| serves <= known) => {}
            None => return Err(MigrateError::Newer { found: entry.version, known }),
            Some(step) if checksum(step.sql) != entry.sha256 => {
                return Err(MigrateError::Changed { version: step.version });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn checksum(sql: &str) -> Vec<u8> {
    digest(&SHA256, sql.as_bytes()).as_ref().to_vec()
}
