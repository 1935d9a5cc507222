//! Schema migrations: the list, their state, and how to apply them.
//!
//! Migrations only go forward. They run under an advisory lock: of two nodes that start together, one applies
//! them and the other finds nothing to do.
//!
//! Older binaries keep working after each migration. One that breaks them raises `serves`, and binaries older
//! than that refuse the schema.

use std::time::Duration;

use ring::digest::{SHA256, digest};

use super::{Client, Error, Statements, statement::statements};

/// A migration.
#[derive(Debug)]
pub struct Migration {
    /// Counts from 1.
    pub version: i32,
    /// The file name without number and extension.
    pub name: &'static str,
    /// Schema version of the oldest binaries that work with this one.
    pub serves: i32,
    /// Runs statement by statement outside a transaction, without blocking writers, and may be restarted
    /// after an abort.
    beside: bool,
    sql: &'static str,
}

/// A migration with which binaries from schema `serves` on keep working.
const fn step(version: i32, name: &'static str, serves: i32, sql: &'static str) -> Migration {
    Migration { version, name, serves, beside: false, sql }
}

/// The same, for index builds with `CONCURRENTLY`, which cannot run in a transaction.
const fn beside(version: i32, name: &'static str, serves: i32, sql: &'static str) -> Migration {
    Migration { version, name, serves, beside: true, sql }
}

/// All migrations of this binary, in order.
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
    beside(11, "keeping", 9, include_str!("../../migrations/0011_keeping.sql")),
    step(12, "token_rotation", 9, include_str!("../../migrations/0012_token_rotation.sql")),
    step(13, "recipient_runs", 9, include_str!("../../migrations/0013_recipient_runs.sql")),
    step(14, "imports", 9, include_str!("../../migrations/0014_imports.sql")),
    beside(15, "waiting_by_age", 9, include_str!("../../migrations/0015_waiting_by_age.sql")),
    step(16, "drain", 9, include_str!("../../migrations/0016_drain.sql")),
    step(17, "names", 9, include_str!("../../migrations/0017_names.sql")),
    beside(18, "deleted", 9, include_str!("../../migrations/0018_deleted.sql")),
    step(19, "audit_peer", 9, include_str!("../../migrations/0019_audit_peer.sql")),
    step(20, "event_counts", 9, include_str!("../../migrations/0020_event_counts.sql")),
    beside(21, "counted_events", 9, include_str!("../../migrations/0021_counted_events.sql")),
    step(22, "access_changes", 9, include_str!("../../migrations/0022_access_changes.sql")),
    beside(23, "token_use", 9, include_str!("../../migrations/0023_token_use.sql")),
    step(24, "sealed_secrets", 9, include_str!("../../migrations/0024_sealed_secrets.sql")),
    step(25, "roles", 9, include_str!("../../migrations/0025_roles.sql")),
    step(26, "content_policy", 9, include_str!("../../migrations/0026_content_policy.sql")),
    step(27, "audit_chain", 9, include_str!("../../migrations/0027_audit_chain.sql")),
    step(28, "registrations", 9, include_str!("../../migrations/0028_registrations.sql")),
];

/// The advisory lock's key: "esh3ar" in ASCII.
const MIGRATION_LOCK_ID: i64 = 0x6573_6833_6172;

/// A migration failed or may not run.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The schema is too new for this binary.
    #[error("the database schema has version {found}; this binary supports up to {known}")]
    Newer {
        found: i32,
        /// The newest this binary knows.
        known: i32,
    },
    /// An applied migration differs from the one in this binary.
    #[error("migration {version} was applied with different contents than in this binary")]
    Changed { version: i32 },
    /// A migration failed and was rolled back.
    #[error("migration {version} failed: {error}")]
    Step { version: i32, error: Error },
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
    pub name: String,
    /// `None` if it is pending.
    pub applied_at: Option<time::OffsetDateTime>,
}

