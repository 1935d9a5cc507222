//! Imports rows of another system with their ids, so that a repeat changes nothing.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Client, Error, Statements, Transaction,
    accounts::{MobileStatus, MobileUser},
    statement::statements,
};
use crate::domain::{
    MessageId, Party, Phone, Priority, Status, UserId, partitions, verdict::MessageImport,
};

statements! {
    BEGIN = "
        INSERT INTO imports (id, began_at, actor, file) VALUES ($1, $2, $3, $4)
        ON CONFLICT DO NOTHING";
    IS_BEGUN = "
        SELECT EXISTS (SELECT FROM imports WHERE id = $1 AND actor = $2) AS is_begun";
    // Unacknowledged messages are parked: they are delivered when the recipient connects.
    MESSAGES = "
        INSERT INTO messages (id, sender_user_id, recipient_phone, subject, content, status, priority,
                              partition, retry_count, failure_reason, created_at, sent_at, delivered_at,
                              read_at, import_id)
        SELECT a.*, $15::uuid FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[],
                             $5::text[], $6::int2[], $7::int2[], $8::int2[], $9::int2[], $10::text[],
                             $11::timestamptz[], $12::timestamptz[], $13::timestamptz[],
                             $14::timestamptz[]) a
        ON CONFLICT (id) DO NOTHING RETURNING id";
    PLANNED_MESSAGES = "
        SELECT a.place, m.recipient_phone IS NOT DISTINCT FROM a.phone
               AND m.content = a.content AS is_same
        FROM unnest($1::uuid[], $2::text[], $3::text[]) WITH ORDINALITY
             AS a(id, phone, content, place) JOIN messages m ON m.id = a.id";
    PLANNED_MOBILES = "
        SELECT id, phone FROM mobile_users WHERE id = ANY ($1)
        UNION SELECT id, phone FROM mobile_users WHERE phone = ANY ($2)";
    KNOWN_USERS = "SELECT id FROM business_users WHERE id = ANY ($1)";
    MOBILES = "
        INSERT INTO mobile_users (id, phone, status, created_at, email)
        SELECT * FROM unnest($1::uuid[], $2::text[], $3::int2[], $4::timestamptz[], $5::text[])
        ON CONFLICT DO NOTHING RETURNING phone";
}

/// A message of another system, stored as a one-way message.
#[derive(Clone, Debug)]
pub struct ImportedMessage {
    /// The id in that system, or one derived from it.
    pub id: MessageId,
    pub sender: UserId,
    pub recipient: Phone,
    pub subject: Option<String>,
    pub content: String,
    pub status: Status,
    pub priority: Priority,
    pub retry_count: i16,
    pub failure_reason: Option<String>,
    pub created_at: OffsetDateTime,
    pub sent_at: Option<OffsetDateTime>,
    pub delivered_at: Option<OffsetDateTime>,
    pub read_at: Option<OffsetDateTime>,
}

/// Records an import of messages.
pub async fn begin(
    client: &impl Statements,
    id: Uuid,
    import: &MessageImport,
) -> Result<(), Error> {
    client.execute(&BEGIN, &[&id, &import.at, &import.by, &import.file]).await?;
    Ok(())
}

/// Whether this import exists and was started by `by`.
pub async fn is_begun(client: &impl Statements, id: Uuid, by: &str) -> Result<bool, Error> {
    Ok(client.query_one(&IS_BEGUN, &[&id, &by]).await?.try_get("is_begun")?)
}

/// The result for a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportResult {
    /// The row is stored now, or would be.
    New,
    /// The row was imported before.
    There,
    /// The row cannot be stored.
    Refused(String),
}

/// The results of rows by their keys. Of two rows with the same key, the second was imported before.
fn fates<K: Clone + Eq + Hash>(keys: &[K], is_new: impl Fn(&K) -> bool) -> Vec<ImportResult> {
    let mut seen = HashSet::new();
    keys.iter()
        .map(|key| {
            if seen.insert(key.clone()) && is_new(key) {
                ImportResult::New
            } else {
                ImportResult::There
            }
        })
        .collect()
}

/// Reasons to reject a row whose id is taken by other data.
const OTHER_MESSAGE: &str = "its id belongs to another message, with another recipient or text";
const OTHER_NUMBER: &str = "its id belongs to another mobile user, with another number";

