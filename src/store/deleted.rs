//! Messages that an administrator deletes: nobody is shown or sent them any more, the books count them as
//! erased, and retention removes their rows.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{Client, Error, Statements, Transaction, conversations, rows};
use crate::domain::{
    Conversation, ConversationId, MessageId, Party, Phone, Status, message::Place,
};

/// A message that was deleted.
#[derive(Clone, Debug)]
pub struct Deleted {
    /// Which.
    pub id: MessageId,
    /// Where it stood in a conversation.
    pub place: Option<Place>,
    /// Who sent it.
    pub sender: Party,
    /// Who was to get it.
    pub recipient: Party,
    /// When it was deleted, by the database's clock: all gateways look by that.
    pub at: OffsetDateTime,
}

impl Deleted {
    /// The phones that it is about.
    pub fn phones(&self) -> impl Iterator<Item = &Phone> {
        [&self.sender, &self.recipient].into_iter().filter_map(|party| match party {
            Party::Mobile(phone) => Some(phone),
            Party::Business(_) => None,
        })
    }
}

/// The columns that [`deleted`] reads.
const COLUMNS: &str = "m.id, m.conversation_id, m.seq, m.sender_user_id, m.sender_phone, \
                       m.recipient_user_id, m.recipient_phone, m.deleted_at";

fn deleted(row: &tokio_postgres::Row) -> Result<Deleted, Error> {
    let place = match (row.try_get::<_, Option<Uuid>>(1)?, row.try_get::<_, Option<i64>>(2)?) {
        (Some(conversation), Some(seq)) => {
            Some(Place { conversation: ConversationId(conversation), seq })
        }
        _ => None,
    };
    let party = |user, phone, what: &str| {
        rows::party(user, phone).ok_or_else(|| Error::Corrupt(format!("{what} of a message")))
    };
    Ok(Deleted {
        id: MessageId(row.try_get(0)?),
        place,
        sender: party(row.try_get(3)?, row.try_get(4)?, "sender")?,
        recipient: party(row.try_get(5)?, row.try_get(6)?, "recipient")?,
        at: row.try_get(7)?,
    })
}

/// Deletes a message: it waits for nobody any more, and neither a dead letter nor work can bring it back. In
/// a conversation it is taken from what its recipient has not read. `told` is the step of its story.
/// `None` when there is none, or it was deleted before.
///
/// # Errors
/// Any failure of the database; then nothing has changed.
pub async fn delete(
    transaction: &Transaction<'_>,
    id: MessageId,
    told: &str,
) -> Result<Option<Deleted>, Error> {
    let statement = transaction
        .prepare_cached("SELECT conversation_id FROM messages WHERE id = $1 AND deleted_at IS NULL")
        .await?;
    let Some(row) = transaction.query_opt(&statement, &[&id.0]).await? else { return Ok(None) };
    // The conversation's lock comes first, as for everybody who changes its messages.
    let mut conversation = match row.try_get::<_, Option<Uuid>>(0)? {
        Some(conversation) => {
            conversations::lock(transaction, &[conversation]).await?.pop().map(|(found, _)| found)
        }
        None => None,
    };
    let sql = format!(
        "UPDATE messages m SET deleted_at = date_trunc('microseconds', clock_timestamp()), \
         next_attempt_at = NULL WHERE m.id = $1 AND m.deleted_at IS NULL \
         RETURNING {COLUMNS}, m.status, m.generation"
    );
    let statement = transaction.prepare_cached(&sql).await?;
    let Some(row) = transaction.query_opt(&statement, &[&id.0]).await? else { return Ok(None) };
    let found = deleted(&row)?;
    let (status, generation): (i16, i32) = (row.try_get(8)?, row.try_get(9)?);
    if let Some(conversation) = &mut conversation {
        if status != Status::Read as i16 {
            take_from_unread(conversation, &found.recipient);
        }
        // Also without a change of counts: the row's version tells caches that they are behind.
        let statement = transaction
            .prepare_cached(
                "UPDATE conversations SET unread_business = $2, unread_mobile = $3 WHERE id = $1",
            )
            .await?;
        let (business, mobile) = (conversation.unread_business, conversation.unread_mobile);
        transaction.execute(&statement, &[&conversation.id.0, &business, &mobile]).await?;
    }
    for sql in
        ["DELETE FROM dead_letters WHERE message_id = $1", "DELETE FROM jobs WHERE message_id = $1"]
    {
        let statement = transaction.prepare_cached(sql).await?;
        transaction.execute(&statement, &[&id.0]).await?;
    }
    let statement = transaction
        .prepare_cached(
            "INSERT INTO delivery_events (message_id, generation, at, kind, detail) \
             VALUES ($1, $2, $3, 'deleted', $4)",
        )
        .await?;
    transaction.execute(&statement, &[&id.0, &generation, &found.at, &told]).await?;
    Ok(Some(found))
}

fn take_from_unread(conversation: &mut Conversation, recipient: &Party) {
    let unread = match recipient {
        Party::Business(_) => &mut conversation.unread_business,
        Party::Mobile(_) => &mut conversation.unread_mobile,
    };
    *unread = unread.saturating_sub(1).max(0);
}

/// What was deleted within the last seconds.
///
/// # Errors
/// Any failure of the database.
pub async fn lately(client: &Client, seconds: f64) -> Result<Vec<Deleted>, Error> {
    // By the start of this statement, which is one value for all rows: so the index is looked up.
    let sql = format!(
        "SELECT {COLUMNS} FROM messages m WHERE m.deleted_at IS NOT NULL \
         AND m.deleted_at > now() - make_interval(secs => $1) ORDER BY m.deleted_at"
    );
    let statement = client.prepare_cached(&sql).await?;
    client.query(&statement, &[&seconds]).await?.iter().map(deleted).collect()
}