statements! {
    TRY_LOCK: once = "SELECT pg_try_advisory_lock($1) AS locked";
    UNLOCK: once = "SELECT pg_advisory_unlock($1)";
    IS_THERE: once = "SELECT to_regclass('schema_migrations') IS NOT NULL AS is_there";
    // Tables created by older binaries lack the column. Checked first, because ALTER waits for every reader.
    LACKS_SERVES: once = "
        SELECT NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'schema_migrations'::regclass
                           AND attname = 'serves' AND NOT attisdropped) AS lacks";
    LIMITS: once = "
        SELECT current_setting('statement_timeout') AS statement_timeout,
               current_setting('lock_timeout') AS lock_timeout";
    SET_LIMITS: once = "
        SELECT set_config('statement_timeout', $1, false), set_config('lock_timeout', $2, false)";
    NOTE: once = "
        INSERT INTO schema_migrations (version, name, sha256, serves) VALUES ($1, $2, $3, $4)";
    // By name, for a table whose migrations were all applied by older binaries.
    APPLIED: once = "
        SELECT version, name, sha256, applied_at, (to_jsonb(m) ->> 'serves')::integer AS serves
        FROM schema_migrations m ORDER BY version";
}

const CREATE: &str = "
    CREATE TABLE IF NOT EXISTS schema_migrations (
        version    integer PRIMARY KEY,
        name       text NOT NULL,
        sha256     bytea NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now(),
        serves     integer
    )";
/// How long a migration waits for a table lock before it lets the statements queued behind it pass.
const LOCK_TIMEOUT: &str = "2s";
/// Delay before it tries again, and the number of attempts: a dump may hold every table for an hour.
const RETRY_DELAY: Duration = Duration::from_secs(3);
const MAX_ATTEMPTS: u32 = 1500;
/// Poll interval while another node migrates.
const ALONE_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Applied and pending migrations.
///
/// # Errors
/// [`MigrateError::Newer`], [`MigrateError::Changed`], or a failure of the database.
pub async fn status(client: &Client) -> Result<Vec<MigrationState>, MigrateError> {
    let applied = known(client).await?;
    judge(&applied)?;
    let ours = MIGRATIONS.iter().map(|step| MigrationState {
        version: step.version,
        name: step.name.to_owned(),
        applied_at: applied.iter().find(|a| a.version == step.version).map(|a| a.at),
    });
    // Applied by a newer binary that this one works with.
    let newer =
        applied.iter().filter(|a| MIGRATIONS.iter().all(|step| step.version != a.version)).map(
            |a| MigrationState { version: a.version, name: a.name.clone(), applied_at: Some(a.at) },
        );
    Ok(ours.chain(newer).collect())
}

/// Applies pending migrations up to `target`, or all of them. Each is a transaction, or restartable. If none
/// is pending, no lock is taken.
///
/// # Errors
/// See [`MigrateError`]; migrations applied before the failing one stay applied.
pub async fn run(client: &mut Client, target: Option<i32>) -> Result<Vec<i32>, MigrateError> {
    if next(&known(client).await?, target)?.is_none() {
        return Ok(Vec::new());
    }
    client.without_timeout();
    // Polled instead of waited for: a waiting session holds a snapshot, for which `CREATE INDEX CONCURRENTLY`
    // would wait in turn.
    while !client.query_one(&TRY_LOCK, &[&MIGRATION_LOCK_ID]).await?.try_get("locked")? {
        tokio::time::sleep(ALONE_POLL_INTERVAL).await;
    }
    let done = apply_all(client, target).await;
    client.execute(&UNLOCK, &[&MIGRATION_LOCK_ID]).await?;
    done
}

/// Applied migrations; empty in a new database.
async fn known(client: &Client) -> Result<Vec<Applied>, MigrateError> {
    let exists: bool = client.query_one(&IS_THERE, &[]).await?.try_get("is_there")?;
    Ok(if exists { applied(client).await? } else { Vec::new() })
}

fn next(
    applied: &[Applied],
    target: Option<i32>,
) -> Result<Option<&'static Migration>, MigrateError> {
    judge(applied)?;
    Ok(MIGRATIONS.iter().find(|step| {
        target.is_none_or(|target| step.version <= target)
            && !applied.iter().any(|a| a.version == step.version)
    }))
}

