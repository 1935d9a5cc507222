//! Messages deleted by administrators: never shown or sent again, counted as erased in the ledger; retention
//! removes their rows.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{Client, Error, Statements, Transaction, conversations, rows, statement::statements};
use crate::domain::{
    Conversation, ConversationId, MessageId, Party, Phone, Status, message::ConversationPosition,
};

/// A message that was deleted.
#[derive(Clone, Debug)]
pub struct DeletedMessage {
    pub id: MessageId,
    /// Position in its conversation, if it has one.
    pub position: Option<ConversationPosition>,
    pub sender: Party,
    /// Who was to get it.
    pub recipient: Party,
    /// When it was deleted, by the database's clock, which all gateways compare with.
    pub at: OffsetDateTime,
}

impl DeletedMessage {
    /// The phones at its ends.
    pub fn phones(&self) -> impl Iterator<Item = &Phone> {
        [&self.sender, &self.recipient].into_iter().filter_map(|party| match party {
            Party::Mobile(phone) => Some(phone),
            Party::Business(_) => None,
        })
    }
}

/// The columns that [`deleted`] reads.
macro_rules! deleted_columns {
    () => {
        "m.id, m.conversation_id, m.seq, m.sender_user_id, m.sender_phone, m.recipient_user_id, \
         m.recipient_phone, m.deleted_at"
    };
}

statements! {
    CONVERSATION_OF = "SELECT conversation_id FROM messages WHERE id = $1 AND deleted_at IS NULL";
    DELETE = concat!(
        "UPDATE messages m SET deleted_at = date_trunc('microseconds', clock_timestamp()), \
         next_attempt_at = NULL WHERE m.id = $1 AND m.deleted_at IS NULL RETURNING ",
        deleted_columns!(),
        ", m.status, m.generation"
    );
    SET_UNREAD = "UPDATE conversations SET unread_business = $2, unread_mobile = $3 WHERE id = $1";
    DELETE_DEAD_LETTERS = "DELETE FROM dead_letters WHERE message_id = $1";
    DELETE_JOBS = "DELETE FROM jobs WHERE message_id = $1";
    RECORD_EVENT = "
        INSERT INTO delivery_events (message_id, generation, at, kind, detail)
        VALUES ($1, $2, $3, 'deleted', $4)";
    // `now()` is one value for all rows, so that the index is used.
    RECENT = concat!(
        "SELECT ",
        deleted_columns!(),
        " FROM messages m WHERE m.deleted_at IS NOT NULL \
         AND m.deleted_at > now() - make_interval(secs => $1) ORDER BY m.deleted_at"
    );
}

fn deleted(row: &tokio_postgres::Row) -> Result<DeletedMessage, Error> {
    let conversation: Option<Uuid> = row.try_get("conversation_id")?;
    let seq: Option<i64> = row.try_get("seq")?;
    Ok(DeletedMessage {
        id: MessageId(row.try_get("id")?),
        position: conversation
            .zip(seq)
            .map(|(id, seq)| ConversationPosition { conversation: ConversationId(id), seq }),
        sender: rows::sender(row)?,
        recipient: rows::recipient(row)?,
        at: row.try_get("deleted_at")?,
    })
}

/// Deletes a message, its dead letter and its jobs; in a conversation, also from the recipient's unread
/// count. `told` is the detail of its timeline step. `None` when there is no such message, or it was deleted
/// before.
///
/// # Errors
/// Any failure of the database; then nothing has changed.
pub async fn delete(
    transaction: &Transaction<'_>,
    id: MessageId,
    told: &str,
) -> Result<Option<DeletedMessage>, Error> {
    let Some(row) = transaction.query_opt(&CONVERSATION_OF, &[&id.0]).await? else {
        return Ok(None);
    };
    // Lock the conversation first, as every change to its messages does.
    let mut conversation = match row.try_get::<_, Option<Uuid>>("conversation_id")? {
        Some(conversation) => {
            conversations::lock(transaction, &[conversation]).await?.pop().map(|(found, _)| found)
        }
        None => None,
    };
    let Some(row) = transaction.query_opt(&DELETE, &[&id.0]).await? else { return Ok(None) };
    let found = deleted(&row)?;
    let (status, generation): (i16, i32) = (row.try_get("status")?, row.try_get("generation")?);
    if let Some(conversation) = &mut conversation {
        if status != Status::Read as i16 {
            take_from_unread(conversation, &found.recipient);
        }
        // Even if the counts do not change: updating the row raises its version, which invalidates caches.
        let (business, mobile) = (conversation.unread_business, conversation.unread_mobile);
        transaction.execute(&SET_UNREAD, &[&conversation.id.0, &business, &mobile]).await?;
    }
    for statement in [&DELETE_DEAD_LETTERS, &DELETE_JOBS] {
        transaction.execute(statement, &[&id.0]).await?;
    }
    transaction.execute(&RECORD_EVENT, &[&id.0, &generation, &found.at, &told]).await?;
    Ok(Some(found))
}

fn take_from_unread(conversation: &mut Conversation, recipient: &Party) {
    let unread = match recipient {
        Party::Business(_) => &mut conversation.unread_business,
        Party::Mobile(_) => &mut conversation.unread_mobile,
    };
    *unread = unread.saturating_sub(1).max(0);
}

/// Messages deleted within the last seconds.
pub async fn recent(client: &Client, seconds: f64) -> Result<Vec<DeletedMessage>, Error> {
    client.query(&RECENT, &[&seconds]).await?.iter().map(deleted).collect()
}
