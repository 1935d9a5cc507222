//! Taking over what the existing system has: its rows are read by the names and numbers that it gives
//! them, and stored under the ids that it gives them.

mod row;

use std::time::Duration;

use ring::digest::{SHA256, digest};
use time::OffsetDateTime;
use uuid::Uuid;

use super::AdminService;
use crate::app::{By, Error, blocking::run_blocking};
use crate::{
    domain::{
        MessageId, MobileUserId, Phone, Priority, Status, UserId,
        audit::{AuditAction, AuditEntry},
        mail_address::is_mail_address,
        verdict::{FAILED_BEFORE, MessageImport},
    },
    store::{
        accounts::{MobileStatus, MobileUser},
        audit, import,
    },
};

pub use self::row::{Columns, MESSAGES, SourceRow, USERS, column_name};
pub use crate::store::import::{ImportResult, ImportedMessage};

/// The longest content and subject that are taken, in characters.
const MAX_CONTENT_LEN: usize = 10_000;
const MAX_SUBJECT_LEN: usize = 200;
const MAX_REASON_LEN: usize = 500;
/// More retries than this no message has.
const MAX_RETRIES: i16 = 6;
/// Clocks differ, and times without an offset are not always UTC: no time is refused that is ahead by less.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(86_400);

/// As how many bytes a row counts for the time that it takes to read.
const ROW_LEN: usize = 1024;

/// How ids of the existing system become ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportIds {
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