/// The results that importing messages would have.
pub async fn planned_messages(
    client: &impl Statements,
    batch: &[ImportedMessage],
) -> Result<Vec<ImportResult>, Error> {
    let ids: Vec<Uuid> = batch.iter().map(|message| message.id.0).collect();
    let phones: Vec<&str> = batch.iter().map(|message| message.recipient.as_str()).collect();
    let contents: Vec<&str> = batch.iter().map(|message| message.content.as_str()).collect();
    let mut stored: HashMap<i64, bool> = HashMap::new();
    for row in client.query(&PLANNED_MESSAGES, &[&ids, &phones, &contents]).await? {
        stored.insert(row.try_get("place")?, row.try_get("is_same")?);
    }
    let mut first: HashMap<MessageId, &ImportedMessage> = HashMap::new();
    let mut fates = Vec::with_capacity(batch.len());
    for (place, message) in (1..).zip(batch) {
        let before = first
            .get(&message.id)
            .map(|first| first.recipient == message.recipient && first.content == message.content);
        first.entry(message.id).or_insert(message);
        fates.push(match stored.get(&place).copied().or(before) {
            None => ImportResult::New,
            Some(true) => ImportResult::There,
            Some(false) => ImportResult::Refused(OTHER_MESSAGE.to_owned()),
        });
    }
    Ok(fates)
}

/// The results that importing mobile users would have.
pub async fn planned_mobiles(
    client: &impl Statements,
    batch: &[MobileUser],
) -> Result<Vec<ImportResult>, Error> {
    let ids: Vec<Uuid> = batch.iter().map(|user| user.id.0).collect();
    let phones: Vec<&str> = batch.iter().map(|user| user.phone.as_str()).collect();
    let (mut known_ids, mut known_phones) = (HashSet::new(), HashSet::new());
    for row in client.query(&PLANNED_MOBILES, &[&ids, &phones]).await? {
        known_ids.insert(row.try_get::<_, Uuid>("id")?);
        known_phones.insert(Phone::from_stored(row.try_get("phone")?));
    }
    let fate = |user: &MobileUser| {
        if known_phones.contains(&user.phone) {
            return ImportResult::There;
        }
        if !known_ids.insert(user.id.0) {
            return ImportResult::Refused(OTHER_NUMBER.to_owned());
        }
        known_phones.insert(user.phone.clone());
        ImportResult::New
    };
    Ok(batch.iter().map(fate).collect())
}

/// Those rows that are new.
fn new_of<T: Clone>(batch: &[T], fates: &[ImportResult]) -> Vec<T> {
    let new = batch.iter().zip(fates).filter(|(_, fate)| **fate == ImportResult::New);
    new.map(|(row, _)| row.clone()).collect()
}

/// Merges the results of the new rows into the results of all.
fn completed(mut planned: Vec<ImportResult>, stored: Vec<ImportResult>) -> Vec<ImportResult> {
    let new = planned.iter_mut().filter(|fate| **fate == ImportResult::New);
    new.zip(stored).for_each(|(fate, became)| *fate = became);
    planned
}

/// Stores messages that do not exist yet. A row that the database rejects does not affect the others.
///
/// # Errors
/// The database is unreachable; the transaction is then lost.
pub async fn messages(
    transaction: &mut Transaction<'_>,
    import: Uuid,
    batch: &[ImportedMessage],
) -> Result<Vec<ImportResult>, Error> {
    let planned = planned_messages(transaction, batch).await?;
    let new = new_of(batch, &planned);
    let stored = each(transaction, Rows::Messages(import, &new)).await?;
    Ok(completed(planned, stored))
}

/// Stores mobile users that do not exist yet, by id or number. A row that the database rejects does not
/// affect the others.
///
/// # Errors
/// The database is unreachable; the transaction is then lost.
pub async fn mobiles(
    transaction: &mut Transaction<'_>,
    batch: &[MobileUser],
) -> Result<Vec<ImportResult>, Error> {
    let planned = planned_mobiles(transaction, batch).await?;
    let stored = each(transaction, Rows::Mobiles(&new_of(batch, &planned))).await?;
    Ok(completed(planned, stored))
}

