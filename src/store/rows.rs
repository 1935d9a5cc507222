//! Rows of `messages` as [`Message`]s and back.

use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use super::Error;
use crate::domain::{
    ContentType, ConversationId, Message, MessageId, Party, Phone, Priority, Status, UserId,
    message::Place,
};

/// The columns of a whole message, in the order that [`message`] reads. `m` is the message, `u` its
/// sender if that is a business user.
pub(super) const MESSAGE: &str = "m.id, m.conversation_id, m.seq, m.sender_user_id, m.sender_phone, \
     coalesce(u.name, m.sender_phone, ''), m.recipient_phone, m.recipient_user_id, m.subject, \
     m.content, m.content_type, m.priority, m.status, m.generation, m.retry_count, \
     m.failure_reason, m.created_at, m.sent_at, m.delivered_at, m.read_at";

/// Where the columns come from.
pub(super) const FROM: &str = "messages m LEFT JOIN business_users u ON u.id = m.sender_user_id";

pub(super) fn message(row: &Row) -> Result<Message, Error> {
    let number = |index: usize| row.try_get::<_, i16>(index);
    let corrupt = |what: &str| Error::Corrupt(format!("{what} of a message"));
    let conversation: Option<Uuid> = row.try_get(1)?;
    let seq: Option<i64> = row.try_get(2)?;
    Ok(Message {
        id: MessageId(row.try_get(0)?),
        place: conversation
            .zip(seq)
            .map(|(id, seq)| Place { conversation: ConversationId(id), seq }),
        sender: party(row.try_get(3)?, row.try_get(4)?).ok_or_else(|| corrupt("sender"))?,
        from: row.try_get::<_, &str>(5)?.into(),
        recipient: party(row.try_get(7)?, row.try_get(6)?).ok_or_else(|| corrupt("recipient"))?,
        subject: row.try_get(8)?,
        content: row.try_get(9)?,
        content_type: ContentType::from_number(number(10)?)
            .ok_or_else(|| corrupt("content type"))?,
        priority: Priority::from_number(number(11)?).ok_or_else(|| corrupt("priority"))?,
        status: Status::from_number(number(12)?).ok_or_else(|| corrupt("status"))?,
        generation: row.try_get(13)?,
        retry_count: u16::try_from(number(14)?).map_err(|_| corrupt("retry count"))?,
        failure_reason: row.try_get(15)?,
        created_at: row.try_get(16)?,
        sent_at: row.try_get(17)?,
        delivered_at: row.try_get(18)?,
        read_at: row.try_get(19)?,
    })
}

pub(super) fn messages(rows: &[Row]) -> Result<Vec<Message>, Error> {
    rows.iter().map(message).collect()
}

/// Those rows that read as messages, and the ids of those that do not: one of them must not stand in
/// the way of the others.
pub(super) fn readable(rows: &[Row]) -> Result<(Vec<Message>, Vec<MessageId>), Error> {
    let (mut found, mut unreadable) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in rows {
        match message(row) {
            Ok(message) => found.push(message),
            Err(error @ Error::Corrupt(_)) => {
                let id = MessageId(row.try_get(0)?);
                tracing::error!(%error, message_id = %id, "a stored message cannot be read");
                unreadable.push(id);
            }
            Err(error) => return Err(error),
        }
    }
    Ok((found, unreadable))
}

pub(super) fn party(user: Option<Uuid>, phone: Option<&str>) -> Option<Party> {
    match (user, phone) {
        (Some(id), None) => Some(Party::Business(UserId(id))),
        (None, Some(phone)) => Some(Party::Mobile(Phone::from_stored(phone))),
        _ => None,
    }
}

/// The two columns that name a party: business user, phone.
pub(super) fn columns(party: &Party) -> (Option<Uuid>, Option<&str>) {
    match party {
        Party::Business(id) => (Some(id.0), None),
        Party::Mobile(phone) => (None, Some(phone.as_str())),
    }
}

/// Below every id of ours that was made at this time or later: their first 48 bits are milliseconds.
pub(super) fn first_id_of(time: OffsetDateTime) -> Uuid {
    MessageId::first_of(time).0
}