#[derive(Clone, Copy, Debug)]
pub enum ImportSource<'a> {
    /// Messages; they become one-way.
    Messages {
        /// Which import brings them.
        under: Under<'a>,
        /// Whose those are of which no sender is told, or one that is no business user here.
        sender: Option<UserId>,
        /// How their ids become ours.
        ids: ImportIds,
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

#[derive(Clone, Debug)]
pub struct Imported {
    /// What messages were imported under, for those that follow: the id of the first ones' entry in the
    /// audit log.
    pub import: Option<Uuid>,
    /// Of each, in their order.
    pub fates: Vec<ImportResult>,
    /// Senders that are no business users here: nobody can see what they sent but its recipients.
    pub unknown_senders: Vec<UserId>,
}

impl Imported {
    /// How many became of it what `is` says.
    pub fn count(&self, is: impl Fn(&ImportResult) -> bool) -> usize {
        self.fates.iter().filter(|fate| is(fate)).count()
    }
}

/// The most rows in one transaction.
pub const BATCH_SIZE: usize = 500;

impl AdminService {
    /// Reads a message of the existing system (`EtMessages`). It becomes one-way; `sender` is who sent
    /// those of which no sender is told.
    ///
    /// # Errors
    /// What is wrong with the row.
    fn imported_message(
        &self,
        row: &SourceRow,
        sender: Option<UserId>,
        ids: ImportIds,
    ) -> Result<ImportedMessage, String> {
        let source = row.id()?;
        let latest = self.core.clock().now() + MAX_CLOCK_SKEW;
        let created_at =
            row.time("creationtime", latest)?.ok_or_else(|| match row.get("creationtime") {
                Some(_) => "creationtime is missing: it is of the year 1, which means none",
                None => "creationtime is missing",
            })?;
        let id = match (source.parse::<MessageId>(), ids) {
            (Ok(id), ImportIds::Keep) => id,
            (Ok(id), ImportIds::Derive) => {
                MessageId(derived("messages", &id.to_string(), created_at))
            }
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
        let (delivered, read) = (row.time("deliveredat", latest)?, row.time("readat", latest)?);
        let delivered_at = matches!(status, Status::Delivered | Status::Read)
            .then(|| delivered.or(read).unwrap_or(created_at));
        let reason = row.get("failurereason").map(|reason| format!("{FAILED_BEFORE}: {reason}"));
        let reason = reason.unwrap_or_else(|| FAILED_BEFORE.to_owned()).replace('\0', " ");
        Ok(ImportedMessage {
            id,
            sender,
            recipient: self.imported_phone(row, "recipientphonenumber")?,
            subject: row.text("subject", MAX_SUBJECT_LEN)?,
            content: row.content("messagecontent", MAX_CONTENT_LEN)?,
            status,
            priority,
            // What still waits has all its tries before it.
            retry_count: match row.number("retrycount")?.unwrap_or(0) {
                count if finished => {
                    i16::try_from(count.max(0)).map_or(MAX_RETRIES, |n| n.min(MAX_RETRIES))
                }
                _ => 0,
            },
            failure_reason: (status == Status::Failed)
                .then(|| reason.chars().take(MAX_REASON_LEN).collect()),
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
        let source = row.id()?;
        let now = self.core.clock().now();
        let created_at = row.time("creationtime", now + MAX_CLOCK_SKEW)?.unwrap_or(now);
        let status = row.number("status")?.unwrap_or(0);
        let id = source
            .parse()
            .unwrap_or_else(|_| MobileUserId(derived("users", source, OffsetDateTime::UNIX_EPOCH)));
        Ok(MobileUser {
            blocked_at: None,
            id,
            phone: self.imported_phone(row, "mobilenumber")?,
            status: i16::try_from(status)
                .ok()
                .and_then(MobileStatus::from_number)
                .ok_or_else(|| format!("status {status} is not known"))?,
            created_at,
            email: match row.get("email").map(str::trim).filter(|text| !text.is_empty()) {
                Some(text) if is_mail_address(text) => Some(text.to_owned()),
                Some(_) => return Err("email is not a mail address".to_owned()),
                None => None,
            },
        })
    }

    /// The existing system stores country code and digits, without a plus sign.
    fn imported_phone(&self, row: &SourceRow, name: &str) -> Result<Phone, String> {
        let text = row.get(name).ok_or_else(|| format!("{name} is missing"))?;
        Phone::parse_stored(text, self.core.settings().default_region)
            .map_err(|why| format!("{name} {why}"))
    }

    /// Takes rows over that are not there yet, all in one transaction with its entry in the audit log; with
    /// `dry_run` it is only looked which those are. One that cannot be stored does not keep the others from
    /// their place, and the same rows again change nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] of more than [`BATCH_SIZE`] rows; [`Error::NotFound`] of an import that the caller
    /// did not begin; the database is away, and nothing is stored.
    pub async fn import(
        &self,
        by: &By,
        source: ImportSource<'_>,
        rows: &[SourceRow],
        dry_run: bool,
    ) -> Result<Imported, Error> {
        if rows.len() > BATCH_SIZE {
            let message = format!("at most {BATCH_SIZE} rows at once");
            return Err(Error::field("rows", "too_many", message));
        }
        match source {
            ImportSource::Messages { under, sender, ids } => {
                let read = rows.iter().map(|row| self.imported_message(row, sender, ids));
                let (mut messages, refused) = run_blocking(rows.len() * ROW_LEN, || parted(read));
                let unknown = self.settle_senders(&mut messages, sender).await?;
                let (fates, import) = if dry_run {
                    let client = self.core.store().client().await?;
                    (import::planned_messages(&client, &messages).await?, None)
                } else {
                    self.import_messages(by, under, &messages, refused.len()).await?
                };
                Ok(Imported { import, fates: merged(fates, refused), unknown_senders: unknown })
            }
            ImportSource::Users => {
                let read = rows.iter().map(|row| self.imported_mobile(row));
                let (users, refused) = run_blocking(rows.len() * ROW_LEN, || parted(read));
                let fates = if dry_run {
                    import::planned_mobiles(&self.core.store().client().await?, &users).await?
                } else {
                    self.import_mobiles(by, &users, refused.len()).await?
                };
                let fates = merged(fates, refused);
                Ok(Imported { import: None, fates, unknown_senders: Vec::new() })
            }
        }
    }

    async fn import_messages(
        &self,
        by: &By,
        under: Under<'_>,
        messages: &[ImportedMessage],
        refused: usize,
    ) -> Result<(Vec<ImportResult>, Option<Uuid>), Error> {
        let entry = self.core.entry(by, AuditAction::MessageImport);
        let actor = entry.actor.name().map_or_else(|| entry.actor.id(), str::to_owned);
        let mut client = self.core.store().client().await?;
        let mut transaction = audit::begin(&mut client).await?;
        let (id, entry) = match under {
            Under::New { file } => {
                let import = MessageImport { at: entry.at, by: actor, file: file.to_owned() };
                import::begin(&transaction, entry.id, &import).await?;
                (entry.id, entry.with("file", file))
            }
            Under::Begun(id) => {
                if !import::is_begun(&transaction, id, &actor).await? {
                    drop(transaction);
                    drop(client);
                    return self.core.record_end(entry, Err(Error::NotFound("import"))).await;
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
    ) -> Result<Vec<ImportResult>, Error> {
        let mut client = self.core.store().client().await?;
        let mut transaction = audit::begin(&mut client).await?;
        let fates = import::mobiles(&mut transaction, users).await?;
        let entry = imported(self.core.entry(by, AuditAction::UserImport), &fates, refused);
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
        let there = import::known_users(&self.core.store().client().await?, &senders).await?;
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
fn merged(stored: Vec<ImportResult>, refused: Vec<(usize, String)>) -> Vec<ImportResult> {
    let mut all = stored;
    for (place, reason) in refused {
        all.insert(place.min(all.len()), ImportResult::Refused(reason));
    }
    all
}

fn imported(entry: AuditEntry, fates: &[ImportResult], refused: usize) -> AuditEntry {
    let count = |is: fn(&ImportResult) -> bool| fates.iter().filter(|fate| is(fate)).count();
    entry
        .with("imported", count(|fate| *fate == ImportResult::New))
        .with("alreadyThere", count(|fate| *fate == ImportResult::There))
        .with("rejected", refused + count(|fate| matches!(fate, ImportResult::Refused(_))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_rows_stand_where_they_were_read() {
        let read = [Ok(1), Err("a"), Ok(2), Err("b"), Err("c")];
        let (good, refused) = parted(read.into_iter().map(|row| row.map_err(str::to_owned)));
        assert_eq!(good, [1, 2]);
        let why = |text: &str| ImportResult::Refused(text.to_owned());
        let all = merged(vec![ImportResult::New, ImportResult::There], refused);
        assert_eq!(all, [ImportResult::New, why("a"), ImportResult::There, why("b"), why("c")]);
    }

    #[test]
    fn derived_ids_are_the_same_from_the_same_and_sort_by_time() {
        let at = |seconds| OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds);
        assert_eq!(derived("messages", "7", at(1)), derived("messages", "7", at(1)));
        assert_ne!(derived("messages", "7", at(1)), derived("users", "7", at(1)));
        assert!(derived("messages", "9", at(1)) < derived("messages", "1", at(2)));
        assert_eq!(derived("messages", "7", at(1)).get_version_num(), 8);
    }
}
