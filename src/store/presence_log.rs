//! The presence log, from which explanations are derived: connections of phones, process runs and outages.
//!
//! Written late and in batches; no decision depends on it.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{Client, Error, Statements, rows, statement::statements};
use crate::domain::{
    MessageId, Party, Phone,
    verdict::{Outage, ProcessRun, RecipientFacts},
};

statements! {
    RECORD_PRESENCE = "
        INSERT INTO recipients AS r (phone, connected_at, disconnected_at, disconnect_reason, run)
        SELECT a.*, $5::uuid
        FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::text[])
            AS a(phone, connected_at, disconnected_at, disconnect_reason)
        -- Nothing is noted of who was erased meanwhile.
        JOIN mobile_users m ON m.phone = a.phone
        ORDER BY 1
        ON CONFLICT (phone) DO UPDATE SET
            -- Who leaves was here since the first of its connections.
            connected_at = CASE
                WHEN excluded.disconnected_at IS NOT NULL AND r.disconnected_at IS NULL
                THEN r.connected_at ELSE excluded.connected_at END,
            disconnected_at = excluded.disconnected_at,
            disconnect_reason = excluded.disconnect_reason,
            run = excluded.run
        WHERE r.connected_at <= excluded.connected_at";
    RECORD_HEARTBEAT = "
        INSERT INTO runs (id, started_at, alive_at, delivers) VALUES ($1, $2, $3, $4)
        ON CONFLICT (id) DO UPDATE SET alive_at = excluded.alive_at";
    RECORD_SHUTDOWN = "UPDATE runs SET alive_at = $2, stopped_at = $2 WHERE id = $1";
    RECORD_OUTAGE = "
        INSERT INTO outages (id, part, reason, began_at, ended_at)
        VALUES ($1, $2, left($3, 500), $4, $5)";
    DELETE_RUNS = "DELETE FROM runs WHERE alive_at < $1";
    DELETE_OUTAGES = "DELETE FROM outages WHERE ended_at < $1";
    RECIPIENT = "
        SELECT EXISTS (SELECT FROM tokens WHERE phone = $1 OR user_id = $3) AS had_token,
               EXISTS (SELECT FROM tokens WHERE (phone = $1 OR user_id = $3) AND revoked_at IS NULL
                       AND (expires_at IS NULL OR expires_at > $2)) AS has_valid_token,
               seen.connected_at, seen.disconnected_at, seen.disconnect_reason,
               run.started_at, run.alive_at, run.stopped_at, run.delivers
        FROM (VALUES (1)) one
        LEFT JOIN recipients seen ON seen.phone = $1
        LEFT JOIN runs run ON run.id = seen.run";
    RUNS = "
        SELECT started_at, alive_at, stopped_at, delivers FROM runs
        WHERE alive_at >= $1 OR id = (SELECT id FROM runs WHERE alive_at < $1
                                      ORDER BY alive_at DESC LIMIT 1)
        ORDER BY started_at LIMIT 1000";
    OUTAGES = "
        SELECT part, reason, began_at, ended_at FROM outages WHERE ended_at >= $1
        ORDER BY ended_at LIMIT 1000";
    NEXT_ATTEMPT = "
        SELECT m.next_attempt_at, (SELECT d.id FROM dead_letters d WHERE d.message_id = m.id
                                   AND d.kind = 'delivery' ORDER BY d.id DESC LIMIT 1) AS dead_letter
        FROM messages m WHERE m.id = $1";
}

