//! Retention: removes expired rows in small batches, by one process at a time.
//!
//! Only finished messages are removed: one that waits, is in flight or can be requeued stays, however old.
//! Conversations are removed from their beginning, so that the rest has no gap.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Client, Error, StatementGroup, Statements, Store,
    erasure::{self, beginning_sql, counted},
    statement::statements,
};
use crate::domain::ConversationId;

/// The advisory lock's key: "esh3ar" in ASCII, and one more letter.
const RETENTION_LOCK_ID: i64 = 0x0065_7368_3361_7272;

// A message with a dead letter or a job can be requeued or is being worked on.
macro_rules! finished {
    () => {
        "(m.status >= 2 OR m.deleted_at IS NOT NULL)
        AND NOT EXISTS (SELECT FROM dead_letters d WHERE d.message_id = m.id)
        AND NOT EXISTS (SELECT FROM jobs j WHERE j.message_id = m.id)"
    };
}

statements! {
    TRY_LOCK: once = "SELECT pg_try_advisory_lock($1) AS locked";
    LOOK = concat!(
        "SELECT m.id, m.created_at, m.conversation_id, ",
        finished!(),
        " AS finished FROM messages m
        WHERE m.created_at < $1 AND m.created_at >= $2 AND (m.created_at, m.id) > ($2, $3)
          AND m.status >= 2
        ORDER BY m.created_at, m.id LIMIT $4"
    );
    REMOVE_ONE_WAY = concat!(
        "WITH old AS (
            SELECT m.id FROM messages m WHERE m.id = ANY ($1) AND m.type = 0 AND ",
        finished!(),
        " FOR UPDATE SKIP LOCKED),
        gone AS (
            DELETE FROM messages m USING old WHERE m.id = old.id
            RETURNING coalesce(m.sender_user_id, m.recipient_user_id) AS business, m.created_at),
        ",
        counted!(),
        " SELECT count(*) AS count FROM gone"
    );
    REMOVE_DELETED = concat!(
        "WITH old AS (
            SELECT m.id FROM messages m WHERE m.deleted_at IS NOT NULL
              AND (m.deleted_at < $1 OR m.created_at < $2)
            ORDER BY m.deleted_at LIMIT $3 FOR UPDATE SKIP LOCKED),
        gone AS (
            DELETE FROM messages m USING old WHERE m.id = old.id
            RETURNING coalesce(m.sender_user_id, m.recipient_user_id) AS business, m.created_at),
        ",
        counted!(),
        " SELECT count(*) AS count FROM gone"
    );
    REMOVE_BEGINNING = beginning_sql!(concat!("m.created_at < $2 AND ", finished!()));
    REMOVE_EVENTS = "
        WITH looked AS (
            SELECT e.id, e.at, e.kind, e.message_id, e.generation FROM delivery_events e
            WHERE e.at < $1 AND (e.at, e.id) > ($2, $3) ORDER BY e.at, e.id LIMIT $4),
        gone AS (
            DELETE FROM delivery_events e USING looked l JOIN messages m ON m.id = l.message_id
            WHERE e.id = l.id AND m.status >= 2
              AND NOT (m.status = 4 AND m.generation = l.generation
                       AND l.kind IN ('dead_letter_deleted', 'dead_letter_expired'))
            RETURNING e.id)
        SELECT (SELECT count(*) FROM gone) AS removed, (SELECT count(*) FROM looked) AS looked,
               l.at, l.id
        FROM looked l ORDER BY l.at DESC, l.id DESC LIMIT 1";
    FORGET_OWNERLESS_TOKENS = "DELETE FROM tokens WHERE phone = '' AND revoked_at < $1";
}

/// The retention lock, held while this value lives, on a connection of its own: closing that releases the
/// lock.
pub struct RetentionLock {
    client: Client,
}

/// The position of a scan by age.
#[derive(Clone, Copy, Debug)]
pub struct ScanCursor<I> {
    /// The time of the last one.
    pub at: OffsetDateTime,
    pub id: I,
}

impl<I: Default> Default for ScanCursor<I> {
    fn default() -> Self {
        ScanCursor { at: OffsetDateTime::UNIX_EPOCH, id: I::default() }
    }
}

/// A page of expired messages.
#[derive(Debug)]
pub struct ExpiredPage {
    /// Finished one-way messages.
    pub one_way: Vec<Uuid>,
    /// Conversations of the others, each once.
    pub conversations: Vec<ConversationId>,
    /// Where to continue; `None` at the end.
    pub next: Option<ScanCursor<Uuid>>,
}

