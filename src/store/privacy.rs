//! Everything stored about a phone number: counted, exported and erased.
//!
//! A new table that stores phone numbers must be added to [`count`] and to an erasing statement.

use time::{Duration, OffsetDateTime};
use tokio_postgres::types::ToSql;

pub(super) mod export;

pub use export::{
    ExportedDevice, ExportedRegistration, PresenceRecord, devices, events_of, one_way, presence,
    registrations,
};

use super::{
    Client, Error, Statement, Statements,
    erasure::{self, ErasedRows, beginning_sql, counted, with_them},
    rows,
    statement::statements,
};
use crate::domain::{ConversationId, Phone};

/// Row counts by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErasureCounts {
    /// Messages to and from the phone, one-way and chat.
    pub messages: i64,
    /// Delivery events of those messages.
    pub events: i64,
    /// Dead letters of those messages.
    pub dead_letters: i64,
    pub jobs: i64,
    pub conversations: i64,
    /// Attachments of those messages, and uploads of the phone.
    pub attachments: i64,
    pub devices: i64,
    pub tokens: i64,
    /// Stored responses that name those messages.
    pub idempotency_keys: i64,
    /// Presence records.
    pub presence: i64,
    /// Registrations, their codes, and what limits counted for the number.
    pub registrations: i64,
    /// The mobile user itself.
    pub mobile_users: i64,
    /// Audit log entries that name the phone; they stay, with the number masked.
    pub audit_entries: i64,
}

impl ErasureCounts {
    pub fn named(&self) -> [(&'static str, i64); 13] {
        [
            ("messages", self.messages),
            ("events", self.events),
            ("deadLetters", self.dead_letters),
            ("jobs", self.jobs),
            ("conversations", self.conversations),
            ("attachments", self.attachments),
            ("devices", self.devices),
            ("tokens", self.tokens),
            ("idempotencyKeys", self.idempotency_keys),
            ("presence", self.presence),
            ("registrations", self.registrations),
            ("mobileUsers", self.mobile_users),
            ("auditEntries", self.audit_entries),
        ]
    }

    fn add(&mut self, gone: ErasedRows) {
        self.messages += gone.messages;
        self.events += gone.events;
        self.dead_letters += gone.dead_letters;
        self.jobs += gone.jobs;
        self.attachments += gone.attachments;
    }
}

/// Some of these queries have no index: erasure is rare, and may scan a table.
const SLOW_SCAN_SETTINGS: &str = "SET LOCAL enable_seqscan = on; SET LOCAL enable_bitmapscan = on; \
                         SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on; \
                         SET LOCAL statement_timeout = 600000";

// Chat messages are found by conversation: there is no index on the sender.
macro_rules! of_it {
    () => {
        "of_it AS (
            SELECT id FROM messages WHERE recipient_phone = $1 AND type = 0
            UNION ALL
            SELECT m.id FROM conversations c JOIN messages m ON m.conversation_id = c.id
            WHERE c.phone = $1)"
    };
}

// A response names the message by number or by id; the key's owner sent it.
macro_rules! named {
    () => {
        "WITH named AS MATERIALIZED (
            SELECT sender_user_id, id::text FROM messages
            WHERE recipient_phone = $1 AND id >= $4 AND created_at <= $5
            UNION
            SELECT m.sender_user_id, m.id::text FROM conversations c
            JOIN messages m ON m.conversation_id = c.id
            WHERE c.phone = $1 AND m.id >= $4 AND m.created_at <= $5)
        "
    };
}

macro_rules! answers {
    () => {
        " FROM idempotency_keys k WHERE k.created_at BETWEEN $2 AND $3
        AND (strpos(k.response, $1) > 0 OR EXISTS (
            SELECT FROM named n WHERE n.sender_user_id = k.user_id AND strpos(k.response, n.id) > 0))"
    };
}

// Jobs and dead letters without a message whose payload names the number.
macro_rules! names_it {
    () => {
        "message_id IS NULL AND strpos(payload::text, $1) > 0"
    };
}

// A frame comes from another program: it may have the number without its plus sign.
macro_rules! frame_names_it {
    () => {
        "frame IS NOT NULL AND position(convert_to(ltrim($1, '+'), 'UTF8') IN frame) > 0"
    };
}

