//! Dead letters: listed, requeued or deleted by administrators.
//!
//! A requeue takes effect exactly once: the caller that deletes the row starts the next generation; all
//! others find no row.

use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    Client, Error, Statement, Statements,
    list_page::{ListPage, ScanPosition, max_scanned_rows},
    message_status::raise_receipts,
    statement::statements,
    where_clause::{Conditions, Parameter, parameters},
};
use crate::domain::{DeadLetterClass, DeadLetterId, MessageId, Phone};

macro_rules! columns {
    () => {
        "d.id, d.message_id, d.generation, d.kind, d.class, d.reason, d.attempts, d.first_error_at, \
         d.last_error_at, coalesce(u.name, m.sender_phone, '') AS sender, m.recipient_phone, m.subject"
    };
}

/// The tables joined to a dead letter `d`.
macro_rules! joined {
    () => {
        "LEFT JOIN messages m ON m.id = d.message_id \
         LEFT JOIN business_users u ON u.id = m.sender_user_id"
    };
}

macro_rules! tables {
    () => {
        concat!("dead_letters d ", joined!())
    };
}

statements! {
    TOLD_AT: once = concat!(
        "SELECT ",
        columns!(),
        " FROM ",
        tables!(),
        " WHERE d.told_at = $1 ORDER BY d.id DESC LIMIT $2"
    );
    // Deleting the dead letter starts the generation, or recreates the job. If its message has moved on (late
    // acknowledgement), the dead letter is deleted and nothing is requeued.
    REQUEUE = concat!(
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
        // The column belongs to the new generation now; the timeline keeps the step of the old one.
        ", before AS (
            INSERT INTO delivery_events (message_id, generation, at, kind)
            SELECT id, generation - 1, sent_at, 'sent' FROM done WHERE sent_at IS NOT NULL),
        told AS (
            INSERT INTO delivery_events (message_id, generation, at, kind, detail)
            SELECT id, generation, $2, 'requeued', $3 FROM done)
        SELECT letter AS id FROM done
        UNION ALL SELECT t.id FROM taken t JOIN again a ON a.id = t.job_id"
    );
    DELETE = "
        WITH gone AS (
            DELETE FROM dead_letters WHERE id = ANY ($1) RETURNING id, message_id, generation, kind),
        told AS (
            INSERT INTO delivery_events (message_id, generation, at, kind, detail)
            SELECT message_id, generation, $2, 'dead_letter_deleted', $3 FROM gone
            WHERE message_id IS NOT NULL)
        SELECT id FROM gone";
    BURY_FRAME = "
        INSERT INTO dead_letters (id, generation, kind, class, reason, attempts, first_error_at,
                                  last_error_at, frame)
        VALUES ($1, 0, 'frame', 'system', left($2, 500), 1, $3, $3, $4) ON CONFLICT DO NOTHING";
    EXPIRE = "
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
}

/// A dead letter with facts about its message.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    pub id: DeadLetterId,
    /// The message; `None` for failed jobs such as a mail.
    pub message: Option<MessageId>,
    /// The generation of the message that failed.
    pub generation: i32,
    /// `delivery`, `push`, or the kind of job.
    pub kind: String,
    /// Where the cause lies.
    pub class: DeadLetterClass,
    pub reason: String,
    /// Attempts made.
    pub attempts: i32,
    /// When the first attempt failed.
    pub first_error_at: OffsetDateTime,
    /// When the last attempt failed.
    pub last_error_at: OffsetDateTime,
    /// The sender's name; empty without a message.
    pub from: String,
    pub to: Option<Phone>,
    pub subject: Option<String>,
}

impl DeadLetter {
    /// The phone numbers in it.
    pub fn phones(&self) -> impl Iterator<Item = Phone> {
        let from = self.from.starts_with('+').then(|| Phone::from_stored(&self.from));
        self.to.clone().into_iter().chain(from)
    }

