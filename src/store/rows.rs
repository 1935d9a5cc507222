//! Maps rows of `messages` to [`Message`]s and back.

use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use super::Error;
use crate::domain::{
    ContentType, ConversationId, Message, MessageId, Party, Phone, Priority, Status, UserId,
    message::{ConversationPosition, MAX_PAGE_BYTES},
};

/// The columns of a message, by the names in [`Positions`]. `m` is the message, `u` its sender if that is a
/// business user.
macro_rules! message_columns {
    () => {
        "m.id, m.conversation_id, m.seq, m.sender_user_id, m.sender_phone, \
         coalesce(u.name, m.sender_phone, '') AS sender_name, m.recipient_phone, \
         m.recipient_user_id, m.subject, m.content, m.content_type, m.priority, m.status, \
         m.generation, m.retry_count, m.failure_reason, m.created_at, m.sent_at, m.delivered_at, \
         m.read_at, m.flags"
    };
}

/// Where the columns come from.
macro_rules! message_from {
    () => {
        "messages m LEFT JOIN business_users u ON u.id = m.sender_user_id"
    };
}

/// Selects messages; the rest of the statement is given in literals.
macro_rules! select_messages {
    ($($rest:tt)+) => {
        concat!(
            "SELECT ",
            $crate::store::rows::message_columns!(),
            " FROM ",
            $crate::store::rows::message_from!(),
            " ",
            $($rest)+
        )
    };
}

/// The first messages of a query, up to the byte limit of a page. The database knows the length of a text
/// without reading it.
macro_rules! first_of_page {
    ($query:expr, by: $order:literal) => {
        concat!(
            "SELECT * FROM (SELECT q.*, sum(octet_length(q.content)) OVER (ORDER BY ",
            $order,
            " ROWS UNBOUNDED PRECEDING) - octet_length(q.content) AS bytes_before FROM (",
            $query,
            ") AS q) AS page WHERE coalesce(bytes_before, 0) < 262144 ORDER BY ",
            $order
        )
    };
}
pub(super) use {first_of_page, message_columns, message_from, select_messages};

/// [`first_of_page`] for a query whose text depends on a filter.
pub(super) fn cut_at_page(query: &str, order: &str) -> String {
    format!(
        "SELECT * FROM (SELECT q.*, sum(octet_length(q.content)) OVER (ORDER BY {order} \
         ROWS UNBOUNDED PRECEDING) - octet_length(q.content) AS bytes_before FROM ({query}) AS q) AS page \
         WHERE coalesce(bytes_before, 0) < {MAX_PAGE_BYTES} ORDER BY {order}"
    )
}

/// Whether the byte limit cut the rows off.
pub(super) fn is_cut(rows: &[Row]) -> Result<bool, Error> {
    let mut bytes = 0;
    for row in rows {
        bytes += row.try_get::<_, Option<&str>>("content")?.map_or(0, str::len);
    }
    Ok(bytes >= MAX_PAGE_BYTES)
}

macro_rules! positions {
    ($($name:ident),+ $(,)?) => {
        /// Column indexes of a message, looked up once for all rows.
        struct Positions {
            $($name: usize),+
        }

        impl Positions {
            fn of(row: &Row) -> Result<Positions, Error> {
                Ok(Positions { $($name: position(row, stringify!($name))?),+ })
            }
        }
    };
}

positions!(
    id,
    conversation_id,
    seq,
    sender_user_id,
    sender_phone,
    sender_name,
    recipient_phone,
    recipient_user_id,
    subject,
    content,
    content_type,
    priority,
    status,
    generation,
    retry_count,
    failure_reason,
    created_at,
    sent_at,
    delivered_at,
    read_at,
    flags,
);

fn position(row: &Row, name: &str) -> Result<usize, Error> {
    let found = row.columns().iter().position(|column| column.name() == name);
    found.ok_or_else(|| Error::Other(format!("there is no column {name}")))
}

