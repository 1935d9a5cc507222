//! Statistics for the dashboard: backlog and age by lane, dead letters, slow recipients, the database.
//!
//! Polled every two seconds on tables of any size: each statement scans at most [`MAX_COUNTED`] rows, by a
//! partial index.

use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Client, Error, Statements, rows, statement::statements};
use crate::domain::{DeadLetterClass, MessageId, Party, Priority};

/// Rows that a statement counts at most. A result of this size means "at least".
pub const MAX_COUNTED: i64 = 20_000;

/// Deliveries among which the slowest recipients are searched: grouping takes longer than counting.
const SLOWEST_SAMPLE_SIZE: i64 = 5_000;

statements! {
    LANES_WAITING = "
        SELECT priority, count(*) AS count, min(created_at) AS oldest_at
        FROM (SELECT priority, created_at FROM messages WHERE status < 2 AND deleted_at IS NULL
              ORDER BY created_at, id LIMIT $1) AS seen
        GROUP BY 1";
    IN_HAND = "
        SELECT priority, count(*) AS count, min(created_at) AS oldest_at
        FROM (SELECT priority, created_at FROM messages WHERE next_attempt_at IS NOT NULL
              ORDER BY next_attempt_at LIMIT $1) AS seen
        GROUP BY 1";
    // By the index of each business user's list: the table may be large, and mostly inactive.
    ACTIVE_CONVERSATIONS = "
        SELECT count(*) AS count FROM (
            SELECT FROM business_users b, LATERAL (
                SELECT FROM conversations c
                WHERE c.business_user_id = b.id AND c.last_message_at > $1 AND c.status = 0
                  AND c.last_seq > 0
            ) AS of_one LIMIT $2) AS seen";
    DEAD = "
        SELECT class, count(*) AS count, max(last_error_at) AS newest_at
        FROM (SELECT class, last_error_at FROM dead_letters
              ORDER BY last_error_at DESC LIMIT $1) AS seen
        GROUP BY 1 ORDER BY 1";
    SLOWEST = "
        WITH seen AS MATERIALIZED (
           SELECT id, recipient_phone, recipient_user_id, created_at, retry_count
           FROM messages WHERE next_attempt_at IS NOT NULL
           ORDER BY next_attempt_at LIMIT $1),
        slow AS MATERIALIZED (
           SELECT recipient_user_id, recipient_phone, count(*) AS in_hand,
                  min(created_at) AS oldest_at, max(retry_count) AS retries
           FROM seen GROUP BY 1, 2
           HAVING max(retry_count) > 0 OR min(created_at) < now() - interval '1 second'
           ORDER BY retries DESC, oldest_at LIMIT $2),
        -- Of those few only: sorting all of them for their ids took most of the time.
        oldest AS MATERIALIZED (
           SELECT id, recipient_user_id, recipient_phone, created_at FROM seen
           WHERE created_at = ANY (ARRAY (SELECT oldest_at FROM slow)))
        SELECT s.recipient_user_id, s.recipient_phone, coalesce(u.name, '') AS name,
               s.in_hand, o.id, s.oldest_at, s.retries,
               CASE WHEN s.recipient_phone IS NOT NULL
                    THEN r.phone IS NOT NULL AND r.disconnected_at IS NULL END AS connected
        FROM slow s CROSS JOIN LATERAL (
               SELECT o.id FROM oldest o WHERE o.created_at = s.oldest_at
               AND o.recipient_phone IS NOT DISTINCT FROM s.recipient_phone
               AND o.recipient_user_id IS NOT DISTINCT FROM s.recipient_user_id
               ORDER BY o.id LIMIT 1) o
             LEFT JOIN recipients r ON r.phone = s.recipient_phone
             LEFT JOIN business_users u ON u.id = s.recipient_user_id
        ORDER BY s.retries DESC, s.oldest_at";
    DATABASE = "
        SELECT split_part(current_setting('server_version'), ' ', 1) AS version,
               pg_database_size(current_database()) AS size,
               (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database())
                   AS connections,
               current_setting('max_connections')::bigint AS most_connections";
}

/// Unacknowledged messages of a lane.
#[derive(Clone, Debug)]
pub struct LaneBacklog {
    pub lane: Priority,
    pub count: u64,
    /// When the oldest of them was accepted.
    pub oldest_at: OffsetDateTime,
}

