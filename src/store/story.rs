//! The unusual part of a message's story; its usual part is columns of the message.

use time::OffsetDateTime;

use super::{Client, Error, Statements};
use crate::domain::{MessageId, verdict::Import};

/// What a message's own columns do not tell.
#[derive(Clone, Debug)]
pub struct Story {
    /// What unusual happened to it, oldest first; at most 1,000 events.
    pub events: Vec<Event>,
    /// What brought it, when it was not accepted here.
    pub import: Option<Import>,
}

/// Something unusual that happened to a message.
#[derive(Clone, Debug)]
pub struct Event {
    /// When.
    pub at: OffsetDateTime,
    /// In which generation.
    pub generation: i32,
    /// `sent` (in an earlier generation), `retry`, `given_up`, `connection_lost`, `late_acknowledgement`, `requeued`,
    /// `dead_letter_deleted`, `dead_letter_expired` or `deleted`.
    pub kind: String,
    /// More about it; may be empty.
    pub detail: String,
}

/// What happened to one message.
///
/// # Errors
/// Any failure of the database.
pub async fn of(client: &Client, id: MessageId) -> Result<Story, Error> {
    Ok(Story { events: events(client, id).await?, import: import(client, id).await? })
}

async fn import(client: &Client, id: MessageId) -> Result<Option<Import>, Error> {
    let statement = client
        .prepare_cached(
            "SELECT i.began_at, i.actor, i.file FROM messages m JOIN imports i ON i.id = m.import_id \
             WHERE m.id = $1",
        )
        .await?;
    let row = client.query_opt(&statement, &[&id.0]).await?;
    let import = |row: tokio_postgres::Row| {
        Ok(Import { at: row.try_get(0)?, by: row.try_get(1)?, file: row.try_get(2)? })
    };
    row.map(import).transpose()
}

async fn events(client: &Client, id: MessageId) -> Result<Vec<Event>, Error> {
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
