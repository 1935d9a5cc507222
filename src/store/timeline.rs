//! The unusual part of a message's story; its usual part is columns of the message.

use time::OffsetDateTime;
use tokio_postgres::Row;

use super::{Client, Error, Statements, statement::statements};
use crate::domain::{MessageId, verdict::MessageImport};

statements! {
    IMPORT = "
        SELECT i.began_at, i.actor, i.file FROM messages m JOIN imports i ON i.id = m.import_id
        WHERE m.id = $1";
    // The newest, which tell where it is now. What was counted is as new as its last time.
    EVENTS = "
        SELECT * FROM (
            SELECT id, at, generation, kind, detail, count, coalesce(last_at, at) AS last_at
            FROM delivery_events WHERE message_id = $1 ORDER BY coalesce(last_at, at) DESC, id DESC LIMIT 1000)
        newest ORDER BY id";
}

/// What a message's own columns do not tell.
#[derive(Clone, Debug)]
pub struct MessageTimeline {
    /// What unusual happened to it, oldest first; of more than 1,000 events the newest.
    pub events: Vec<TimelineEvent>,
    /// What brought it, when it was not accepted here.
    pub import: Option<MessageImport>,
}

/// Something unusual that happened to a message.
#[derive(Clone, Debug)]
pub struct TimelineEvent {
    /// When; of one that was counted, the first time.
    pub at: OffsetDateTime,
    pub last_at: OffsetDateTime,
    pub count: u32,
    pub generation: i32,
    /// `sent` (in an earlier generation), `retry`, `given_up`, `connection_lost`, `late_acknowledgement`, `requeued`,
    /// `dead_letter_deleted`, `dead_letter_expired` or `deleted`.
    pub kind: String,
    /// More about it, as it was the last time; may be empty.
    pub detail: String,
}

impl TimelineEvent {
    /// Reads the columns `at`, `last_at`, `count`, `generation`, `kind` and `detail`.
    pub(super) fn of_row(row: &Row) -> Result<TimelineEvent, Error> {
        Ok(TimelineEvent {
            at: row.try_get("at")?,
            last_at: row.try_get("last_at")?,
            count: u32::try_from(row.try_get::<_, i32>("count")?).unwrap_or(1),
            generation: row.try_get("generation")?,
            kind: row.try_get("kind")?,
            detail: row.try_get("detail")?,
        })
    }
}

/// What happened to one message.
pub async fn of(client: &Client, id: MessageId) -> Result<MessageTimeline, Error> {
    Ok(MessageTimeline { events: events(client, id).await?, import: import(client, id).await? })
}

async fn import(client: &Client, id: MessageId) -> Result<Option<MessageImport>, Error> {
    let row = client.query_opt(&IMPORT, &[&id.0]).await?;
    let import = |row: Row| {
        Ok(MessageImport {
            at: row.try_get("began_at")?,
            by: row.try_get("actor")?,
            file: row.try_get("file")?,
        })
    };
    row.map(import).transpose()
}

async fn events(client: &Client, id: MessageId) -> Result<Vec<TimelineEvent>, Error> {
    client.query(&EVENTS, &[&id.0]).await?.iter().map(TimelineEvent::of_row).collect()
}