fn lanes(rows: &[Row]) -> Result<Vec<LaneBacklog>, Error> {
    rows.iter()
        .map(|row| {
            Ok(LaneBacklog {
                lane: Priority::from_number(row.try_get("priority")?)
                    .ok_or_else(|| Error::Corrupt("priority of messages".to_owned()))?,
                count: counted(row, "count")?,
                oldest_at: row.try_get("oldest_at")?,
            })
        })
        .collect()
}

fn counted(row: &Row, column: &str) -> Result<u64, Error> {
    Ok(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or_default())
}

/// Unacknowledged messages by lane; empty lanes are omitted. Above [`MAX_COUNTED`], the oldest are counted.
pub async fn waiting(client: &Client) -> Result<Vec<LaneBacklog>, Error> {
    lanes(&client.query(&LANES_WAITING, &[&MAX_COUNTED]).await?)
}

/// Deliveries in flight or due, by lane. Above [`MAX_COUNTED`], those due first are counted.
pub async fn in_flight(client: &Client) -> Result<Vec<LaneBacklog>, Error> {
    lanes(&client.query(&IN_HAND, &[&MAX_COUNTED]).await?)
}

/// Number of active conversations with a message after a time, up to `most`. A conversation without messages
/// counts from its opening.
pub async fn active_conversations(
    client: &Client,
    since: OffsetDateTime,
    most: i64,
) -> Result<u64, Error> {
    counted(&client.query_one(&ACTIVE_CONVERSATIONS, &[&since, &most]).await?, "count")
}

/// Dead letters of one class.
#[derive(Clone, Debug)]
pub struct DeadLetterCount {
    pub class: DeadLetterClass,
    pub count: u64,
    /// When the newest of them failed.
    pub newest_at: OffsetDateTime,
}

/// The newest [`MAX_COUNTED`] dead letters by class; empty classes are omitted.
pub async fn dead_letters(client: &Client) -> Result<Vec<DeadLetterCount>, Error> {
    let found = client.query(&DEAD, &[&MAX_COUNTED]).await?;
    found
        .iter()
        .map(|row| {
            Ok(DeadLetterCount {
                class: DeadLetterClass::parse(row.try_get("class")?)
                    .ok_or_else(|| Error::Corrupt("class of a dead letter".to_owned()))?,
                count: counted(row, "count")?,
                newest_at: row.try_get("newest_at")?,
            })
        })
        .collect()
}

/// A recipient with unacknowledged deliveries.
#[derive(Clone, Debug)]
pub struct SlowRecipient {
    pub recipient: Party,
    /// The business user's name; empty for a phone.
    pub name: String,
    /// Deliveries in flight.
    pub in_flight: u64,
    /// The oldest of them.
    pub oldest: MessageId,
    /// When that was accepted.
    pub oldest_at: OffsetDateTime,
    /// Highest retry count.
    pub retries: u16,
    /// Whether the phone is connected; `None` for business users.
    pub connected: Option<bool>,
}

/// The recipients with the most retries, then those with the oldest unacknowledged delivery (at least a
/// second old), among the [`SLOWEST_SAMPLE_SIZE`] deliveries due first.
pub async fn slowest(client: &Client, limit: i64) -> Result<Vec<SlowRecipient>, Error> {
    let found = client.query(&SLOWEST, &[&SLOWEST_SAMPLE_SIZE, &limit]).await?;
    found
        .iter()
        .map(|row| {
            let user: Option<Uuid> = row.try_get("recipient_user_id")?;
            Ok(SlowRecipient {
                recipient: rows::party(user, row.try_get("recipient_phone")?)
                    .ok_or_else(|| Error::Corrupt("recipient of a message".to_owned()))?,
                name: row.try_get("name")?,
                in_flight: counted(row, "in_hand")?,
                oldest: MessageId(row.try_get("id")?),
                oldest_at: row.try_get("oldest_at")?,
                retries: u16::try_from(row.try_get::<_, i16>("retries")?).unwrap_or_default(),
                connected: row.try_get("connected")?,
            })
        })
        .collect()
}

#[derive(Clone, Debug, Default)]
pub struct DatabaseInfo {
    /// Version, such as `15.18`.
    pub version: String,
    /// Size on disk, in bytes.
    pub size: u64,
    /// Open connections, of all programs.
    pub connections: u64,
    pub most_connections: u64,
}

pub async fn database(client: &Client) -> Result<DatabaseInfo, Error> {
    let row = client.query_one(&DATABASE, &[]).await?;
    Ok(DatabaseInfo {
        version: row.try_get("version")?,
        size: counted(&row, "size")?,
        connections: counted(&row, "connections")?,
        most_connections: counted(&row, "most_connections")?,
    })
}
