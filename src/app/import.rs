//! Taking over what the existing system has: its rows are read by the names and numbers that it gives
//! them, and stored under the ids that it gives them.

use std::collections::{BTreeMap, HashSet};

use ring::digest::{SHA256, digest};
use time::{
    OffsetDateTime, PrimitiveDateTime,
    format_description::{BorrowedFormatItem, well_known::Iso8601},
    macros::format_description,
};
use uuid::Uuid;

use super::{App, By, Error};
use crate::{
    domain::{
        MessageId, MobileUserId, Phone, Priority, Status, UserId,
        audit::{Action, Outcome},
        verdict::{FAILED_BEFORE, Import},
    },
    store::{
        self,
        accounts::{MobileStatus, MobileUser},
        audit, import,
    },
};

pub use crate::store::import::ImportedMessage;

/// The longest content and subject that are taken, in characters.
const LONGEST_CONTENT: usize = 10_000;
const LONGEST_SUBJECT: usize = 200;
const LONGEST_REASON: usize = 500;
/// More retries than this no message has.
const MOST_RETRIES: i16 = 6;

/// A row of the existing system: values by the names of their columns.
#[derive(Clone, Debug, Default)]
pub struct SourceRow(BTreeMap<String, String>);

impl SourceRow {
    /// Puts a value under a column's name; neither case nor underscores matter. What is empty, or the word
    /// that tools write for a missing value, is none.
    pub fn put(&mut self, column: &str, value: &str) {
        let name = column.trim().replace(['_', ' '], "").to_lowercase();
        if !value.trim().is_empty() && value != "NULL" && value != "\\N" {
            self.0.insert(name, value.to_owned());
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn text(&self, name: &str, most: usize) -> Result<Option<String>, String> {
        let Some(text) = self.get(name) else { return Ok(None) };
        if text.contains('\0') {
            return Err(format!("{name} has a NUL character"));
        }
        if text.chars().count() > most {
            return Err(format!("{name} is longer than {most} characters"));
        }
        Ok(Some(text.to_owned()))
    }

    fn number(&self, name: &str) -> Result<Option<i16>, String> {
        let parse = |text: &str| text.trim().parse().map_err(|_| format!("{name} is no number"));
        self.get(name).map(parse).transpose()
    }

    fn time(&self, name: &str) -> Result<Option<OffsetDateTime>, String> {
        let parse = |text: &str| moment(text).ok_or_else(|| format!("{name} is no time"));
        self.get(name).map(parse).transpose()
    }
}

/// A time as databases export it; without an offset it is UTC.
fn moment(text: &str) -> Option<OffsetDateTime> {
    const PLAIN: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
    let text = text.trim().replacen(' ', "T", 1);
    // "… +03:00", with a space before the offset.
    let text = text.replace(' ', "");
    if let Ok(time) = OffsetDateTime::parse(&text, &Iso8601::PARSING) {
        return Some(time);
    }
    if let Ok(time) = PrimitiveDateTime::parse(&text, &Iso8601::PARSING) {
        return Some(time.assume_utc());
    }
    PrimitiveDateTime::parse(&text, PLAIN).ok().map(PrimitiveDateTime::assume_utc)
}

/// How ids of the existing system become ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// They are kept, where they are UUIDs.
    Keep,
    /// New ones are made from them that sort by time, the same from the same.
    Derive,
}

/// An id made from another one and a time: the same from the same, and in the order of times.
fn derived(kind: &str, source: &str, at: OffsetDateTime) -> Uuid {
    let hash = digest(&SHA256, format!("esh3ar import\n{kind}\n{source}").as_bytes());
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(hash.as_ref()).for_each(|(byte, from)| *byte = *from);
    let millis = u64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
    bytes.iter_mut().zip(&millis.to_be_bytes()[2..]).for_each(|(byte, from)| *byte = *from);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is stored now, or would be.
    New,
    /// It was there before.
    There,
    /// It cannot be stored.
    Refused(String),
}

impl App {
    /// Reads a message of the existing system (`EtMessages`). It becomes one-way; `sender` is who sent
    /// those of which no sender is told.
    ///
    /// # Errors
    /// What is wrong with the row.
    pub fn imported_message(
        &self,
        row: &SourceRow,
        sender: Option<UserId>,
        ids: Ids,
    ) -> Result<ImportedMessage, String> {
        let source = row.get("id").ok_or("id is missing")?.trim();
        let created_at = row.time("creationtime")?.ok_or("creationtime is missing")?;
        if created_at > self.clock().now() + std::time::Duration::from_secs(86_400) {
            return Err("creationtime is in the future".to_owned());
        }
        let id = match (source.parse::<MessageId>(), ids) {
            (Ok(id), Ids::Keep) => id,
            (Ok(id), Ids::Derive) => MessageId(derived("messages", &id.to_string(), created_at)),
            (Err(_), _) => MessageId(derived("messages", source, created_at)),
        };
        if row.get("senderphonenumber").is_some() && row.get("creatorid").is_none() {
            return Err("a mobile user sent it: that cannot become a one-way message".to_owned());
        }
        let creator = row.get("creatorid").map(|text| {
            text.trim().parse::<UserId>().map_err(|_| "creatorid is no UUID".to_owned())
        });
        let sender = creator
            .transpose()?
            .or(sender)
            .ok_or("creatorid is missing; say whose it is with --from")?;
        let status = match row.number("status")?.unwrap_or(0) {
            0 | 4 => Status::Pending,
            1 => Status::Sent,
            2 => Status::Delivered,
            3 => Status::Read,
            5 => Status::Failed,
            other => return Err(format!("status {other} is not known")),
        };
        let priority = match row.number("priority")?.unwrap_or(2) {
            0 | 1 => Priority::Low,
            2 => Priority::Normal,
            3 | 4 => Priority::High,
            other => return Err(format!("priority {other} is not known")),
        };
        let finished = status >= Status::Delivered;
        let (delivered, read) = (row.time("deliveredat")?, row.time("readat")?);
        let delivered_at = matches!(status, Status::Delivered | Status::Read)
            .then(|| delivered.or(read).unwrap_or(created_at));
        let reason = row.get("failurereason").map(|reason| format!("{FAILED_BEFORE}: {reason}"));
        let reason = reason.unwrap_or_else(|| FAILED_BEFORE.to_owned()).replace('\0', " ");
        Ok(ImportedMessage {
            id,
            sender,
            recipient: self.imported_phone(row, "recipientphonenumber")?,
            subject: row.text("subject", LONGEST_SUBJECT)?,
            content: row.text("messagecontent", LONGEST_CONTENT)?.unwrap_or_default(),
            status,
            priority,
            // What still waits has all its tries before it.
            retry_count: match row.number("retrycount")?.unwrap_or(0) {
                count if finished => count.clamp(0, MOST_RETRIES),
                _ => 0,
            },
            failure_reason: (status == Status::Failed)
                .then(|| reason.chars().take(LONGEST_REASON).collect()),
            created_at,
            sent_at: (status != Status::Pending).then_some(delivered_at.unwrap_or(created_at)),
            delivered_at,
            read_at: (status == Status::Read).then(|| read.or(delivered_at).unwrap_or(created_at)),
        })
    }

