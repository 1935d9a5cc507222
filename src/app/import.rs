//! Taking over what the existing system has: its rows are read by the names and numbers that it gives
//! them, and stored under the ids that it gives them.

use std::collections::BTreeMap;

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
        audit::{Action, Entry},
        verdict::{FAILED_BEFORE, Import},
    },
    store::{
        accounts::{MobileStatus, MobileUser},
        audit, import,
    },
};

pub use crate::store::import::{Fate, ImportedMessage};

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

/// What rows are of.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// Messages; they become one-way.
    Messages {
        /// Which import brings them.
        under: Under<'a>,
        /// Whose those are of which no sender is told, or one that is no business user here.
        sender: Option<UserId>,
        /// How their ids become ours.
        ids: Ids,
    },
    /// Mobile users.
    Users,
}

/// The import that brings messages: their story tells of it.
#[derive(Clone, Copy, Debug)]
pub enum Under<'a> {
    /// It begins with these.
    New {
        /// The name of the file that they come from.
        file: &'a str,
    },
    /// One that the same caller began.
    Begun(Uuid),
}

/// What became of rows.
#[derive(Clone, Debug)]
pub struct Imported {
    /// What messages were imported under, for those that follow: the id of the first ones' entry in the
    /// audit log.
    pub import: Option<Uuid>,
    /// Of each, in their order.
    pub fates: Vec<Fate>,
    /// Senders that are no business users here: nobody can see what they sent but its recipients.
    pub unknown_senders: Vec<UserId>,
}

impl Imported {
    /// How many became of it what `is` says.
    pub fn count(&self, is: impl Fn(&Fate) -> bool) -> usize {
        self.fates.iter().filter(|fate| is(fate)).count()
    }
}

/// The most rows in one transaction.
pub const AT_ONCE: usize = 500;

