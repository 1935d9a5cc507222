//! Dead letters: what was given up, listed, put back or deleted by an administrator.
//!
//! Putting one back is exactly-once by its row: whoever deletes it begins the next generation, and
//! everybody else finds nothing to delete.

use time::OffsetDateTime;
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use super::{Client, Error, Statements, outcome::raise_receipts};
use crate::domain::{DeadLetterClass, DeadLetterId, MessageId, Phone};

/// One dead letter and what is worth knowing of its message.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Its own id.
    pub id: DeadLetterId,
    /// The message it is about; none for other work that was given up, such as a mail.
    pub message: Option<MessageId>,
    /// The message's generation that was given up.
    pub generation: i32,
    /// `delivery`, `push`, or the kind of job.
    pub kind: String,
    /// Where the cause lies.
    pub class: DeadLetterClass,
    /// What happened.
    pub reason: String,
    /// How often it was tried.
    pub attempts: i32,
    /// When it first went wrong.
    pub first_error_at: OffsetDateTime,
    /// When it was given up.
    pub last_error_at: OffsetDateTime,
    /// The sender's name; empty without a message.
    pub from: String,
    /// The recipient.
    pub to: Option<Phone>,
    /// The message's subject.
    pub subject: Option<String>,
}

impl DeadLetter {
    /// The phones that it names.
    pub fn phones(&self) -> impl Iterator<Item = Phone> {
        let from = self.from.starts_with('+').then(|| Phone::from_stored(&self.from));
        self.to.clone().into_iter().chain(from)
    }

    /// The same with its phone numbers masked.
    #[must_use]
    pub fn masked(self) -> DeadLetter {
        let from = match self.from.starts_with('+') {
            true => Phone::from_stored(&self.from).masked(),
            false => self.from,
        };
        let to = self.to.map(|phone| Phone::from_stored(&phone.masked()));
        DeadLetter { from, to, ..self }
    }
}

/// Which dead letters are meant. Conditions that are given must all hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only these.
    pub ids: Vec<DeadLetterId>,
    /// Only with this text in the reason, whatever its case.
    pub reason: Option<String>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only of this class.
    pub class: Option<DeadLetterClass>,
    /// Only given up at this time or later.
    pub since: Option<OffsetDateTime>,
    /// Only to this phone.
    pub recipient: Option<Phone>,
    /// Only older than this one.
    pub before: Option<DeadLetterId>,
}

const COLUMNS: &str = "d.id, d.message_id, d.generation, d.kind, d.class, d.reason, d.attempts, \
     d.first_error_at, d.last_error_at, coalesce(u.name, m.sender_phone, '') AS sender, \
     m.recipient_phone, m.subject";
const FROM: &str = "dead_letters d LEFT JOIN messages m ON m.id = d.message_id \
     LEFT JOIN business_users u ON u.id = m.sender_user_id";

fn letter(row: &Row) -> Result<DeadLetter, Error> {
    let class: &str = row.try_get("class")?;
    Ok(DeadLetter {
        id: DeadLetterId(row.try_get("id")?),
        message: row.try_get::<_, Option<Uuid>>("message_id")?.map(MessageId),
        generation: row.try_get("generation")?,
        kind: row.try_get("kind")?,
        class: DeadLetterClass::parse(class)
            .ok_or_else(|| Error::Corrupt("class of a dead letter".to_owned()))?,
        reason: row.try_get("reason")?,
        attempts: row.try_get("attempts")?,
        first_error_at: row.try_get("first_error_at")?,
        last_error_at: row.try_get("last_error_at")?,
        from: row.try_get("sender")?,
        to: row.try_get::<_, Option<&str>>("recipient_phone")?.map(Phone::from_stored),
        subject: row.try_get("subject")?,
    })
}

/// Conditions and their values.
struct Where {
    sql: String,
    values: Vec<Box<dyn ToSql + Sync + Send>>,
}