    /// A copy with masked phone numbers.
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

/// A filter for dead letters; all conditions that are set must hold.
#[derive(Clone, Debug, Default)]
pub struct DeadLetterFilter {
    pub ids: Vec<DeadLetterId>,
    /// Only with this text in the reason, ignoring case.
    pub reason: Option<String>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only of this class.
    pub class: Option<DeadLetterClass>,
    /// Only failed at this time or later.
    pub since: Option<OffsetDateTime>,
    /// Only to this phone.
    pub recipient: Option<Phone>,
    /// Only older than this one.
    pub before: Option<DeadLetterId>,
}

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

impl DeadLetterFilter {
    /// The conditions that an index serves.
    fn found_by(&self, wanted: &mut Conditions) -> String {
        if !self.ids.is_empty() {
            let ids: Vec<Uuid> = self.ids.iter().map(|id| id.0).collect();
            wanted.add("d.id = ANY (?)", Box::new(ids));
        }
        if let Some(before) = self.before {
            wanted.add("d.id < ?", Box::new(before.0));
        }
        wanted.take()
    }

    /// The conditions checked on scanned rows.
    fn conditions(&self, wanted: &mut Conditions) -> String {
        if let Some(reason) = &self.reason {
            wanted.add("strpos(lower(d.reason), lower(?)) > 0", Box::new(reason.clone()));
        }
        if let Some(kind) = &self.kind {
            wanted.add("d.kind = ?", Box::new(kind.clone()));
        }
        if let Some(class) = self.class {
            wanted.add("d.class = ?", Box::new(class.name()));
        }
        if let Some(since) = self.since {
            wanted.add("d.last_error_at >= ?", Box::new(since));
        }
        if let Some(recipient) = &self.recipient {
            wanted.add("m.recipient_phone = ?", Box::new(recipient.as_str().to_owned()));
        }
        wanted.take()
    }

    /// The list statement and its values.
    fn listed(&self, limit: usize) -> (Statement, Vec<Parameter>) {
        let mut wanted = Conditions::default();
        let found_by = self.found_by(&mut wanted);
        let conditions = self.conditions(&mut wanted);
        wanted.values.push(Box::new(i64::try_from(limit).unwrap_or(i64::MAX)));
        let text = format!(
            "SELECT {} FROM (SELECT * FROM dead_letters d WHERE {found_by} ORDER BY d.id DESC LIMIT {}) AS d \
             {} WHERE {conditions} ORDER BY d.id DESC LIMIT ${}",
            columns!(),
            max_scanned_rows!(),
            joined!(),
            wanted.values.len()
        );
        (Statement::built(concat!(module_path!(), "::listed"), text).once(), wanted.values)
    }

    /// The statement that finds the last row that [`DeadLetterFilter::listed`] scans, and its values.
    fn last_looked_at(&self) -> (Statement, Vec<Parameter>) {
        let mut wanted = Conditions::default();
        let text = format!(
            "SELECT d.id FROM dead_letters d WHERE {} ORDER BY d.id DESC LIMIT 1 \
             OFFSET {}::bigint - 1",
            self.found_by(&mut wanted),
            max_scanned_rows!()
        );
        (Statement::built(concat!(module_path!(), "::last_looked_at"), text).once(), wanted.values)
    }

