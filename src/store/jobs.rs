//! Jobs: taken by whoever is free, kept by a lease, given back with a fence.
//!
//! Whoever takes a job raises its fence and may keep it until its lease ends. What comes back with an
//! older fence has lost the job to somebody else and changes nothing.

use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Client, Error, Statements, statement::statements};
use crate::domain::{
    DeadLetterClass, MessageId,
    job::{JobKind, JobPayload},
};

statements! {
    ENQUEUE = "
        INSERT INTO jobs (id, kind, payload, message_id, unique_key, run_at, created_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT ON CONSTRAINT jobs_unique_key DO NOTHING";
    // Skipped when somebody else has it, so that any number of workers can take at once.
    TAKE = "
        WITH due AS (
            SELECT id FROM jobs WHERE kind = $1 AND run_at <= $2
            ORDER BY run_at LIMIT $3 FOR UPDATE SKIP LOCKED)
        UPDATE jobs j SET fence = j.fence + 1, leased = true, run_at = $4
        FROM due WHERE j.id = due.id
        RETURNING j.id, j.fence, j.payload, j.attempts, j.created_at";
    RENEW = "UPDATE jobs SET run_at = $3 WHERE id = $1 AND fence = $2 AND leased";
    FINISH = "DELETE FROM jobs WHERE id = $1 AND fence = $2 AND leased";
    RETRY = "
        UPDATE jobs SET leased = false, run_at = $3, attempts = $4, last_error = left($5, 500),
                        first_error_at = coalesce(first_error_at, $6)
        WHERE id = $1 AND fence = $2 AND leased";
    RELEASE = "
        UPDATE jobs SET leased = false, run_at = $3 WHERE id = $1 AND fence = $2 AND leased";
    BURY = "
        WITH gone AS (
            DELETE FROM jobs WHERE id = $1 AND fence = $2 AND leased
            RETURNING id, kind, payload, message_id, attempts, first_error_at)
        INSERT INTO dead_letters (id, message_id, generation, kind, class, reason, attempts,
                                  first_error_at, last_error_at, job_id, payload)
        SELECT $3, message_id, 0, kind, $4, left($5, 500), attempts + 1, coalesce(first_error_at, $6),
               $6, id, payload
        FROM gone";
    COUNT = "
        SELECT count(*) AS count FROM (SELECT FROM jobs WHERE kind = $1 LIMIT 100000) AS of_kind";
}

/// Work to be done.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Names it, also towards the provider, who can tell a repeat by it.
    pub id: Uuid,
    /// What is to be done.
    pub work: JobPayload,
    /// The message it is for, if it is for one.
    pub message: Option<MessageId>,
    /// Two jobs with the same key are one.
    pub unique_key: Option<String>,
    /// When it may be done.
    pub run_at: OffsetDateTime,
}

/// A job that somebody has taken.
#[derive(Clone, Debug)]
pub struct ClaimedJob {
    pub id: Uuid,
    /// Proves that it is still ours.
    pub fence: i64,
    /// What is to be done; `None` when it cannot be read, which another version may have written.
    pub work: Option<JobPayload>,
    /// Attempts before this one.
    pub attempts: u32,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

/// The stored form of work, beside its kind.
fn payload(work: &JobPayload) -> Value {
    let fields = work.fields().into_iter();
    Value::Object(fields.map(|(name, text)| (name.to_owned(), Value::String(text))).collect())
}

fn work(kind: JobKind, payload: &Value) -> Option<JobPayload> {
    JobPayload::from_fields(kind, |name| payload[name].as_str())
}

/// Adds a job; in a transaction, together with what it follows from. `false` if its key was taken.
pub async fn enqueue(
    client: &impl Statements,
    job: &NewJob,
    now: OffsetDateTime,
) -> Result<bool, Error> {
    let message = job.message.map(|id| id.0);
    let added = client
        .execute(
            &ENQUEUE,
            &[
                &job.id,
                &job.work.kind().name(),
                &payload(&job.work),
                &message,
                &job.unique_key,
                &job.run_at,
                &now,
            ],
        )
        .await?;
    Ok(added == 1)
}

/// Takes up to `most` jobs that are due, those included whose lease has ended.
pub async fn claim(
    client: &Client,
    kind: JobKind,
    now: OffsetDateTime,
    most: usize,
    lease_until: OffsetDateTime,
) -> Result<Vec<ClaimedJob>, Error> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let rows = client.query(&TAKE, &[&kind.name(), &now, &most, &lease_until]).await?;
    rows.iter()
        .map(|row| {
            Ok(ClaimedJob {
                id: row.try_get("id")?,
                fence: row.try_get("fence")?,
                work: work(kind, &row.try_get("payload")?),
                attempts: u32::try_from(row.try_get::<_, i32>("attempts")?).unwrap_or_default(),
                created_at: row.try_get("created_at")?,
            })
        })
        .collect()
}

/// Extends a lease. `false` when the job is not ours any more.
pub async fn renew(
    client: &Client,
    job: &ClaimedJob,
    lease_until: OffsetDateTime,
) -> Result<bool, Error> {
    Ok(client.execute(&RENEW, &[&job.id, &job.fence, &lease_until]).await? == 1)
}

/// Removes a job that is done. `false` when it was not ours any more.
pub async fn finish(client: &Client, job: &ClaimedJob) -> Result<bool, Error> {
    Ok(client.execute(&FINISH, &[&job.id, &job.fence]).await? == 1)
}

/// Gives a job back for a later attempt. `false` when it was not ours any more.
pub async fn retry(
    client: &Client,
    job: &ClaimedJob,
    attempts: u32,
    run_at: OffsetDateTime,
    reason: &str,
    now: OffsetDateTime,
) -> Result<bool, Error> {
    let attempts = i32::try_from(attempts).unwrap_or(i32::MAX);
    let changed =
        client.execute(&RETRY, &[&job.id, &job.fence, &run_at, &attempts, &reason, &now]).await?;
    Ok(changed == 1)
}

/// Gives a job back as it was: nothing was tried. `false` when it was not ours any more.
pub async fn release(
    client: &Client,
    job: &ClaimedJob,
    run_at: OffsetDateTime,
) -> Result<bool, Error> {
    Ok(client.execute(&RELEASE, &[&job.id, &job.fence, &run_at]).await? == 1)
}

/// Makes a dead letter, whose id is `letter`, of a job. `false` when it was not ours any more.
pub async fn bury(
    client: &Client,
    job: &ClaimedJob,
    class: DeadLetterClass,
    reason: &str,
    letter: Uuid,
    now: OffsetDateTime,
) -> Result<bool, Error> {
    let changed = client
        .execute(&BURY, &[&job.id, &job.fence, &letter, &class.name(), &reason, &now])
        .await?;
    Ok(changed == 1)
}

/// How many jobs of a kind wait or are in hand.
pub async fn count(client: &Client, kind: JobKind) -> Result<i64, Error> {
    Ok(client.query_one(&COUNT, &[&kind.name()]).await?.try_get("count")?)
}