impl Filter {
    fn conditions(&self) -> Where {
        let mut sql = vec!["true".to_owned()];
        let mut values: Vec<Box<dyn ToSql + Sync + Send>> = Vec::new();
        let mut add = |condition: &str, value: Box<dyn ToSql + Sync + Send>| {
            values.push(value);
            sql.push(condition.replace('?', &format!("${}", values.len())));
        };
        if !self.ids.is_empty() {
            let ids: Vec<Uuid> = self.ids.iter().map(|id| id.0).collect();
            add("d.id = ANY (?)", Box::new(ids));
        }
        if let Some(reason) = &self.reason {
            add("strpos(lower(d.reason), lower(?)) > 0", Box::new(reason.clone()));
        }
        if let Some(kind) = &self.kind {
            add("d.kind = ?", Box::new(kind.clone()));
        }
        if let Some(class) = self.class {
            add("d.class = ?", Box::new(class.name()));
        }
        if let Some(since) = self.since {
            add("d.last_error_at >= ?", Box::new(since));
        }
        if let Some(recipient) = &self.recipient {
            add("m.recipient_phone = ?", Box::new(recipient.as_str().to_owned()));
        }
        if let Some(before) = self.before {
            add("d.id < ?", Box::new(before.0));
        }
        Where { sql: sql.join(" AND "), values }
    }
}

fn parameters(values: &[Box<dyn ToSql + Sync + Send>]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(|value| &**value as &(dyn ToSql + Sync)).collect()
}

/// Dead letters by filter, newest first.
///
/// # Errors
/// Any failure of the database.
pub async fn list(
    client: &Client,
    filter: &Filter,
    limit: usize,
) -> Result<Vec<DeadLetter>, Error> {
    let wanted = filter.conditions();
    let sql = format!(
        "SELECT {COLUMNS} FROM {FROM} WHERE {} ORDER BY d.id DESC LIMIT {limit}",
        wanted.sql
    );
    let rows = client.query(&sql, &parameters(&wanted.values)).await?;
    rows.iter().map(letter).collect()
}

/// The newest dead letters that the administrators were told of at a time.
pub(super) async fn told_at(
    client: &impl Statements,
    at: OffsetDateTime,
    limit: usize,
) -> Result<Vec<DeadLetter>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM {FROM} WHERE d.told_at = $1 ORDER BY d.id DESC LIMIT {limit}"
    );
    let rows = client.query(&sql, &[&at]).await?;
    rows.iter().map(letter).collect()
}

/// How many there are by filter.
///
/// # Errors
/// Any failure of the database.
pub async fn count(client: &Client, filter: &Filter) -> Result<u64, Error> {
    let wanted = filter.conditions();
    let sql = format!("SELECT count(*) AS count FROM {FROM} WHERE {}", wanted.sql);
    let row = client.query_one(&sql, &parameters(&wanted.values)).await?;
    Ok(u64::try_from(row.try_get::<_, i64>("count")?).unwrap_or_default())
}

// Whoever deletes the letter begins the generation, or makes the job anew. A letter whose message has moved on meanwhile
// (acknowledged late) goes without one: there is nothing left to put back.
const REQUEUE: &str = concat!(
    "WITH taken AS (
        DELETE FROM dead_letters WHERE id = ANY ($1) AND frame IS NULL
        RETURNING id, message_id, generation, kind, job_id, payload),
    again AS (
        INSERT INTO jobs (id, kind, payload, message_id, run_at, created_at)
        SELECT job_id, kind, payload, message_id, $2, $2 FROM taken WHERE job_id IS NOT NULL
        ON CONFLICT (id) DO NOTHING RETURNING id),
    done AS (
        UPDATE messages m SET
            status = 0, generation = m.generation + 1, retry_count = 0, failure_reason = NULL,
            sent_at = NULL, next_attempt_at = $2
        FROM taken t JOIN messages old ON old.id = t.message_id
        WHERE t.job_id IS NULL AND m.id = t.message_id AND m.status = 4
          AND m.generation = t.generation
        RETURNING m.id, m.generation, m.conversation_id, t.id AS letter, old.sent_at),
    ",
    raise_receipts!(),
    // The column is the new generation's from here on; the story keeps the step of the old one.
    ", before AS (
        INSERT INTO delivery_events (message_id, generation, at, kind)
        SELECT id, generation - 1, sent_at, 'sent' FROM done WHERE sent_at IS NOT NULL),
    told AS (
        INSERT INTO delivery_events (message_id, generation, at, kind, detail)
        SELECT id, generation, $2, 'requeued', $3 FROM done)
    SELECT letter AS id FROM done
    UNION ALL SELECT t.id FROM taken t JOIN again a ON a.id = t.job_id"
);