#[derive(Clone, Copy)]
enum Rows<'a> {
    Messages(Uuid, &'a [ImportedMessage]),
    Mobiles(&'a [MobileUser]),
}

impl<'a> Rows<'a> {
    /// The key of each row.
    fn keys(self) -> Vec<String> {
        match self {
            Rows::Messages(_, batch) => batch.iter().map(|m| m.id.to_string()).collect(),
            Rows::Mobiles(batch) => batch.iter().map(|u| u.phone.as_str().to_owned()).collect(),
        }
    }

    fn alone(self) -> Vec<Rows<'a>> {
        match self {
            Rows::Messages(import, batch) => {
                batch.chunks(1).map(|one| Rows::Messages(import, one)).collect()
            }
            Rows::Mobiles(batch) => batch.chunks(1).map(Rows::Mobiles).collect(),
        }
    }

    /// Inserts all rows in one statement; returns the keys of the new ones.
    async fn insert(self, to: &Transaction<'_>) -> Result<HashSet<String>, Error> {
        Ok(match self {
            Rows::Messages(import, batch) => {
                let new = insert_messages(to, import, batch).await?;
                new.iter().map(ToString::to_string).collect()
            }
            Rows::Mobiles(batch) => {
                let new = insert_mobiles(to, batch).await?;
                new.iter().map(|phone| phone.as_str().to_owned()).collect()
            }
        })
    }
}

/// Inserts all rows in one statement; if the database rejects that, one by one.
async fn each(
    transaction: &mut Transaction<'_>,
    rows: Rows<'_>,
) -> Result<Vec<ImportResult>, Error> {
    let point = transaction.transaction().await?;
    match rows.insert(&point).await {
        Ok(new) => {
            point.commit().await?;
            return Ok(fates(&rows.keys(), |key| new.contains(key)));
        }
        Err(error) if error.is_transient() => return Err(error),
        Err(_) => point.rollback().await?,
    }
    let mut fates = Vec::new();
    for one in rows.alone() {
        let point = transaction.transaction().await?;
        fates.push(match one.insert(&point).await {
            Ok(new) => {
                point.commit().await?;
                if new.is_empty() { ImportResult::There } else { ImportResult::New }
            }
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                point.rollback().await?;
                ImportResult::Refused(error.to_string())
            }
        });
    }
    Ok(fates)
}

async fn insert_messages(
    client: &Transaction<'_>,
    import: Uuid,
    batch: &[ImportedMessage],
) -> Result<Vec<MessageId>, Error> {
    fn column<'a, T>(
        batch: &'a [ImportedMessage],
        value: impl Fn(&'a ImportedMessage) -> T,
    ) -> Vec<T> {
        batch.iter().map(value).collect()
    }
    let rows = client
        .query(
            &MESSAGES,
            &[
                &column(batch, |m| m.id.0),
                &column(batch, |m| m.sender.0),
                &column(batch, |m| m.recipient.as_str()),
                &column(batch, |m| m.subject.as_deref()),
                &column(batch, |m| m.content.as_str()),
                &column(batch, |m| m.status as i16),
                &column(batch, |m| m.priority as i16),
                &column(batch, |m| partitions::of_recipient(&Party::Mobile(m.recipient.clone()))),
                &column(batch, |m| m.retry_count),
                &column(batch, |m| m.failure_reason.as_deref()),
                &column(batch, |m| m.created_at),
                &column(batch, |m| m.sent_at),
                &column(batch, |m| m.delivered_at),
                &column(batch, |m| m.read_at),
                &import,
            ],
        )
        .await?;
    rows.iter().map(|row| Ok(MessageId(row.try_get("id")?))).collect()
}

/// Which of these are business users.
pub async fn known_users(client: &Client, ids: &[UserId]) -> Result<Vec<UserId>, Error> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = client.query(&KNOWN_USERS, &[&ids]).await?;
    rows.iter().map(|row| Ok(UserId(row.try_get("id")?))).collect()
}

async fn insert_mobiles(
    client: &Transaction<'_>,
    batch: &[MobileUser],
) -> Result<Vec<Phone>, Error> {
    let ids: Vec<Uuid> = batch.iter().map(|user| user.id.0).collect();
    let phones: Vec<&str> = batch.iter().map(|user| user.phone.as_str()).collect();
    let statuses: Vec<i16> = batch.iter().map(|user| user.status as i16).collect();
    let times: Vec<OffsetDateTime> = batch.iter().map(|user| user.created_at).collect();
    let emails: Vec<Option<&str>> = batch.iter().map(|user| user.email.as_deref()).collect();
    let rows = client.query(&MOBILES, &[&ids, &phones, &statuses, &times, &emails]).await?;
    rows.iter().map(|row| Ok(Phone::from_stored(row.try_get("phone")?))).collect()
}

impl MobileStatus {
    /// The status of a stored number.
    pub fn from_number(number: i16) -> Option<MobileStatus> {
        match number {
            0 => Some(MobileStatus::Pending),
            1 => Some(MobileStatus::Verified),
            2 => Some(MobileStatus::Rejected),
            _ => None,
        }
    }
}