impl Positions {
    fn message(&self, row: &Row) -> Result<Message, Error> {
        let number = |index: usize| row.try_get::<_, i16>(index);
        let party = |user: usize, phone: usize, what: &str| {
            party(row.try_get(user)?, row.try_get(phone)?).ok_or_else(|| corrupt(what))
        };
        let conversation: Option<Uuid> = row.try_get(self.conversation_id)?;
        let seq: Option<i64> = row.try_get(self.seq)?;
        Ok(Message {
            id: MessageId(row.try_get(self.id)?),
            position: conversation
                .zip(seq)
                .map(|(id, seq)| ConversationPosition { conversation: ConversationId(id), seq }),
            sender: party(self.sender_user_id, self.sender_phone, "sender")?,
            from: row.try_get::<_, &str>(self.sender_name)?.into(),
            recipient: party(self.recipient_user_id, self.recipient_phone, "recipient")?,
            subject: row.try_get(self.subject)?,
            content: row.try_get(self.content)?,
            content_type: ContentType::from_number(number(self.content_type)?)
                .ok_or_else(|| corrupt("content type"))?,
            priority: Priority::from_number(number(self.priority)?)
                .ok_or_else(|| corrupt("priority"))?,
            status: Status::from_number(number(self.status)?).ok_or_else(|| corrupt("status"))?,
            generation: row.try_get(self.generation)?,
            retry_count: u16::try_from(number(self.retry_count)?)
                .map_err(|_| corrupt("retry count"))?,
            failure_reason: row.try_get(self.failure_reason)?,
            created_at: row.try_get(self.created_at)?,
            sent_at: row.try_get(self.sent_at)?,
            delivered_at: row.try_get(self.delivered_at)?,
            read_at: row.try_get(self.read_at)?,
            flags: row.try_get::<_, Option<Vec<String>>>(self.flags)?.unwrap_or_default(),
        })
    }
}

fn corrupt(what: &str) -> Error {
    Error::Corrupt(format!("{what} of a message"))
}

pub(super) fn message(row: &Row) -> Result<Message, Error> {
    Positions::of(row)?.message(row)
}

pub(super) fn messages(rows: &[Row]) -> Result<Vec<Message>, Error> {
    let Some(first) = rows.first() else { return Ok(Vec::new()) };
    let positions = Positions::of(first)?;
    rows.iter().map(|row| positions.message(row)).collect()
}

/// The rows that can be decoded, and the ids of those that cannot: one bad row must not block the others.
pub(super) fn readable(rows: &[Row]) -> Result<(Vec<Message>, Vec<MessageId>), Error> {
    let (mut found, mut unreadable) = (Vec::with_capacity(rows.len()), Vec::new());
    let Some(first) = rows.first() else { return Ok((found, unreadable)) };
    let positions = Positions::of(first)?;
    for row in rows {
        match positions.message(row) {
            Ok(message) => found.push(message),
            Err(error @ Error::Corrupt(_)) => {
                let id = MessageId(row.try_get(positions.id)?);
                tracing::error!(%error, message_id = %id, "cannot decode a stored message");
                unreadable.push(id);
            }
            Err(error) => return Err(error),
        }
    }
    Ok((found, unreadable))
}

/// The sender of a message whose columns are named as in the table.
pub(super) fn sender(row: &Row) -> Result<Party, Error> {
    party(row.try_get("sender_user_id")?, row.try_get("sender_phone")?)
        .ok_or_else(|| corrupt("sender"))
}

/// The recipient of a message whose columns are named as in the table.
pub(super) fn recipient(row: &Row) -> Result<Party, Error> {
    party(row.try_get("recipient_user_id")?, row.try_get("recipient_phone")?)
        .ok_or_else(|| corrupt("recipient"))
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

/// The flags of messages as a column: one text per message, a rule per line. `None` if no message has any.
pub(super) fn flags<'a>(
    messages: impl Iterator<Item = &'a Message>,
) -> Option<Vec<Option<String>>> {
    let flags: Vec<Option<String>> = messages
        .map(|message| (!message.flags.is_empty()).then(|| message.flags.join("\n")))
        .collect();
    flags.iter().any(Option::is_some).then_some(flags)
}

/// Below every id made here at this time or later: the first 48 bits are milliseconds.
pub(super) fn first_id_of(time: OffsetDateTime) -> Uuid {
    MessageId::first_of(time).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_page_are_the_same() {
        let one = first_of_page!("SELECT 1", by: "seq DESC");
        assert_eq!(one, cut_at_page("SELECT 1", "seq DESC"));
    }
}