    /// The count statement and its values.
    fn counted(&self) -> (Statement, Vec<Parameter>) {
        let mut wanted = Conditions::default();
        let found_by = self.found_by(&mut wanted);
        let conditions = self.conditions(&mut wanted);
        let text = format!(
            concat!("SELECT count(*) AS count FROM ", tables!(), " WHERE {} AND {}"),
            found_by, conditions
        );
        (Statement::built(concat!(module_path!(), "::counted"), text).once(), wanted.values)
    }
}

/// All variants of the statements that depend on a filter.
pub(super) fn built() -> Vec<Statement> {
    let forms = (0..1 << 7).map(|given: u8| DeadLetterFilter {
        ids: if given & 1 == 0 { Vec::new() } else { vec![DeadLetterId(Uuid::nil())] },
        reason: (given & 2 != 0).then(String::new),
        kind: (given & 4 != 0).then(String::new),
        class: (given & 8 != 0).then_some(DeadLetterClass::System),
        since: (given & 16 != 0).then_some(OffsetDateTime::UNIX_EPOCH),
        recipient: (given & 32 != 0).then(|| Phone::from_stored("")),
        before: (given & 64 != 0).then_some(DeadLetterId(Uuid::nil())),
    });
    forms
        .flat_map(|filter| [filter.listed(1).0, filter.last_looked_at().0, filter.counted().0])
        .collect()
}

/// Dead letters by filter, newest first.
pub async fn list(
    client: &Client,
    filter: &DeadLetterFilter,
    limit: usize,
) -> Result<ListPage<DeadLetter>, Error> {
    let (statement, values) = filter.listed(limit);
    let rows = client.query(&statement, &parameters(&values)).await?;
    let found = rows.iter().map(letter).collect::<Result<Vec<_>, _>>()?;
    if found.len() >= limit {
        return Ok(ListPage { items: found, cut: None });
    }
    let (statement, values) = filter.last_looked_at();
    let row = client.query_opt(&statement, &parameters(&values)).await?;
    let cut = row
        .map(|row| Ok::<_, Error>(ScanPosition { at: None, id: row.try_get("id")? }))
        .transpose()?;
    Ok(ListPage::new(found, cut, |letter, cut| letter.id.0 < cut.id))
}

/// The same, over as many pages as needed.
pub async fn list_through(
    client: &Client,
    mut filter: DeadLetterFilter,
    limit: usize,
) -> Result<Vec<DeadLetter>, Error> {
    let mut found = Vec::new();
    loop {
        let ListPage { items, cut } = list(client, &filter, limit - found.len()).await?;
        found.extend(items);
        let Some(cut) = cut else { return Ok(found) };
        filter.before = Some(DeadLetterId(cut.id));
    }
}

/// The newest dead letters reported to the administrators at a time.
pub(super) async fn told_at(
    client: &impl Statements,
    at: OffsetDateTime,
    limit: usize,
) -> Result<Vec<DeadLetter>, Error> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = client.query(&TOLD_AT, &[&at, &limit]).await?;
    rows.iter().map(letter).collect()
}

/// Counts dead letters by filter.
pub async fn count(client: &Client, filter: &DeadLetterFilter) -> Result<u64, Error> {
    let (statement, values) = filter.counted();
    let row = client.query_one(&statement, &parameters(&values)).await?;
    Ok(u64::try_from(row.try_get::<_, i64>("count")?).unwrap_or_default())
}

/// Starts the next generation of the messages of these dead letters; the sweeper finds them at once. A frame
/// that cannot be decoded stays: it cannot be requeued.
///
/// # Errors
/// Any failure of the database; then nothing has changed.
pub async fn requeue(
    client: &impl Statements,
    ids: &[DeadLetterId],
    by: &str,
    now: OffsetDateTime,
) -> Result<Vec<DeadLetterId>, Error> {
    change(client, &REQUEUE, ids, by, now).await
}

/// Deletes dead letters; their messages stay failed. Returns the ones this call deleted.
///
/// # Errors
/// Any failure of the database; then nothing has changed.
pub async fn delete(
    client: &impl Statements,
    ids: &[DeadLetterId],
    by: &str,
    now: OffsetDateTime,
) -> Result<Vec<DeadLetterId>, Error> {
    change(client, &DELETE, ids, by, now).await
}

async fn change(
    client: &impl Statements,
    statement: &Statement,
    ids: &[DeadLetterId],
    by: &str,
    now: OffsetDateTime,
) -> Result<Vec<DeadLetterId>, Error> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = client.query(statement, &[&ids, &now, &by]).await?;
    rows.iter().map(|row| Ok(DeadLetterId(row.try_get("id")?))).collect()
}

/// Stores a frame that cannot be decoded, once.
pub async fn add_frame(
    client: &Client,
    id: DeadLetterId,
    frame: &[u8],
    reason: &str,
    now: OffsetDateTime,
) -> Result<(), Error> {
    client.execute(&BURY_FRAME, &[&id.0, &reason, &now, &frame]).await?;
    Ok(())
}

/// Deletes at most `limit` dead letters that failed before `before`. Returns how many.
pub async fn expire(
    client: &Client,
    before: OffsetDateTime,
    limit: i64,
    now: OffsetDateTime,
) -> Result<i64, Error> {
    Ok(client.query_one(&EXPIRE, &[&before, &limit, &now]).await?.try_get("count")?)
}
