//! The schema's versions: which there are, which are applied, and how to apply the rest.
//!
//! Migrations only go forward. They run under a transaction-scoped advisory lock, so that of two
//! nodes that start together one applies and the other finds nothing left to do.

use ring::digest::{SHA256, digest};

use super::{Client, Error};

/// One step of the schema.
#[derive(Debug)]
pub struct Migration {
    /// Counts from 1.
    pub version: i32,
    /// The file's name without number and ending.
    pub name: &'static str,
    sql: &'static str,
}

/// All steps this binary knows, in order.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "one_way",
        sql: include_str!("../../migrations/0001_one_way.sql"),
    },
    Migration {
        version: 2,
        name: "two_modes",
        sql: include_str!("../../migrations/0002_two_modes.sql"),
    },
    Migration {
        version: 3,
        name: "access_and_delivery",
        sql: include_str!("../../migrations/0003_access_and_delivery.sql"),
    },
    Migration { version: 4, name: "books", sql: include_str!("../../migrations/0004_books.sql") },
    Migration { version: 5, name: "jobs", sql: include_str!("../../migrations/0005_jobs.sql") },
    Migration { version: 6, name: "hub", sql: include_str!("../../migrations/0006_hub.sql") },
    Migration { version: 7, name: "chat", sql: include_str!("../../migrations/0007_chat.sql") },
    Migration {
        version: 8,
        name: "chat_versions",
        sql: include_str!("../../migrations/0008_chat_versions.sql"),
    },
    Migration { version: 9, name: "nodes", sql: include_str!("../../migrations/0009_nodes.sql") },
    Migration {
        version: 10,
        name: "audit_log",
        sql: include_str!("../../migrations/0010_audit_log.sql"),
    },
];

/// The advisory lock's key: "esh3ar" in ASCII.
const LOCK: i64 = 0x6573_6833_6172;

/// A migration failed or may not run.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database was migrated by a newer binary.
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
    )";

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
    Ok(MIGRATIONS
        .iter()
        .map(|step| MigrationState {
            version: step.version,
            name: step.name.to_owned(),
            applied_at: applied.iter().find(|a| a.version == step.version).map(|a| a.at),
        })
        .collect())
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
                "INSERT INTO schema_migrations (version, name, sha256) VALUES ($1, $2, $3)",
                &[&step.version, &step.name, &checksum(step.sql).as_slice()],
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
    sha256: Vec<u8>,
    at: time::OffsetDateTime,
}

async fn applied(
    client: &impl deadpool_postgres::GenericClient,
) -> Result<Vec<Applied>, tokio_postgres::Error> {
    client
        .query("SELECT version, sha256, applied_at FROM schema_migrations ORDER BY version", &[])
        .await?
        .iter()
        .map(|row| {
            Ok(Applied { version: row.try_get(0)?, sha256: row.try_get(1)?, at: row.try_get(2)? })
        })
        .collect()
}

fn judge(applied: &[Applied]) -> Result<(), MigrateError> {
    let known = MIGRATIONS.iter().map(|step| step.version).max().unwrap_or(0);
    for entry in applied {
        match MIGRATIONS.iter().find(|step| step.version == entry.version) {
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
