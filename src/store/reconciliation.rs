//! Reconciliation: whether every accepted message is accounted for. Compares stored messages with the ledger,
//! in which a trigger counts accepted messages by business user and day, and finds messages whose own records
//! contradict each other.

use time::{Date, OffsetDateTime};
use uuid::Uuid;

use super::{Client, Error, Statements, statement::statements};
use crate::domain::{MessageId, UserId};

// Failed without a reason: no dead letter, and no event that one was deleted or expired. Messages that failed
// in a previous system never had one.
macro_rules! failed_alone {
    () => {
        "m.status = 4 AND m.deleted_at IS NULL
        AND NOT EXISTS (SELECT FROM dead_letters d WHERE d.message_id = m.id
                        AND d.generation = m.generation AND d.kind = 'delivery')
        AND NOT EXISTS (SELECT FROM delivery_events e WHERE e.message_id = m.id
                        AND e.generation = m.generation
                        AND e.kind IN ('dead_letter_deleted', 'dead_letter_expired'))
        AND coalesce(m.failure_reason, '') NOT LIKE 'failed in the previous system%'"
    };
}

macro_rules! letter_alone {
    () => {
        "d.kind = 'delivery' AND NOT EXISTS (
            SELECT FROM messages m WHERE m.id = d.message_id AND m.status = 4
            AND m.generation = d.generation)"
    };
}

statements! {
    // One statement, hence one snapshot: it balances also under load.
    DAYS: once = "
        WITH counted AS (
            SELECT business_user_id AS business, day, sum(accepted)::int8 AS accepted,
                   sum(erased)::int8 AS erased
            FROM ledger_days WHERE day >= $1 GROUP BY 1, 2),
        found AS (
            SELECT coalesce(sender_user_id, recipient_user_id) AS business,
                   (created_at AT TIME ZONE 'UTC')::date AS day,
                   count(*) FILTER (WHERE deleted_at IS NULL AND status = 0) AS pending,
                   count(*) FILTER (WHERE deleted_at IS NULL AND status = 1) AS sent,
                   count(*) FILTER (WHERE deleted_at IS NULL AND status = 2) AS delivered,
                   count(*) FILTER (WHERE deleted_at IS NULL AND status = 3) AS read,
                   count(*) FILTER (WHERE deleted_at IS NULL AND status = 4) AS failed,
                   count(*) FILTER (WHERE deleted_at IS NOT NULL) AS deleted
            FROM (
                -- Each by its own index.
                SELECT sender_user_id, recipient_user_id, created_at, status, deleted_at
                FROM messages WHERE created_at >= $2 AND status >= 2
                UNION ALL
                SELECT sender_user_id, recipient_user_id, created_at, status, deleted_at
                FROM messages WHERE created_at >= $2 AND status < 2) AS m
            GROUP BY 1, 2)
        SELECT business, coalesce(u.name, '') AS name, day, coalesce(c.accepted, 0) AS accepted,
               coalesce(f.pending, 0) AS pending, coalesce(f.sent, 0) AS sent,
               coalesce(f.delivered, 0) AS delivered, coalesce(f.read, 0) AS read,
               coalesce(f.failed, 0) AS failed,
               coalesce(c.erased, 0) + coalesce(f.deleted, 0) AS erased
        FROM counted c FULL JOIN found f USING (business, day)
        LEFT JOIN business_users u ON u.id = business
        ORDER BY day DESC, 2";
    OVERDUE = "
        SELECT id FROM messages WHERE next_attempt_at < $1 ORDER BY next_attempt_at LIMIT $2";
    FAILED_WITHOUT_LETTER = concat!(
        "SELECT m.id FROM messages m WHERE ",
        failed_alone!(),
        " LIMIT $1"
    );
    LETTER_OF_NO_FAILURE = concat!(
        "SELECT d.message_id AS id FROM dead_letters d WHERE ",
        letter_alone!(),
        " LIMIT $1"
    );
    RESTORE_LETTERS = concat!(
        "INSERT INTO dead_letters (id, message_id, generation, kind, class, reason, attempts,
                                   first_error_at, last_error_at)
        SELECT gen_random_uuid(), m.id, m.generation, 'delivery', 'system',
               coalesce(m.failure_reason, 'no reason was kept'), m.retry_count + 1,
               coalesce(m.sent_at, m.created_at), $1
        FROM messages m WHERE ",
        failed_alone!(),
        " LIMIT $2 ON CONFLICT ON CONSTRAINT dead_letters_once DO NOTHING"
    );
    CLEAR_LETTERS = concat!(
        "DELETE FROM dead_letters WHERE id IN (SELECT d.id FROM dead_letters d WHERE ",
        letter_alone!(),
        " LIMIT $1)"
    );
}