// The log must keep who accessed what; not whose data it was.
macro_rules! in_log {
    () => {
        "(id IN (SELECT entry_id FROM audit_log_phones WHERE phone = $1) OR subject_phone = $1
        OR actor = $1 OR subject_id = $1 OR strpos(coalesce(reason, ''), $1) > 0
        OR strpos(details::text, $1) > 0)"
    };
}

statements! {
    // The application's role may not change rows itself.
    MASK: once = "SELECT audit_log_mask($1, $2) AS changed";
    COUNT: once = concat!(
        "WITH ",
        of_it!(),
        " SELECT (SELECT count(*) FROM of_it) AS messages,
            (SELECT count(*) FROM delivery_events
             WHERE message_id IN (SELECT id FROM of_it)) AS events,
            (SELECT count(*) FROM dead_letters
             WHERE message_id IN (SELECT id FROM of_it) OR ",
        names_it!(),
        " OR ",
        frame_names_it!(),
        ") AS dead_letters,
            (SELECT count(*) FROM jobs WHERE message_id IN (SELECT id FROM of_it) OR ",
        names_it!(),
        ") AS jobs,
            (SELECT count(*) FROM conversations WHERE phone = $1) AS conversations,
            (SELECT count(*) FROM media_attachments
             WHERE message_id IN (SELECT id FROM of_it) OR owner_phone = $1) AS attachments,
            (SELECT count(*) FROM device_tokens WHERE phone = $1) AS devices,
            (SELECT count(*) FROM tokens WHERE phone = $1) AS tokens,
            (SELECT count(*) FROM recipients WHERE phone = $1) AS presence,
            (SELECT count(*) FROM registrations WHERE phone = $1)
            + (SELECT count(*) FROM registration_codes WHERE phone = $1)
            + (SELECT count(*) FROM registration_counts WHERE scope = 0 AND key = $1) AS registrations,
            (SELECT count(*) FROM mobile_users WHERE phone = $1) AS mobile_users,
            (SELECT count(*) FROM audit_log WHERE ",
        in_log!(),
        ") AS audit_entries"
    );
    // Set anew also for tokens revoked before: gateways poll for recent revocations.
    REVOKE: once = "UPDATE tokens SET phone = '', revoked_at = $2 WHERE phone = $1";
    DELETE_REGISTRATIONS: once = "DELETE FROM registrations WHERE phone = $1";
    DELETE_CODES: once = "DELETE FROM registration_codes WHERE phone = $1";
    DELETE_COUNTS: once = "DELETE FROM registration_counts WHERE scope = 0 AND key = $1";
    DELETE_USER: once = "DELETE FROM mobile_users WHERE phone = $1";
    DELETE_DEVICES: once = "DELETE FROM device_tokens WHERE phone = $1";
    DELETE_PRESENCE: once = "DELETE FROM recipients WHERE phone = $1";
    // The next keys by age, including all of the same time as the last one.
    SOME_KEYS = "
        SELECT min(created_at) AS first_at, max(created_at) AS last_at
        FROM (SELECT created_at FROM idempotency_keys WHERE created_at > $1
              ORDER BY created_at LIMIT $2) AS page";
    COUNT_ANSWERS = concat!(named!(), "SELECT count(*) AS count", answers!());
    DELETE_ANSWERS = concat!(named!(), "DELETE", answers!());
    ERASE_ONE_WAY = concat!(
        "WITH old AS (
            SELECT id FROM messages WHERE recipient_phone = $1 AND type = 0 AND created_at <= $2
            ORDER BY id LIMIT $3 FOR UPDATE),
        gone AS (
            DELETE FROM messages m USING old WHERE m.id = old.id
            RETURNING m.sender_user_id AS business, m.created_at),
        ",
        counted!(),
        " SELECT count(*) AS messages, ",
        with_them!(),
        " FROM gone"
    );
    CONVERSATIONS: once = "SELECT id FROM conversations WHERE phone = $1 ORDER BY id LIMIT 1000";
    ERASE_BEGINNING = beginning_sql!("$2::timestamptz IS NOT NULL");
    DELETE_CONVERSATION: once = "DELETE FROM conversations WHERE id = $1";
    DELETE_RECEIPTS: once = "DELETE FROM conversation_receipts WHERE conversation_id = $1";
    DELETE_UPLOADS: once = "DELETE FROM media_attachments WHERE owner_phone = $1";
    DELETE_JOBS: once = concat!("DELETE FROM jobs WHERE ", names_it!());
    DELETE_LETTERS: once = concat!(
        "DELETE FROM dead_letters WHERE ",
        names_it!(),
        " OR ",
        frame_names_it!()
    );
}

/// Keys scanned per statement.
const KEY_BATCH_SIZE: i64 = 2000;
/// Tolerance between the time of a key and that of the messages in its response.
const KEY_TIME_TOLERANCE: Duration = Duration::minutes(5);

/// Masks a number in the audit log; the entries stay.
///
/// # Errors
/// Any failure of the database; then nothing has changed.
pub async fn mask_audit_log(
    client: &mut Client,
    phone: &Phone,
    counts: &mut ErasureCounts,
) -> Result<(), Error> {
    client.without_timeout();
    let transaction = client.transaction().await?;
    transaction.batch_execute(SLOW_SCAN_SETTINGS).await?;
    let (phone, masked) = (phone.as_str(), phone.masked());
    let row = transaction.query_one(&MASK, &[&phone, &masked]).await?;
    let changed: i64 = row.try_get("changed")?;
    transaction.commit().await?;
    counts.audit_entries += changed;
    Ok(())
}

/// Counts everything stored about a phone; [`erase_stored_responses`] counts the idempotency keys.
pub async fn count(client: &mut Client, phone: &Phone) -> Result<ErasureCounts, Error> {
    client.without_timeout();
    let transaction = client.transaction().await?;
    transaction.batch_execute(&format!("{SLOW_SCAN_SETTINGS}; SET TRANSACTION READ ONLY")).await?;
    let row = transaction.query_one(&COUNT, &[&phone.as_str()]).await?;
    transaction.commit().await?;
    Ok(ErasureCounts {
        messages: row.try_get("messages")?,
        events: row.try_get("events")?,
        dead_letters: row.try_get("dead_letters")?,
        jobs: row.try_get("jobs")?,
        conversations: row.try_get("conversations")?,
        attachments: row.try_get("attachments")?,
        devices: row.try_get("devices")?,
        tokens: row.try_get("tokens")?,
        idempotency_keys: 0,
        presence: row.try_get("presence")?,
        registrations: row.try_get("registrations")?,
        mobile_users: row.try_get("mobile_users")?,
        audit_entries: row.try_get("audit_entries")?,
    })
}

/// Revokes a phone's access: its tokens lose their owner and stay, revoked, until every gateway has closed
/// their connections. First and separately, because gateways look back for a limited time only.
///
/// # Errors
/// Any failure of the database; then nothing has changed.
pub async fn revoke_access(
    client: &Client,
    phone: &Phone,
    now: OffsetDateTime,
    counts: &mut ErasureCounts,
) -> Result<(), Error> {
    let revoked = client.execute(&REVOKE, &[&phone.as_str(), &now]).await?;
    counts.tokens += i64::try_from(revoked).unwrap_or(i64::MAX);
    Ok(())
}

/// Erases the mobile user, its registrations, its devices and its presence.
///
/// # Errors
/// Any failure of the database; then nothing has changed.
pub async fn erase_phone(
    client: &mut Client,
    phone: &Phone,
    counts: &mut ErasureCounts,
) -> Result<(), Error> {
    client.without_timeout();
    let transaction = client.transaction().await?;
    transaction.batch_execute(SLOW_SCAN_SETTINGS).await?;
    let phone = phone.as_str();
    let run = async |statement: &Statement| {
        let changed = transaction.execute(statement, &[&phone]).await;
        changed.map(|n| i64::try_from(n).unwrap_or(i64::MAX))
    };
    counts.registrations += run(&DELETE_REGISTRATIONS).await?;
    counts.registrations += run(&DELETE_CODES).await?;
    counts.registrations += run(&DELETE_COUNTS).await?;
    counts.mobile_users += run(&DELETE_USER).await?;
    counts.devices += run(&DELETE_DEVICES).await?;
    counts.presence += run(&DELETE_PRESENCE).await?;
    transaction.commit().await?;
    Ok(())
}

/// Counts the idempotency keys whose responses name a number or its messages, and with `erase` deletes them:
/// among [`KEY_BATCH_SIZE`] keys after a time. Returns where to continue; `None` at the end. Must run before
/// the messages are erased.
///
/// # Errors
/// Any failure of the database; then nothing has changed.
pub async fn erase_stored_responses(
    client: &Client,
    phone: &Phone,
    after: OffsetDateTime,
    erase: bool,
    counts: &mut ErasureCounts,
) -> Result<Option<OffsetDateTime>, Error> {
    let row = client.query_one(&SOME_KEYS, &[&after, &KEY_BATCH_SIZE]).await?;
    let (first, last): (Option<OffsetDateTime>, Option<OffsetDateTime>) =
        (row.try_get("first_at")?, row.try_get("last_at")?);
    let (Some(first), Some(last)) = (first, last) else { return Ok(None) };
    // Only messages accepted here have a key. Their ids are of that time, or later where a clock was ahead.
    let (from, to) = (rows::first_id_of(first - KEY_TIME_TOLERANCE), last + KEY_TIME_TOLERANCE);
    let values: [&(dyn ToSql + Sync); 5] = [&phone.as_str(), &first, &last, &from, &to];
    let found = if erase {
        let deleted = client.execute(&DELETE_ANSWERS, &values).await?;
        i64::try_from(deleted).unwrap_or(i64::MAX)
    } else {
        client.query_one(&COUNT_ANSWERS, &values).await?.try_get("count")?
    };
    counts.idempotency_keys += found;
    Ok(Some(last))
}

/// Erases at most `limit` one-way messages to a phone accepted until `before`. Returns whether there may be
/// more.
///
/// # Errors
/// Any failure of the database; then nothing has changed.
pub async fn erase_one_way(
    client: &Client,
    phone: &Phone,
    before: OffsetDateTime,
    limit: i64,
    counts: &mut ErasureCounts,
) -> Result<bool, Error> {
    let row = client.query_one(&ERASE_ONE_WAY, &[&phone.as_str(), &before, &limit]).await?;
    let gone = ErasedRows::read(&row)?;
    counts.add(gone);
    Ok(gone.messages == limit)
}

/// The conversations of a phone, at most 1,000.
pub async fn conversations(client: &Client, phone: &Phone) -> Result<Vec<ConversationId>, Error> {
    let found = client.query(&CONVERSATIONS, &[&phone.as_str()]).await?;
    found.iter().map(|row| Ok(ConversationId(row.try_get("id")?))).collect()
}

/// Erases at most `limit` messages from the beginning of a conversation, and the conversation when it is
/// empty. Returns whether it is gone.
///
/// # Errors
/// Any failure of the database; then nothing has changed.
pub async fn erase_conversation(
    client: &mut Client,
    id: ConversationId,
    now: OffsetDateTime,
    limit: i64,
    counts: &mut ErasureCounts,
) -> Result<bool, Error> {
    let transaction = client.transaction().await?;
    let gone = erasure::beginning(&transaction, &ERASE_BEGINNING, id, now, limit).await?;
    let ended = gone.messages < limit;
    let mut conversations = 0;
    if ended {
        conversations = transaction.execute(&DELETE_CONVERSATION, &[&id.0]).await?;
        transaction.execute(&DELETE_RECEIPTS, &[&id.0]).await?;
    }
    transaction.commit().await?;
    counts.add(gone);
    counts.conversations += i64::try_from(conversations).unwrap_or_default();
    Ok(ended)
}

/// Erases data without a message: uploads, jobs and dead letters that name the number.
///
/// # Errors
/// Any failure of the database; then nothing has changed.
pub async fn erase_rest(
    client: &mut Client,
    phone: &Phone,
    counts: &mut ErasureCounts,
) -> Result<(), Error> {
    client.without_timeout();
    let transaction = client.transaction().await?;
    transaction.batch_execute(SLOW_SCAN_SETTINGS).await?;
    let phone = phone.as_str();
    let run = async |statement: &Statement| {
        let changed = transaction.execute(statement, &[&phone]).await;
        changed.map(|n| i64::try_from(n).unwrap_or(i64::MAX))
    };
    counts.attachments += run(&DELETE_UPLOADS).await?;
    counts.jobs += run(&DELETE_JOBS).await?;
    counts.dead_letters += run(&DELETE_LETTERS).await?;
    // A disconnect just now was recorded while the mobile user still existed.
    counts.presence += run(&DELETE_PRESENCE).await?;
    transaction.commit().await?;
    Ok(())
}
