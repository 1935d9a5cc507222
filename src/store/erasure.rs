//! Removal of messages: counted in the ledger, and conversations stay consistent.

use time::OffsetDateTime;

use super::{Error, Statement, Statements, Transaction, statement::statements};
use crate::domain::ConversationId;

/// The CTE that counts the messages of `gone` (`business`, `created_at`) as erased in the ledger, in the
/// transaction that removes them: the reconciliation balances at every moment.
macro_rules! counted {
    () => {
        "counted AS (
            INSERT INTO ledger_days AS l (business_user_id, day, slot, accepted, erased)
            SELECT business, (created_at AT TIME ZONE 'UTC')::date, pg_backend_pid() % 16, 0, count(*)
            FROM gone GROUP BY 1, 2 ORDER BY 1, 2
            ON CONFLICT (business_user_id, day, slot)
            DO UPDATE SET erased = l.erased + excluded.erased)"
    };
}
pub(super) use counted;

/// Counts of the dependent rows that are removed with the messages.
macro_rules! with_them {
    () => {
        "(SELECT count(*) FROM delivery_events e WHERE e.message_id IN (SELECT id FROM old))
            AS events,
        (SELECT count(*) FROM dead_letters d WHERE d.message_id IN (SELECT id FROM old))
            AS dead_letters,
        (SELECT count(*) FROM jobs j WHERE j.message_id IN (SELECT id FROM old)) AS jobs,
        (SELECT count(*) FROM media_attachments a WHERE a.message_id IN (SELECT id FROM old))
            AS attachments"
    };
}
pub(super) use with_them;

/// A statement for [`beginning`]. `$old` is its condition: `m` is the message, `$2` the time.
macro_rules! beginning_sql {
    ($old:expr) => {
        concat!(
            "WITH beginning AS (
                SELECT m.id, m.seq, ",
            $old,
            " AS old FROM messages m
                WHERE m.conversation_id = $1 ORDER BY m.seq LIMIT $3),
            old AS (
                SELECT b.id FROM beginning b WHERE b.seq <
                    (SELECT coalesce(min(seq), 9223372036854775807) FROM beginning WHERE NOT old)),
            gone AS (
                DELETE FROM messages m USING old WHERE m.id = old.id
                RETURNING coalesce(m.sender_user_id, m.recipient_user_id) AS business, m.created_at,
                          m.status <> 3 AND m.deleted_at IS NULL
                              AND m.recipient_user_id IS NOT NULL AS by_business,
                          m.status <> 3 AND m.deleted_at IS NULL
                              AND m.recipient_phone IS NOT NULL AS by_mobile),
            ",
            $crate::store::erasure::counted!(),
            " SELECT count(*) AS messages, ",
            $crate::store::erasure::with_them!(),
            ", count(*) FILTER (WHERE by_business) AS unread_business,
                count(*) FILTER (WHERE by_mobile) AS unread_mobile FROM gone"
        )
    };
}
pub(super) use beginning_sql;

statements! {
    LOCK_CONVERSATION = "SELECT id FROM conversations WHERE id = $1 FOR UPDATE";
    // Even if the counts do not change: updating the row raises its version, which invalidates caches.
    TAKE_FROM_UNREAD = "
        UPDATE conversations SET unread_business = unread_business - $2::int8::int4,
               unread_mobile = unread_mobile - $3::int8::int4 WHERE id = $1";
}

/// Counts of removed rows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ErasedRows {
    pub(super) messages: i64,
    pub(super) events: i64,
    pub(super) dead_letters: i64,
    pub(super) jobs: i64,
    pub(super) attachments: i64,
}

impl ErasedRows {
    /// Reads the counts of `gone` and of [`with_them`].
    pub(super) fn read(row: &tokio_postgres::Row) -> Result<ErasedRows, Error> {
        Ok(ErasedRows {
            messages: row.try_get("messages")?,
            events: row.try_get("events")?,
            dead_letters: row.try_get("dead_letters")?,
            jobs: row.try_get("jobs")?,
            attachments: row.try_get("attachments")?,
        })
    }
}

/// Removes the beginning of a conversation up to the first message for which the condition of `remove` (see
/// [`beginning_sql`]) does not hold, at most `limit` messages, and updates both unread counts.
pub(super) async fn beginning(
    transaction: &Transaction<'_>,
    remove: &Statement,
    id: ConversationId,
    before: OffsetDateTime,
    limit: i64,
) -> Result<ErasedRows, Error> {
    // Lock first, so that nothing is sent or read in it meanwhile.
    transaction.query_opt(&LOCK_CONVERSATION, &[&id.0]).await?;
    let row = transaction.query_one(remove, &[&id.0, &before, &limit]).await?;
    let gone = ErasedRows::read(&row)?;
    if gone.messages > 0 {
        let (business, mobile): (i64, i64) =
            (row.try_get("unread_business")?, row.try_get("unread_mobile")?);
        transaction.execute(&TAKE_FROM_UNREAD, &[&id.0, &business, &mobile]).await?;
    }
    Ok(gone)
}