/// Acquires the retention lock; `None` while another process holds it.
pub async fn acquire(store: &Store) -> Result<Option<RetentionLock>, Error> {
    let client = store.client_for(StatementGroup::Upkeep).await?.alone();
    // No fsync needed: removals lost in a crash are repeated, and so are their ledger entries.
    client.batch_execute("SET synchronous_commit = off").await?;
    let row = client.query_one(&TRY_LOCK, &[&RETENTION_LOCK_ID]).await?;
    let ours: bool = row.try_get("locked")?;
    Ok(ours.then_some(RetentionLock { client }))
}

impl RetentionLock {
    /// The next page of finished messages accepted before a time, oldest first.
    pub async fn look(
        &self,
        before: OffsetDateTime,
        after: ScanCursor<Uuid>,
        limit: i64,
    ) -> Result<ExpiredPage, Error> {
        let rows = self.client.query(&LOOK, &[&before, &after.at, &after.id, &limit]).await?;
        let mut looked = ExpiredPage { one_way: Vec::new(), conversations: Vec::new(), next: None };
        for row in &rows {
            let id: Uuid = row.try_get("id")?;
            match row.try_get::<_, Option<Uuid>>("conversation_id")? {
                Some(conversation) => looked.conversations.push(ConversationId(conversation)),
                None if row.try_get("finished")? => looked.one_way.push(id),
                None => {}
            }
        }
        looked.conversations.sort();
        looked.conversations.dedup();
        if let Some(last) = rows.last().filter(|_| rows.len() as i64 == limit) {
            looked.next =
                Some(ScanCursor { at: last.try_get("created_at")?, id: last.try_get("id")? });
        }
        Ok(looked)
    }

    /// Removes the finished ones of these one-way messages, and counts them as erased. Returns how many.
    ///
    /// # Errors
    /// Any failure of the database; then none is removed.
    pub async fn remove_one_way(&self, ids: &[Uuid]) -> Result<i64, Error> {
        Ok(self.client.query_one(&REMOVE_ONE_WAY, &[&ids]).await?.try_get("count")?)
    }

    /// Removes messages deleted by an administrator before a time, or accepted before another, and counts
    /// them as erased. Returns how many. They were not shown any more, so that no gap appears.
    ///
    /// # Errors
    /// Any failure of the database; then none is removed.
    pub async fn remove_deleted(
        &self,
        deleted: OffsetDateTime,
        accepted: Option<OffsetDateTime>,
        limit: i64,
    ) -> Result<i64, Error> {
        Ok(self
            .client
            .query_one(&REMOVE_DELETED, &[&deleted, &accepted, &limit])
            .await?
            .try_get("count")?)
    }

    /// Removes the beginning of a conversation up to the first message that must stay, at most `limit`
    /// messages, and updates both unread counts. Returns how many.
    ///
    /// # Errors
    /// Any failure of the database; then none is removed.
    pub async fn remove_beginning(
        &mut self,
        id: ConversationId,
        before: OffsetDateTime,
        limit: i64,
    ) -> Result<i64, Error> {
        let transaction = self.client.transaction().await?;
        let gone = erasure::beginning(&transaction, &REMOVE_BEGINNING, id, before, limit).await?;
        transaction.commit().await?;
        Ok(gone.messages)
    }

    /// Removes delivery events of finished messages older than a time, at most as many as it scans. That a
    /// dead letter was deleted or expired is kept as long as the message: otherwise the failure would look
    /// unexplained. Returns how many, and where to continue.
    pub async fn remove_events(
        &self,
        before: OffsetDateTime,
        after: ScanCursor<i64>,
        limit: i64,
    ) -> Result<(i64, Option<ScanCursor<i64>>), Error> {
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&before, &after.at, &after.id, &limit];
        let Some(row) = self.client.query_opt(&REMOVE_EVENTS, &values).await? else {
            return Ok((0, None));
        };
        let (removed, looked): (i64, i64) = (row.try_get("removed")?, row.try_get("looked")?);
        let next = ScanCursor { at: row.try_get("at")?, id: row.try_get("id")? };
        Ok((removed, (looked == limit).then_some(next)))
    }

    /// Deletes the ownerless tokens of erased phones, long after every gateway closed their connections.
    pub async fn forget_ownerless_tokens(&self, before: OffsetDateTime) -> Result<u64, Error> {
        self.client.execute(&FORGET_OWNERLESS_TOKENS, &[&before]).await
    }
}