    /// Reads a mobile user of the existing system (`EtMobileUsers`).
    ///
    /// # Errors
    /// What is wrong with the row.
    pub fn imported_mobile(&self, row: &SourceRow) -> Result<MobileUser, String> {
        let source = row.get("id").ok_or("id is missing")?.trim();
        let created_at = row.time("creationtime")?.unwrap_or_else(|| self.clock().now());
        let status = row.number("status")?.unwrap_or(0);
        let id = source
            .parse()
            .unwrap_or_else(|_| MobileUserId(derived("users", source, OffsetDateTime::UNIX_EPOCH)));
        Ok(MobileUser {
            id,
            phone: self.imported_phone(row, "mobilenumber")?,
            status: MobileStatus::from_number(status)
                .ok_or_else(|| format!("status {status} is not known"))?,
            created_at,
        })
    }

    /// The existing system stores country code and digits, without a plus sign.
    fn imported_phone(&self, row: &SourceRow, name: &str) -> Result<Phone, String> {
        let text = row.get(name).ok_or_else(|| format!("{name} is missing"))?.trim();
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let whole = digits.then(|| Phone::parse(&format!("+{text}"), None).ok()).flatten();
        match whole {
            Some(phone) => Ok(phone),
            None => Phone::parse(text, self.settings().default_region)
                .map_err(|why| format!("{name} {why}")),
        }
    }

    /// Notes that messages of a file are about to be imported, and records it in the audit log. Gives what
    /// they are to be imported under, which is the id of that entry.
    ///
    /// # Errors
    /// Failures of the database; then it must not be begun.
    pub async fn begin_import(&self, by: &By, file: &str) -> Result<Uuid, Error> {
        let entry = self.entry(by, Action::MessageImport).with("begun", true).with("file", file);
        let import = Import { at: entry.at, by: entry.actor.id(), file: file.to_owned() };
        let id = entry.id;
        let mut client = self.store().client().await?;
        let transaction = audit::begin(&mut client).await?;
        import::begin(&transaction, id, &import).await?;
        audit::commit(transaction, &[entry]).await?;
        Ok(id)
    }

