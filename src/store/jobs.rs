//! Jobs: claimed under a lease, protected by a fencing token.
//!
//! Each claim raises the job's fence. A worker whose lease ended and whose fence is older than the row's
//! changes nothing.

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
    // SKIP LOCKED, so that any number of workers can claim concurrently.
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

/// A job to enqueue.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Also the idempotency key towards the provider.
    pub id: Uuid,
    /// What is to be done.
    pub work: JobPayload,
    /// The message it is for, if it is for one.
    pub message: Option<MessageId>,
    /// At most one job per key.
    pub unique_key: Option<String>,
    /// When it may run.
    pub run_at: OffsetDateTime,
}

/// A job claimed by this process.
#[derive(Clone, Debug)]
pub struct ClaimedJob {
    pub id: Uuid,
    /// Fencing token.
    pub fence: i64,
    /// `None` if the payload cannot be decoded: another version may have written it.
    pub work: Option<JobPayload>,
    /// Attempts before this one.
    pub attempts: u32,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

/// The stored payload; the kind is a column.
fn payload(work: &JobPayload) -> Value {
    let fields = work.fields().into_iter();
    Value::Object(fields.map(|(name, text)| (name.to_owned(), Value::String(text))).collect())
}

fn work(kind: JobKind, payload: &Value) -> Option<JobPayload> {
    JobPayload::from_fields(kind, |name| payload[name].as_str())
}

/// Enqueues a job. `false` if its key is taken.
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

/// Claims up to `most` due jobs, including those whose lease has ended.
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

/// Extends a lease. `false` if the job was lost.
pub async fn renew(
    client: &Client,
    job: &ClaimedJob,
    lease_until: OffsetDateTime,
) -> Result<bool, Error> {
    Ok(client.execute(&RENEW, &[&job.id, &job.fence, &lease_until]).await? == 1)
}

/// Deletes a completed job. `false` if the job was lost.
pub async fn finish(client: &Client, job: &ClaimedJob) -> Result<bool, Error> {
    Ok(client.execute(&FINISH, &[&job.id, &job.fence]).await? == 1)
}

/// Reschedules a job. `false` if the job was lost.
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

/// Releases a job that was not tried. `false` if the job was lost.
pub async fn release(
    client: &Client,
    job: &ClaimedJob,
    run_at: OffsetDateTime,
) -> Result<bool, Error> {
    Ok(client.execute(&RELEASE, &[&job.id, &job.fence, &run_at]).await? == 1)
}

/// Replaces a job by a dead letter with the id `letter`. `false` if the job was lost.
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

/// Number of queued and running jobs of a kind.
pub async fn count(client: &Client, kind: JobKind) -> Result<i64, Error> {
    Ok(client.query_one(&COUNT, &[&kind.name()]).await?.try_get("count")?)
}