impl App {
    /// Reads a message of the existing system (`EtMessages`). It becomes one-way; `sender` is who sent
    /// those of which no sender is told.
    ///
    /// # Errors
    /// What is wrong with the row.
    fn imported_message(
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
    fn imported_mobile(&self, row: &SourceRow) -> Result<MobileUser, String> {
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

    /// Takes rows over that are not there yet, all in one transaction with its entry in the audit log; with
    /// `dry_run` it is only looked which those are. One that cannot be stored does not keep the others from
    /// their place, and the same rows again change nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] of more than [`AT_ONCE`] rows; [`Error::NotFound`] of an import that the caller
    /// did not begin; the database is away, and nothing is stored.
    pub async fn import(
        &self,
        by: &By,
        source: Source<'_>,
        rows: &[SourceRow],
        dry_run: bool,
    ) -> Result<Imported, Error> {
        if rows.len() > AT_ONCE {
            let message = format!("at most {AT_ONCE} rows at once");
            return Err(Error::field("rows", "too_many", message));
        }
        match source {
            Source::Messages { under, sender, ids } => {
                let read = rows.iter().map(|row| self.imported_message(row, sender, ids));
                let (mut messages, refused) = parted(read);
                let unknown = self.settle_senders(&mut messages, sender).await?;
                let (fates, import) = if dry_run {
                    (self.would_be_new(&messages).await?, None)
                } else {
                    self.import_messages(by, under, &messages, refused.len()).await?
                };
                Ok(Imported { import, fates: merged(fates, refused), unknown_senders: unknown })
            }
            Source::Users => {
                let (users, refused) = parted(rows.iter().map(|row| self.imported_mobile(row)));
                let fates = if dry_run {
                    let phones: Vec<Phone> = users.iter().map(|user| user.phone.clone()).collect();
                    let client = self.store().client().await?;
                    let there = import::stored_mobiles(&client, &phones).await?;
                    import::fates(&phones, |phone| !there.contains(phone))
                } else {
                    self.import_mobiles(by, &users, refused.len()).await?
                };
                let fates = merged(fates, refused);
                Ok(Imported { import: None, fates, unknown_senders: Vec::new() })
            }
        }
    }

    async fn would_be_new(&self, messages: &[ImportedMessage]) -> Result<Vec<Fate>, Error> {
        let ids: Vec<MessageId> = messages.iter().map(|message| message.id).collect();
        let there = import::stored_messages(&self.store().client().await?, &ids).await?;
        Ok(import::fates(&ids, |id| !there.contains(id)))
    }

    async fn import_messages(
        &self,
        by: &By,
        under: Under<'_>,
        messages: &[ImportedMessage],
        refused: usize,
    ) -> Result<(Vec<Fate>, Option<Uuid>), Error> {
        let entry = self.entry(by, Action::MessageImport);
        let actor = entry.actor.name().map_or_else(|| entry.actor.id(), str::to_owned);
        let mut client = self.store().client().await?;
        let mut transaction = audit::begin(&mut client).await?;
        let (id, entry) = match under {
            Under::New { file } => {
                let import = Import { at: entry.at, by: actor, file: file.to_owned() };
                import::begin(&transaction, entry.id, &import).await?;
                (entry.id, entry.with("file", file))
            }
            Under::Begun(id) => {
                if !import::is_begun(&transaction, id, &actor).await? {
                    drop(transaction);
                    drop(client);
                    return self.record_end(entry, Err(Error::NotFound("import"))).await;
                }
                (id, entry.with("import", id.to_string()))
            }
        };
        let fates = import::messages(&mut transaction, id, messages).await?;
        audit::commit(transaction, &[imported(entry, &fates, refused)]).await?;
        Ok((fates, Some(id)))
    }

    async fn import_mobiles(
        &self,
        by: &By,
        users: &[MobileUser],
        refused: usize,
    ) -> Result<Vec<Fate>, Error> {
        let mut client = self.store().client().await?;
        let mut transaction = audit::begin(&mut client).await?;
        let fates = import::mobiles(&mut transaction, users).await?;
        let entry = imported(self.entry(by, Action::UserImport), &fates, refused);
        audit::commit(transaction, &[entry]).await?;
        Ok(fates)
    }

    /// What is of nobody here becomes `heir`'s; without one, it is told whose it is.
    async fn settle_senders(
        &self,
        messages: &mut [ImportedMessage],
        heir: Option<UserId>,
    ) -> Result<Vec<UserId>, Error> {
        let mut senders: Vec<UserId> = messages.iter().map(|message| message.sender).collect();
        senders.sort();
        senders.dedup();
        if senders.is_empty() {
            return Ok(senders);
        }
        let there = import::known_users(&self.store().client().await?, &senders).await?;
        senders.retain(|id| !there.contains(id));
        let Some(heir) = heir else { return Ok(senders) };
        for message in messages {
            if senders.contains(&message.sender) {
                message.sender = heir;
            }
        }
        Ok(Vec::new())
    }
}

/// Rows that were read, and the places of those that were not, with why.
fn parted<T>(read: impl Iterator<Item = Result<T, String>>) -> (Vec<T>, Vec<(usize, String)>) {
    let (mut good, mut refused) = (Vec::new(), Vec::new());
    for (place, row) in read.enumerate() {
        match row {
            Ok(row) => good.push(row),
            Err(reason) => refused.push((place, reason)),
        }
    }
    (good, refused)
}

/// The fates of all rows in their order, of those that were stored and those that were refused.
fn merged(stored: Vec<Fate>, refused: Vec<(usize, String)>) -> Vec<Fate> {
    let mut all = stored;
    for (place, reason) in refused {
        all.insert(place.min(all.len()), Fate::Refused(reason));
    }
    all
}

fn imported(entry: Entry, fates: &[Fate], refused: usize) -> Entry {
    let count = |is: fn(&Fate) -> bool| fates.iter().filter(|fate| is(fate)).count();
    entry
        .with("imported", count(|fate| *fate == Fate::New))
        .with("alreadyThere", count(|fate| *fate == Fate::There))
        .with("rejected", refused + count(|fate| matches!(fate, Fate::Refused(_))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_rows_stand_where_they_were_read() {
        let read = [Ok(1), Err("a"), Ok(2), Err("b"), Err("c")];
        let (good, refused) = parted(read.into_iter().map(|row| row.map_err(str::to_owned)));
        assert_eq!(good, [1, 2]);
        let why = |text: &str| Fate::Refused(text.to_owned());
        let all = merged(vec![Fate::New, Fate::There], refused);
        assert_eq!(all, [Fate::New, why("a"), Fate::There, why("b"), why("c")]);
    }

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