async fn apply_all(client: &mut Client, target: Option<i32>) -> Result<Vec<i32>, MigrateError> {
    let mut done = Vec::new();
    client.batch_execute(CREATE).await?;
    if client.query_one(&LACKS_SERVES, &[]).await?.try_get("lacks")? {
        let add = "ALTER TABLE schema_migrations ADD COLUMN serves integer";
        patiently(client, "schema_migrations", add, None).await?;
    }
    while let Some(step) = next(&applied(client).await?, target)? {
        let failed = |error| MigrateError::Step { version: step.version, error };
        if step.beside {
            let made = make_beside(client, step).await;
            made.map_err(failed)?;
        } else {
            patiently(client, step.name, step.sql, Some(step)).await.map_err(failed)?;
        }
        tracing::info!(version = step.version, name = step.name, "migration applied");
        done.push(step.version);
    }
    Ok(done)
}

async fn make_beside(client: &Client, step: &Migration) -> Result<(), Error> {
    let row = client.query_one(&LIMITS, &[]).await?;
    let usual: (String, String) = (row.try_get("statement_timeout")?, row.try_get("lock_timeout")?);
    // It may take long, and blocks nobody.
    client.query(&SET_LIMITS, &[&"0", &"0"]).await?;
    let mut made = Ok(());
    for statement in step.sql.split(";\n").filter(|text| !is_blank(text)) {
        made = client.batch_execute(statement).await;
        if made.is_err() {
            break;
        }
    }
    client.query(&SET_LIMITS, &[&usual.0, &usual.1]).await?;
    made?;
    note(client, step).await
}

/// Whether a statement contains only comments.
fn is_blank(text: &str) -> bool {
    text.lines().all(|line| line.trim().is_empty() || line.trim().starts_with("--"))
}

/// Runs a transaction, and retries it if it cannot get a lock soon: other statements queue behind a waiting
/// lock request.
async fn patiently(
    client: &mut Client,
    name: &str,
    sql: &str,
    step: Option<&Migration>,
) -> Result<(), Error> {
    let mut tries = 0;
    loop {
        let transaction = client.transaction().await?;
        let begin =
            format!("SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; SET LOCAL statement_timeout = 0");
        transaction.batch_execute(&begin).await?;
        let made = async {
            transaction.batch_execute(sql).await?;
            match step {
                Some(step) => note(&transaction, step).await,
                None => Ok(()),
            }
        };
        match made.await {
            Ok(()) => return transaction.commit().await,
            Err(Error::Contention(_)) if tries < MAX_ATTEMPTS => {
                transaction.rollback().await?;
                tries += 1;
                if tries == 1 {
                    tracing::info!(name, "migration waiting for a table lock");
                }
                tokio::time::sleep(RETRY_DELAY).await;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn note(client: &impl Statements, step: &Migration) -> Result<(), Error> {
    client
        .execute(&NOTE, &[&step.version, &step.name, &checksum(step.sql).as_slice(), &step.serves])
        .await
        .map(|_| ())
}

struct Applied {
    version: i32,
    name: String,
    sha256: Vec<u8>,
    at: time::OffsetDateTime,
    /// Unknown for migrations applied by older binaries.
    serves: Option<i32>,
}

async fn applied(client: &impl Statements) -> Result<Vec<Applied>, Error> {
    client
        .query(&APPLIED, &[])
        .await?
        .iter()
        .map(|row| {
            Ok(Applied {
                version: row.try_get("version")?,
                name: row.try_get("name")?,
                sha256: row.try_get("sha256")?,
                at: row.try_get("applied_at")?,
                serves: row.try_get("serves")?,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_a_step_is_a_step() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort_unstable();
        let steps = MIGRATIONS.iter().map(|step| format!("{:04}_{}.sql", step.version, step.name));
        assert_eq!(files, steps.collect::<Vec<_>>());
    }
}
