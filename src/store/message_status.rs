//! What became of messages: every change of status, each guarded in its `WHERE`, each for many
//! messages at once.
//!
//! The guards are those of [`crate::domain::status`]: what comes twice or too late changes nothing.
//!
//! `status + 0 < 2` is `status < 2` in a form that the planner cannot match with the index on waiting
//! messages, which it would otherwise walk whole instead of looking the ids up.
//!
//! What an administrator has deleted stays as it was then.
//!
//! Every statement raises the versions of the conversations whose messages it changes ([`raise_receipts`]),
//! by which caches know that they are behind.

use std::collections::HashSet;

use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Client, Error, Statement, Statements, rows, statement::statements};
use crate::domain::{DeadLetterClass, MessageId, Party, Status, feed::DeliveryAttempt};

/// What a recipient tells of one message: that it has it, or has opened it.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// The message.
    pub id: MessageId,
    /// Who says so; a message of anybody else is not touched.
    pub by: Party,
    /// When.
    pub at: OffsetDateTime,
    /// When it was written to the connection, where that is known.
    pub written_at: Option<OffsetDateTime>,
}

/// A message whose status has changed.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The message.
    pub id: MessageId,
    /// Whom to tell.
    pub sender: Party,
    /// What it is now.
    pub status: Status,
    /// Since when.
    pub at: OffsetDateTime,
    /// When it was accepted.
    pub created_at: OffsetDateTime,
}

/// The part of a statement that raises the versions of the conversations of `done`, in the order of their
/// ids and after their messages: everybody else takes them in that order too.
macro_rules! raise_receipts {
    () => {
        "receipts AS (
            INSERT INTO conversation_receipts AS r (conversation_id, version)
            SELECT of.id, later_version(0)
            FROM (SELECT conversation_id AS id FROM done WHERE conversation_id IS NOT NULL
                  GROUP BY 1 ORDER BY 1) of
            ON CONFLICT (conversation_id) DO UPDATE SET version = later_version(r.version))"
    };
}
pub(super) use raise_receipts;

// `sent` and the receipts' own columns differ; who may change what is the same for both.
macro_rules! take_receipts_sql {
    (status: $status:literal, times: $times:literal, at: $at:literal, below: $below:literal,
     of: $of:literal) => {
        concat!(
            "UPDATE messages m SET
                status = ",
            $status,
            ",
                sent_at = coalesce(m.sent_at, a.written_at, a.at),
                ",
            $times,
            ",
                next_attempt_at = NULL
            FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::timestamptz[], $5::timestamptz[])
                 AS a(id, phone, user_id, at, written_at)
            WHERE m.id = a.id
              AND (m.recipient_phone = a.phone OR m.recipient_user_id = a.user_id)
              AND m.deleted_at IS NULL AND m.status + 0 < ",
            $below,
            " AND m.conversation_id ",
            $of,
            "
            RETURNING m.id, m.sender_user_id, m.sender_phone, m.",
            $at,
            " AS at, m.created_at"
        )
    };
}

// A late receipt about a failed message is the delivery of a new generation and clears its dead letter
// (docs/DELIVERY.md, Status).
macro_rules! take_late_words_sql {
    (status: $status:literal, times: $times:literal, at: $at:literal) => {
        concat!(
            "WITH done AS (
                UPDATE messages m SET
                    status = ",
            $status,
            ",
                    generation = m.generation + 1,
                    retry_count = 0,
                    failure_reason = NULL,
                    sent_at = coalesce(m.sent_at, a.written_at, a.at),
                    ",
            $times,
            ",
                    next_attempt_at = NULL
                FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::timestamptz[], $5::timestamptz[])
                     AS a(id, phone, user_id, at, written_at)
                WHERE m.id = a.id
                  AND (m.recipient_phone = a.phone OR m.recipient_user_id = a.user_id)
                  AND m.status = 4 AND m.deleted_at IS NULL
                RETURNING m.id, m.sender_user_id, m.sender_phone, m.generation, m.",
            $at,
            " AS at, m.created_at, m.conversation_id),
            ",
            raise_receipts!(),
            ",
            cleared AS (
                DELETE FROM dead_letters d USING done
                WHERE d.message_id = done.id AND d.generation < done.generation),
            told AS (
                INSERT INTO delivery_events (message_id, generation, at, kind)
                SELECT id, generation, at, 'late_acknowledgement' FROM done)
            SELECT id, sender_user_id, sender_phone, at, created_at FROM done"
        )
    };
}

