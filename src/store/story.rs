//! The unusual part of a message's story; its usual part is columns of the message.

use time::OffsetDateTime;

use super::{Client, Error, Statements, statement::statements};
use crate::domain::{MessageId, verdict::Import};

statements! {
    IMPORT = "
        SELECT i.began_at, i.actor, i.file FROM messages m JOIN imports i ON i.id = m.import_id
        WHERE m.id = $1";
    EVENTS = "
        SELECT at, generation, kind, detail FROM delivery_events
        WHERE message_id = $1 ORDER BY id LIMIT 1000";
}

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
    let row = client.query_opt(&IMPORT, &[&id.0]).await?;
    let import = |row: tokio_postgres::Row| {
        Ok(Import {
            at: row.try_get("began_at")?,
            by: row.try_get("actor")?,
            file: row.try_get("file")?,
        })
    };
    row.map(import).transpose()
}

async fn events(client: &Client, id: MessageId) -> Result<Vec<Event>, Error> {
    client
        .query(&EVENTS, &[&id.0])
        .await?
        .iter()
        .map(|row| {
            Ok(Event {
                at: row.try_get("at")?,
                generation: row.try_get("generation")?,
                kind: row.try_get("kind")?,
                detail: row.try_get("detail")?,
            })
        })
        .collect()
}