    /// Stores messages that are not there yet, as brought by an import, or without one only looks which
    /// those are. One that the database refuses does not keep the others from their place.
    ///
    /// # Errors
    /// The database is away; what was stored before stays stored.
    pub async fn import_messages(
        &self,
        batch: &[ImportedMessage],
        import: Option<Uuid>,
    ) -> Result<Vec<Fate>, Error> {
        let client = self.store().client().await?;
        let ids: Vec<MessageId> = batch.iter().map(|message| message.id).collect();
        let Some(import) = import else {
            let there = import::stored_messages(&client, &ids).await?;
            return Ok(fates(&ids, |id| !there.contains(id)));
        };
        match import::messages(&client, import, batch).await {
            Ok(new) => {
                let new: HashSet<MessageId> = new.into_iter().collect();
                Ok(fates(&ids, |id| new.contains(id)))
            }
            Err(error) if error.is_transient() => Err(error.into()),
            Err(_) => {
                let mut fates = Vec::with_capacity(batch.len());
                for one in batch {
                    fates.push(alone(
                        import::messages(&client, import, std::slice::from_ref(one)).await,
                    )?);
                }
                Ok(fates)
            }
        }
    }

    /// Stores mobile users that are not there yet, or with `dry_run` only looks which those are.
    ///
    /// # Errors
    /// The database is away; what was stored before stays stored.
    pub async fn import_mobiles(
        &self,
        batch: &[MobileUser],
        dry_run: bool,
    ) -> Result<Vec<Fate>, Error> {
        let client = self.store().client().await?;
        let phones: Vec<Phone> = batch.iter().map(|user| user.phone.clone()).collect();
        if dry_run {
            let there = import::stored_mobiles(&client, &phones).await?;
            return Ok(fates(&phones, |phone| !there.contains(phone)));
        }
        match import::mobiles(&client, batch).await {
            Ok(new) => {
                let new: HashSet<Phone> = new.into_iter().collect();
                Ok(fates(&phones, |phone| new.contains(phone)))
            }
            Err(error) if error.is_transient() => Err(error.into()),
            Err(_) => {
                let mut fates = Vec::with_capacity(batch.len());
                for one in batch {
                    fates.push(alone(import::mobiles(&client, std::slice::from_ref(one)).await)?);
                }
                Ok(fates)
            }
        }
    }

    /// Records in the audit log that rows were taken over, and whether to the end.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn record_import(
        &self,
        by: &By,
        action: Action,
        imported: u64,
        rejected: u64,
        whole: bool,
    ) -> Result<(), Error> {
        let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let entry = self.entry(by, action);
        let entry = entry.with("imported", count(imported)).with("rejected", count(rejected));
        self.record(if whole { entry } else { entry.ended(Outcome::Failed) }).await
    }

    /// Which of these are business users.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn known_users(&self, ids: &[UserId]) -> Result<Vec<UserId>, Error> {
        Ok(import::known_users(&self.store().client().await?, ids).await?)
    }
}

/// The second of two rows with the same id was there before.
fn fates<I: Clone + Eq + std::hash::Hash>(ids: &[I], is_new: impl Fn(&I) -> bool) -> Vec<Fate> {
    let mut seen = HashSet::new();
    ids.iter()
        .map(|id| if seen.insert(id.clone()) && is_new(id) { Fate::New } else { Fate::There })
        .collect()
}

fn alone<T>(stored: Result<Vec<T>, store::Error>) -> Result<Fate, Error> {
    match stored {
        Ok(new) if new.is_empty() => Ok(Fate::There),
        Ok(_) => Ok(Fate::New),
        Err(error) if error.is_transient() => Err(error.into()),
        Err(error) => Ok(Fate::Refused(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_exports_are_read() {
        let wanted = moment("2024-05-01T10:00:00Z");
        assert!(wanted.is_some());
        for text in
            ["2024-05-01 10:00:00", "2024-05-01T13:00:00+03:00", "2024-05-01 10:00:00 +00:00"]
        {
            assert_eq!(moment(text), wanted, "{text}");
        }
        let exact = moment("2024-05-01 10:00:00.1234567");
        assert_eq!(exact.map(|time| time.nanosecond()), Some(123_456_700));
        for bad in ["", "yesterday", "2024-13-01 10:00:00", "2024-05-01 25:00:00"] {
            assert_eq!(moment(bad), None, "{bad}");
        }
    }

    #[test]
    fn derived_ids_are_the_same_from_the_same_and_sort_by_time() {
        let at = |seconds| OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds);
        assert_eq!(derived("messages", "7", at(1)), derived("messages", "7", at(1)));
        assert_ne!(derived("messages", "7", at(1)), derived("users", "7", at(1)));
        assert!(derived("messages", "9", at(1)) < derived("messages", "1", at(2)));
        assert_eq!(derived("messages", "7", at(1)).get_version_num(), 8);
    }

    #[test]
    fn columns_are_known_however_they_are_written() {
        let mut row = SourceRow::default();
        row.put("Recipient_Phone_Number", "967771234567");
        row.put("subject", "NULL");
        assert_eq!(row.get("recipientphonenumber"), Some("967771234567"));
        assert_eq!(row.get("subject"), None);
    }
}