statements! {
    ACKNOWLEDGE_ONE_WAY = take_receipts_sql!(
        status: "2", times: "delivered_at = a.at", at: "delivered_at", below: "2", of: "IS NULL"
    );
    ACKNOWLEDGE_CHAT = concat!(
        "WITH done AS (",
        take_receipts_sql!(
            status: "2", times: "delivered_at = a.at", at: "delivered_at", below: "2",
            of: "IS NOT NULL"
        ),
        ", m.conversation_id), ",
        raise_receipts!(),
        " SELECT id, sender_user_id, sender_phone, at, created_at FROM done"
    );
    ACKNOWLEDGE_LATE = take_late_words_sql!(
        status: "2", times: "delivered_at = a.at", at: "delivered_at"
    );
    READ_ONE_WAY = take_receipts_sql!(
        status: "3",
        times: "delivered_at = coalesce(m.delivered_at, a.at), read_at = a.at",
        at: "read_at",
        below: "3",
        of: "IS NULL"
    );
    READ_LATE = take_late_words_sql!(
        status: "3",
        times: "delivered_at = coalesce(m.delivered_at, a.at), read_at = a.at",
        at: "read_at"
    );
    // A lost connection is no failure: no attempt is counted, the message is parked until its recipient
    // connects again. It may be lost any number of times, so that is one event with a count.
    MARK_SENT = concat!(
        "WITH given AS (
            SELECT * FROM unnest($1::uuid[], $2::int4[], $3::timestamptz[], $4::text[])
                   AS a(id, generation, at, lost)),
        done AS (
            UPDATE messages m SET
                status = 1,
                sent_at = coalesce(m.sent_at, a.at),
                next_attempt_at = CASE WHEN a.lost IS NULL THEN m.next_attempt_at END
            FROM given a
            WHERE m.id = a.id AND m.generation = a.generation AND m.status + 0 < 2
              AND m.deleted_at IS NULL
            RETURNING m.id, m.generation, m.sender_user_id, m.sender_phone, m.sent_at, m.created_at,
                      m.conversation_id, a.at AS at, a.lost),
        ",
        raise_receipts!(),
        ", told AS (
            INSERT INTO delivery_events AS e (message_id, generation, at, kind, detail, counted, last_at)
            SELECT id, generation, $5, 'connection_lost', lost, true, $5 FROM done
            WHERE lost IS NOT NULL
            ON CONFLICT (message_id, generation, kind) WHERE counted DO UPDATE SET
                count = CASE WHEN e.count < 2147483647 THEN e.count + 1 ELSE e.count END,
                last_at = greatest(e.last_at, excluded.last_at), detail = excluded.detail)
        SELECT id, sender_user_id, sender_phone, at, created_at FROM done WHERE sent_at = at"
    );
    // The guard on the retry count makes two connections that missed the same attempt count it once.
    RETRY = concat!(
        "WITH done AS (
            UPDATE messages m SET
                status = 1,
                retry_count = a.retries,
                sent_at = coalesce(m.sent_at, a.written_at),
                next_attempt_at = a.next
            FROM unnest($1::uuid[], $2::int4[], $3::int2[], $4::timestamptz[], $5::int2[],
                        $6::timestamptz[], $7::timestamptz[])
                 AS a(id, generation, expected, at, retries, next, written_at)
            WHERE m.id = a.id AND m.generation = a.generation AND m.retry_count = a.expected
              AND m.status + 0 < 2 AND m.deleted_at IS NULL
            RETURNING m.id, m.generation, m.conversation_id, a.at AS at, a.retries),
        ",
        raise_receipts!(),
        ", told AS (
            INSERT INTO delivery_events (message_id, generation, at, kind, detail)
            SELECT id, generation, at, 'retry', 'not acknowledged in time; retry ' || retries FROM done)
        SELECT id FROM done"
    );
    GIVE_UP = concat!(
        "WITH done AS (
            UPDATE messages m SET
                status = 4, failure_reason = $5, next_attempt_at = NULL,
                sent_at = coalesce(m.sent_at, a.written_at)
            FROM unnest($1::uuid[], $2::int4[], $3::int2[], $4::timestamptz[], $6::uuid[],
                        $7::timestamptz[])
                 AS a(id, generation, expected, at, dead_letter, written_at)
            WHERE m.id = a.id AND m.generation = a.generation AND m.retry_count = a.expected
              AND m.status + 0 < 2 AND m.deleted_at IS NULL
            RETURNING m.id, m.generation, m.sender_user_id, m.sender_phone, m.retry_count, m.sent_at,
                      m.created_at, m.conversation_id, a.at AS at, a.dead_letter),
        ",
        raise_receipts!(),
        ", buried AS (
            INSERT INTO dead_letters (id, message_id, generation, kind, class, reason, attempts,
                                      first_error_at, last_error_at)
            SELECT dead_letter, id, generation, 'delivery', $8::text, $5, retry_count + 1, sent_at, at
            FROM done ON CONFLICT ON CONSTRAINT dead_letters_once DO NOTHING),
        told AS (
            INSERT INTO delivery_events (message_id, generation, at, kind, detail)
            SELECT id, generation, at, 'given_up', $5 FROM done)
        SELECT id, sender_user_id, sender_phone, at, created_at FROM done"
    );
    BURY_UNREADABLE = concat!(
        "WITH done AS (
            UPDATE messages m SET status = 4, failure_reason = $3, next_attempt_at = NULL,
                                  sent_at = coalesce(m.sent_at, $4)
            FROM unnest($1::uuid[], $2::uuid[]) AS a(id, dead_letter)
            WHERE m.id = a.id AND m.status + 0 < 2 AND m.deleted_at IS NULL
            RETURNING m.id, m.generation, m.retry_count, m.conversation_id, a.dead_letter),
        ",
        raise_receipts!(),
        ", told AS (
            INSERT INTO delivery_events (message_id, generation, at, kind, detail)
            SELECT id, generation, $4, 'given_up', $3 FROM done),
        buried AS (
            INSERT INTO dead_letters (id, message_id, generation, kind, class, reason, attempts,
                                      first_error_at, last_error_at)
            SELECT dead_letter, id, generation, 'delivery', 'content', $3, retry_count, $4, $4 FROM done
            ON CONFLICT ON CONSTRAINT dead_letters_once DO NOTHING)
        SELECT id FROM done"
    );
    PARK = "
        UPDATE messages SET next_attempt_at = NULL
        WHERE id = ANY ($1) AND status + 0 < 2 AND retry_count = 0 AND next_attempt_at IS NOT NULL";
}

