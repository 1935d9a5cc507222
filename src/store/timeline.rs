//! The exceptional steps of a message's timeline; the regular ones are columns of the message.

use time::OffsetDateTime;
use tokio_postgres::Row;

use super::{Client, Error, Statements, statement::statements};
use crate::domain::{MessageId, verdict::MessageImport};

statements! {
    IMPORT = "
        SELECT i.began_at, i.actor, i.file FROM messages m JOIN imports i ON i.id = m.import_id
        WHERE m.id = $1";
    // The newest ones, which show the current state. A repeated event counts as new as its last occurrence.
    EVENTS = "
        SELECT * FROM (
            SELECT id, at, generation, kind, detail, count, coalesce(last_at, at) AS last_at
            FROM delivery_events WHERE message_id = $1 ORDER BY coalesce(last_at, at) DESC, id DESC LIMIT 1000)
        newest ORDER BY id";
}

/// The part of the timeline that is not in the message's columns.
#[derive(Clone, Debug)]
pub struct MessageTimeline {
    /// Exceptional events, oldest first; of more than 1,000 the newest.
    pub events: Vec<TimelineEvent>,
    /// The import, if the message was imported.
    pub import: Option<MessageImport>,
}

/// An exceptional event, such as a retry or a lost connection.
#[derive(Clone, Debug)]
pub struct TimelineEvent {
    /// When it happened; for a repeated event, the first time.
    pub at: OffsetDateTime,
    pub last_at: OffsetDateTime,
    pub count: u32,
    pub generation: i32,
    /// `sent` (in an earlier generation), `retry`, `given_up`, `connection_lost`, `late_acknowledgement`, `requeued`,
    /// `dead_letter_deleted`, `dead_letter_expired` or `deleted`.
    pub kind: String,
    /// Details of the last time; may be empty.
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

/// The timeline of a message.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::{domain::timeline::EventKind, store::statement};

    /// A kind that is not in [`EventKind`] would be shown to nobody but administrators, without a decision.
    #[test]
    fn the_kinds_that_are_stored_are_those_of_the_domain() {
        let is_kind = |text: &&str| text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        let mut stored = BTreeSet::new();
        for statement in statement::all() {
            for insert in statement.text().split("INTO delivery_events").skip(1) {
                let values = insert.split("FROM").next().unwrap_or_default();
                let kinds: Vec<&str> =
                    values.split('\'').skip(1).step_by(2).filter(is_kind).collect();
                assert_eq!(kinds.len(), 1, "{}: {values}", statement.name());
                stored.extend(kinds.into_iter().map(str::to_owned));
            }
        }
        let known = EventKind::ALL.map(|kind| kind.name().to_owned());
        assert_eq!(stored, BTreeSet::from(known));
    }
}