/// Begins the next generation of the messages of these dead letters; the sweeper finds them at once. A
/// frame that nobody can read stays: there is nothing to put back.
/// Returns the letters that this call put back: of any number of calls, one has each.
///
/// # Errors
/// Any failure of the database; then nothing has changed.
pub async fn requeue(
    client: &impl Statements,
    ids: &[DeadLetterId],
    by: &str,
    now: OffsetDateTime,
) -> Result<Vec<DeadLetterId>, Error> {
    change(client, REQUEUE, ids, by, now).await
}

const DELETE: &str = "
    WITH gone AS (
        DELETE FROM dead_letters WHERE id = ANY ($1) RETURNING id, message_id, generation, kind),
    told AS (
        INSERT INTO delivery_events (message_id, generation, at, kind, detail)
        SELECT message_id, generation, $2, 'dead_letter_deleted', $3 FROM gone
        WHERE message_id IS NOT NULL)
    SELECT id FROM gone";

/// Deletes dead letters; their messages stay failed. Returns those that this call deleted.
///
/// # Errors
/// Any failure of the database; then nothing has changed.
pub async fn delete(
    client: &impl Statements,
    ids: &[DeadLetterId],
    by: &str,
    now: OffsetDateTime,
) -> Result<Vec<DeadLetterId>, Error> {
    change(client, DELETE, ids, by, now).await
}

async fn change(
    client: &impl Statements,
    sql: &str,
    ids: &[DeadLetterId],
    by: &str,
    now: OffsetDateTime,
) -> Result<Vec<DeadLetterId>, Error> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let statement = client.prepare_cached(sql).await?;
    let rows = client.query(&statement, &[&ids, &now, &by]).await?;
    rows.iter().map(|row| Ok(DeadLetterId(row.try_get("id")?))).collect()
}

/// Keeps a frame that nobody can read; the same frame once.
///
/// # Errors
/// Any failure of the database.
pub async fn bury_frame(
    client: &Client,
    id: DeadLetterId,
    frame: &[u8],
    reason: &str,
    now: OffsetDateTime,
) -> Result<(), Error> {
    let statement = client
        .prepare_cached(
            "INSERT INTO dead_letters (id, generation, kind, class, reason, attempts, first_error_at,
                                       last_error_at, frame)
             VALUES ($1, 0, 'frame', 'system', left($2, 500), 1, $3, $3, $4) ON CONFLICT DO NOTHING",
        )
        .await?;
    client.execute(&statement, &[&id.0, &reason, &now, &frame]).await?;
    Ok(())
}

const EXPIRE: &str = "
    WITH gone AS (
        DELETE FROM dead_letters WHERE id IN (
            SELECT id FROM dead_letters WHERE last_error_at < $1
            ORDER BY last_error_at LIMIT $2 FOR UPDATE SKIP LOCKED)
        RETURNING message_id, generation),
    told AS (
        INSERT INTO delivery_events (message_id, generation, at, kind)
        SELECT message_id, generation, $3, 'dead_letter_expired' FROM gone
        WHERE message_id IS NOT NULL)
    SELECT count(*) AS count FROM gone";

/// Deletes dead letters that were given up before `before`, at most `limit`. Returns how many.
///
/// # Errors
/// Any failure of the database.
pub async fn expire(
    client: &Client,
    before: OffsetDateTime,
    limit: i64,
    now: OffsetDateTime,
) -> Result<i64, Error> {
    let statement = client.prepare_cached(EXPIRE).await?;
    Ok(client.query_one(&statement, &[&before, &limit, &now]).await?.try_get("count")?)
}