/// The statements for one kind of receipt: the usual one, which knows one-way messages only and pays for
/// nothing else; the one for chat, where receipts of this kind come this way; and the one for what had failed.
struct Taking {
    status: Status,
    usual: &'static Statement,
    chat: Option<&'static Statement>,
    late: &'static Statement,
}

const ACKNOWLEDGE: Taking = Taking {
    status: Status::Delivered,
    usual: &ACKNOWLEDGE_ONE_WAY,
    chat: Some(&ACKNOWLEDGE_CHAT),
    late: &ACKNOWLEDGE_LATE,
};

/// Marks as delivered.
///
/// # Errors
/// Any failure of the database; then repeating it is harmless.
pub async fn acknowledge(client: &Client, receipts: &[Receipt]) -> Result<Vec<Changed>, Error> {
    take_receipts(client, &ACKNOWLEDGE, receipts).await
}

const MARK_READ: Taking = Taking {
    status: Status::Read,
    usual: &READ_ONE_WAY,
    // What is read in a conversation moves its counts: `chat::mark_read`.
    chat: None,
    late: &READ_LATE,
};

/// Marks as read, passing through sent and delivered where those are still to come.
///
/// # Errors
/// Any failure of the database; then repeating it is harmless.
pub async fn mark_read(client: &Client, receipts: &[Receipt]) -> Result<Vec<Changed>, Error> {
    take_receipts(client, &MARK_READ, receipts).await
}