/// A phone that connected or disconnected.
#[derive(Clone, Debug)]
pub struct PresenceChange {
    pub phone: Phone,
    /// When its first connection opened; for a phone that disconnected, when its last connection became the
    /// only one.
    pub connected_at: OffsetDateTime,
    /// When and why its last connection closed, if it did.
    pub left: Option<(OffsetDateTime, &'static str)>,
}

/// Records connects and disconnects of phones at this run's process.
pub async fn record_presence(
    client: &Client,
    run: Uuid,
    seen: &[PresenceChange],
) -> Result<(), Error> {
    let phones: Vec<&str> = seen.iter().map(|seen| seen.phone.as_str()).collect();
    let connected: Vec<OffsetDateTime> = seen.iter().map(|seen| seen.connected_at).collect();
    let left: Vec<Option<OffsetDateTime>> =
        seen.iter().map(|seen| seen.left.map(|(at, _)| at)).collect();
    let reasons: Vec<Option<&str>> =
        seen.iter().map(|seen| seen.left.map(|(_, reason)| reason)).collect();
    client.execute(&RECORD_PRESENCE, &[&phones, &connected, &left, &reasons, &run]).await?;
    Ok(())
}

/// Records a heartbeat; the first one starts the run. `delivers` is false for a pure gateway.
pub async fn record_heartbeat(
    client: &Client,
    run: Uuid,
    started_at: OffsetDateTime,
    now: OffsetDateTime,
    delivers: bool,
) -> Result<(), Error> {
    client.execute(&RECORD_HEARTBEAT, &[&run, &started_at, &now, &delivers]).await?;
    Ok(())
}

/// Records the clean shutdown of a run.
pub async fn record_shutdown(client: &Client, run: Uuid, now: OffsetDateTime) -> Result<(), Error> {
    client.execute(&RECORD_SHUTDOWN, &[&run, &now]).await?;
    Ok(())
}

/// Records an outage of a dependency.
pub async fn record_outage(client: &Client, outage: &Outage) -> Result<(), Error> {
    let (id, text) = (Uuid::now_v7(), &outage.reason);
    client
        .execute(&RECORD_OUTAGE, &[&id, &outage.part, text, &outage.began_at, &outage.ended_at])
        .await?;
    Ok(())
}

/// Deletes runs and outages that ended before `before`.
pub async fn delete_before(client: &Client, before: OffsetDateTime) -> Result<(), Error> {
    client.execute(&DELETE_RUNS, &[&before]).await?;
    client.execute(&DELETE_OUTAGES, &[&before]).await?;
    Ok(())
}

/// Facts about a recipient.
pub async fn recipient(
    client: &Client,
    party: &Party,
    now: OffsetDateTime,
) -> Result<RecipientFacts, Error> {
    let (user, phone) = rows::columns(party);
    let row = client.query_one(&RECIPIENT, &[&phone, &now, &user]).await?;
    Ok(RecipientFacts {
        had_token: row.try_get("had_token")?,
        has_valid_token: row.try_get("has_valid_token")?,
        connected_at: row.try_get("connected_at")?,
        disconnected_at: row.try_get("disconnected_at")?,
        disconnect_reason: row.try_get("disconnect_reason")?,
        gateway: match row.try_get("started_at")? {
            None => None,
            Some(started_at) => Some(ProcessRun {
                started_at,
                alive_at: row.try_get("alive_at")?,
                stopped_at: row.try_get("stopped_at")?,
                delivers: row.try_get("delivers")?,
            }),
        },
    })
}

/// Runs since `from` and the last one before, oldest first.
pub async fn runs(client: &Client, from: OffsetDateTime) -> Result<Vec<ProcessRun>, Error> {
    let rows = client.query(&RUNS, &[&from]).await?;
    rows.iter()
        .map(|row| {
            Ok(ProcessRun {
                started_at: row.try_get("started_at")?,
                alive_at: row.try_get("alive_at")?,
                stopped_at: row.try_get("stopped_at")?,
                delivers: row.try_get("delivers")?,
            })
        })
        .collect()
}

/// The outages since `from`, oldest first.
pub async fn outages(client: &Client, from: OffsetDateTime) -> Result<Vec<Outage>, Error> {
    let rows = client.query(&OUTAGES, &[&from]).await?;
    rows.iter()
        .map(|row| {
            Ok(Outage {
                part: row.try_get("part")?,
                reason: row.try_get("reason")?,
                began_at: row.try_get("began_at")?,
                ended_at: row.try_get("ended_at")?,
            })
        })
        .collect()
}

/// When a message is due, and the id of its dead letter.
pub async fn next_attempt(
    client: &Client,
    id: MessageId,
) -> Result<(Option<OffsetDateTime>, Option<Uuid>), Error> {
    let row = client.query_opt(&NEXT_ATTEMPT, &[&id.0]).await?;
    row.map_or(Ok((None, None)), |row| {
        Ok((row.try_get("next_attempt_at")?, row.try_get("dead_letter")?))
    })
}