/// The totals of a business user and a day (UTC).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DayTotals {
    pub business: UserId,
    /// Name of the business user; empty if it no longer exists.
    pub name: String,
    pub day: Date,
    /// From the ledger.
    pub accepted: i64,
    /// Stored messages by status.
    pub pending: i64,
    pub sent: i64,
    pub delivered: i64,
    pub read: i64,
    pub failed: i64,
    pub erased: i64,
}

impl DayTotals {
    /// Missing messages; negative if there are more than were counted.
    pub fn missing(&self) -> i64 {
        self.accepted
            - (self.pending + self.sent + self.delivered + self.read + self.failed + self.erased)
    }
}

/// Totals by business user and day, since a day.
pub async fn days(client: &mut Client, since: Date) -> Result<Vec<DayTotals>, Error> {
    client.without_timeout();
    let transaction = client.transaction().await?;
    // The only sums that read no index; they may take long.
    transaction
        .batch_execute(
            "SET LOCAL enable_seqscan = on; SET LOCAL enable_bitmapscan = on; \
             SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on; \
             SET LOCAL statement_timeout = 300000; SET TRANSACTION READ ONLY",
        )
        .await?;
    let days = days_in(&transaction, since).await?;
    transaction.commit().await?;
    Ok(days)
}

/// The same in the caller's transaction.
pub(super) async fn days_in(
    client: &impl Statements,
    since: Date,
) -> Result<Vec<DayTotals>, Error> {
    let midnight = since.midnight().assume_utc();
    let rows = client.query(&DAYS, &[&since, &midnight]).await?;
    rows.iter()
        .map(|row| {
            Ok(DayTotals {
                business: UserId(row.try_get("business")?),
                name: row.try_get("name")?,
                day: row.try_get("day")?,
                accepted: row.try_get("accepted")?,
                pending: row.try_get("pending")?,
                sent: row.try_get("sent")?,
                delivered: row.try_get("delivered")?,
                read: row.try_get("read")?,
                failed: row.try_get("failed")?,
                erased: row.try_get("erased")?,
            })
        })
        .collect()
}

/// A message whose records contradict each other.
#[derive(Clone, Debug)]
pub struct Discrepancy {
    pub message: MessageId,
    /// A stable identifier, snake_case.
    pub kind: &'static str,
}

/// Messages whose records contradict each other, at most `limit` of each kind: overdue since before
/// `overdue_before`, failed without a dead letter, or with a dead letter although not failed.
pub async fn discrepancies(
    client: &Client,
    overdue_before: OffsetDateTime,
    limit: i64,
) -> Result<Vec<Discrepancy>, Error> {
    let mut found = Vec::new();
    let mut add = |kind: &'static str, rows: Vec<tokio_postgres::Row>| -> Result<(), Error> {
        for row in rows {
            found.push(Discrepancy { message: MessageId(row.try_get::<_, Uuid>("id")?), kind });
        }
        Ok(())
    };
    add("overdue", client.query(&OVERDUE, &[&overdue_before, &limit]).await?)?;
    add("failed_without_dead_letter", client.query(&FAILED_WITHOUT_LETTER, &[&limit]).await?)?;
    add("dead_letter_of_no_failure", client.query(&LETTER_OF_NO_FAILURE, &[&limit]).await?)?;
    Ok(found)
}

/// Adds missing dead letters to failed messages, and deletes those of messages that did not fail. Returns the
/// number of changes.
pub async fn repair(client: &Client, now: OffsetDateTime, limit: i64) -> Result<u64, Error> {
    let restored = client.execute(&RESTORE_LETTERS, &[&now, &limit]).await?;
    Ok(restored + client.execute(&CLEAR_LETTERS, &[&limit]).await?)
}