async fn take_receipts(
    client: &Client,
    taking: &Taking,
    receipts: &[Receipt],
) -> Result<Vec<Changed>, Error> {
    let mut left: Vec<&Receipt> = receipts.iter().collect();
    let mut changed = Vec::with_capacity(receipts.len());
    // What the usual statement leaves is chat, and then repeats, receipts of others, and the rare one about
    // a message that had failed: it stays quick by not knowing about any of that.
    for statement in [Some(taking.usual), taking.chat, Some(taking.late)].into_iter().flatten() {
        let found = run_words(client, statement, taking.status, &left).await?;
        let done: HashSet<MessageId> = found.iter().map(|change| change.id).collect();
        left.retain(|receipt| !done.contains(&receipt.id));
        changed.extend(found);
        if left.is_empty() {
            break;
        }
    }
    Ok(changed)
}

async fn run_words(
    client: &Client,
    statement: &Statement,
    status: Status,
    receipts: &[&Receipt],
) -> Result<Vec<Changed>, Error> {
    let ids: Vec<Uuid> = receipts.iter().map(|receipt| receipt.id.0).collect();
    let by = receipts.iter().map(|receipt| rows::columns(&receipt.by));
    let (users, phones): (Vec<Option<Uuid>>, Vec<Option<&str>>) = by.unzip();
    let times: Vec<OffsetDateTime> = receipts.iter().map(|receipt| receipt.at).collect();
    let written: Vec<Option<OffsetDateTime>> =
        receipts.iter().map(|receipt| receipt.written_at).collect();
    let rows = client.query(statement, &[&ids, &phones, &users, &times, &written]).await?;
    changed(&rows, status)
}

/// A message that was written to a connection.
#[derive(Clone, Copy, Debug)]
pub struct WrittenAt {
    /// Which attempt.
    pub attempt: DeliveryAttempt,
    /// When.
    pub at: OffsetDateTime,
    /// Why the connection ended before the acknowledgement, if it did: the message waits for the
    /// next one.
    pub lost: Option<&'static str>,
}

/// Marks as sent what was written and is not acknowledged yet.
///
/// # Errors
/// Any failure of the database; then nothing has changed.
pub async fn mark_sent(
    client: &Client,
    written: &[WrittenAt],
    now: OffsetDateTime,
) -> Result<Vec<Changed>, Error> {
    let ids: Vec<Uuid> = written.iter().map(|w| w.attempt.id.0).collect();
    let generations: Vec<i32> = written.iter().map(|w| w.attempt.generation).collect();
    let times: Vec<OffsetDateTime> = written.iter().map(|w| w.at).collect();
    let lost: Vec<Option<&str>> = written.iter().map(|w| w.lost).collect();
    let rows = client.query(&MARK_SENT, &[&ids, &generations, &times, &lost, &now]).await?;
    changed(&rows, Status::Sent)
}

/// An attempt that was not acknowledged in time, and what the retry policy made of it.
#[derive(Clone, Copy, Debug)]
pub struct Missed {
    /// Which attempt.
    pub attempt: DeliveryAttempt,
    /// When it was written to the connection.
    pub written_at: OffsetDateTime,
    /// When that was found.
    pub at: OffsetDateTime,
    /// The retry count from now on.
    pub retry_count: u16,
    /// When to try again.
    pub next_attempt_at: OffsetDateTime,
}

