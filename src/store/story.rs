//! The unusual part of a message's story; its usual part is columns of the message.

use time::OffsetDateTime;

use super::{Client, Error};
use crate::domain::MessageId;

/// Something unusual that happened to a message.
#[derive(Clone, Debug)]
pub struct Event {
    /// When.
    pub at: OffsetDateTime,
    /// In which generation.
    pub generation: i32,
    /// `retry`, `given_up`, `connection_lost`, `late_acknowledgement`, `requeued`,
    /// `dead_letter_deleted` or `dead_letter_expired`.
    pub kind: String,
    /// More about it; may be empty.
    pub detail: String,
}

/// What happened to one message, oldest first; at most 1,000 events.
///
/// # Errors
/// Any failure of the database.
pub async fn events(client: &Client, id: MessageId) -> Result<Vec<Event>, Error> {
    let statement = client
        .prepare_cached(
            "SELECT at, generation, kind, detail FROM delivery_events \
             WHERE message_id = $1 ORDER BY id LIMIT 1000",
        )
        .await?;
    client
        .query(&statement, &[&id.0])
        .await?
        .iter()
        .map(|row| {
            Ok(Event {
                at: row.try_get(0)?,
                generation: row.try_get(1)?,
                kind: row.try_get(2)?,
                detail: row.try_get(3)?,
            })
        })
        .collect()
}