/// Counts a missed attempt and sets the time of the next. Returns which were counted.
///
/// # Errors
/// Any failure of the database; then nothing has changed.
pub async fn retry(client: &Client, missed: &[Missed]) -> Result<Vec<MessageId>, Error> {
    let ids: Vec<Uuid> = missed.iter().map(|m| m.attempt.id.0).collect();
    let generations: Vec<i32> = missed.iter().map(|m| m.attempt.generation).collect();
    let expected: Vec<i16> = missed.iter().map(|m| small(m.attempt.retry_count)).collect();
    let times: Vec<OffsetDateTime> = missed.iter().map(|m| m.at).collect();
    let retries: Vec<i16> = missed.iter().map(|m| small(m.retry_count)).collect();
    let next: Vec<OffsetDateTime> = missed.iter().map(|m| m.next_attempt_at).collect();
    let written: Vec<OffsetDateTime> = missed.iter().map(|m| m.written_at).collect();
    let rows = client
        .query(&RETRY, &[&ids, &generations, &expected, &times, &retries, &next, &written])
        .await?;
    which(&rows)
}

fn which(rows: &[Row]) -> Result<Vec<MessageId>, Error> {
    rows.iter().map(|row| Ok(MessageId(row.try_get("id")?))).collect()
}

/// A message that is not tried again.
#[derive(Clone, Copy, Debug)]
pub struct GivenUp {
    /// The id of its dead letter.
    pub dead_letter: Uuid,
    /// Which attempt.
    pub attempt: DeliveryAttempt,
    /// When it was written to the connection.
    pub written_at: OffsetDateTime,
    /// When that was found.
    pub at: OffsetDateTime,
}

/// Marks as failed and puts into the dead letters.
///
/// # Errors
/// Any failure of the database; then nothing has changed.
pub async fn give_up(
    client: &Client,
    messages: &[GivenUp],
    reason: &str,
    class: DeadLetterClass,
) -> Result<Vec<Changed>, Error> {
    let class = class.name();
    let ids: Vec<Uuid> = messages.iter().map(|m| m.attempt.id.0).collect();
    let generations: Vec<i32> = messages.iter().map(|m| m.attempt.generation).collect();
    let expected: Vec<i16> = messages.iter().map(|m| small(m.attempt.retry_count)).collect();
    let times: Vec<OffsetDateTime> = messages.iter().map(|m| m.at).collect();
    let letters: Vec<Uuid> = messages.iter().map(|m| m.dead_letter).collect();
    let written: Vec<OffsetDateTime> = messages.iter().map(|m| m.written_at).collect();
    let rows = client
        .query(
            &GIVE_UP,
            &[&ids, &generations, &expected, &times, &reason, &letters, &written, &class],
        )
        .await?;
    changed(&rows, Status::Failed)
}

/// Gives up messages whose rows cannot be read; with each the id of its dead letter. Returns which.
///
/// # Errors
/// Any failure of the database; then nothing has changed.
pub async fn bury_unreadable(
    client: &Client,
    messages: &[(Uuid, MessageId)],
    reason: &str,
    now: OffsetDateTime,
) -> Result<Vec<MessageId>, Error> {
    let ids: Vec<Uuid> = messages.iter().map(|(_, id)| id.0).collect();
    let letters: Vec<Uuid> = messages.iter().map(|(letter, _)| *letter).collect();
    which(&client.query(&BURY_UNREADABLE, &[&ids, &letters, &reason, &now]).await?)
}

/// Parks messages whose recipient has no connection.
///
/// # Errors
/// Any failure of the database.
pub async fn park(client: &Client, ids: &[MessageId]) -> Result<u64, Error> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    client.execute(&PARK, &[&ids]).await
}

/// Rows with the columns `id`, `sender_user_id`, `sender_phone`, `at` and `created_at`.
pub(super) fn changed(rows: &[Row], status: Status) -> Result<Vec<Changed>, Error> {
    rows.iter()
        .map(|row| {
            Ok(Changed {
                id: MessageId(row.try_get("id")?),
                sender: rows::sender(row)?,
                status,
                at: row.try_get("at")?,
                created_at: row.try_get("created_at")?,
            })
        })
        .collect()
}

fn small(count: u16) -> i16 {
    i16::try_from(count).unwrap_or(i16::MAX)
}
