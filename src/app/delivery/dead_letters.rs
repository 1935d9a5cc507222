//! Dead letters: listing them, putting them back, deleting them, letting them expire.

use std::{collections::HashSet, time::Duration};

use super::DeliveryService;
use crate::{
    app::{By, Error, audit_log::Listing, clock::new_id},
    domain::{DeadLetterId, audit::AuditAction},
    store::{
        ListPage, StatementGroup, audit,
        dead_letters::{self, DeadLetter, DeadLetterFilter},
    },
};

/// How many are changed in one statement; between two of them others get their turn.
const BATCH_SIZE: usize = 200;
/// The most that one request over HTTP changes: what is left is told.
pub const MAX_CHANGES: usize = 1000;
/// A statement that stood in the way of another is tried this often.
const MAX_ATTEMPTS: u32 = 5;

/// What to do with dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetterAction {
    /// Put back: the next generation of their messages begins.
    Requeue,
    /// Delete: their messages stay failed.
    Delete,
}

/// How an action on many dead letters went.
#[derive(Clone, Debug, Default)]
pub struct BulkOutcome {
    /// How many the filter matched.
    pub matched: usize,
    /// The last that was looked at, if there may be more after it.
    pub next: Option<DeadLetterId>,
    /// Those that this call changed.
    pub changed: Vec<DeadLetterId>,
    /// Those that somebody else had changed before, or whose message has moved on.
    pub skipped: Vec<DeadLetterId>,
    /// Those that could not be changed now; the database was not there.
    pub failed: Vec<DeadLetterId>,
    /// Whether it ended before the last: the database was not there to tell which they are.
    pub broke_off: bool,
}

impl DeliveryService {
    /// Dead letters by filter, newest first.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn list_dead_letters(
        &self,
        by: &By,
        filter: &DeadLetterFilter,
        limit: usize,
    ) -> Result<Listing<DeadLetter>, Error> {
        let found = self.watch_dead_letters(by, filter, limit).await?;
        let entry = self
            .core
            .entry(by, AuditAction::DeadLetterList)
            .about(
                found.items.iter().filter_map(|letter| letter.to.as_ref()).chain(&filter.recipient),
            )
            .with("shown", found.items.len());
        self.core.record(entry).await?;
        Ok(found)
    }

    /// The same for whoever watches them: who is shown a recipient's number is to be recorded with
    /// [`AdminService::record_viewed`](crate::app::admin::AdminService::record_viewed), and everybody else must be
    /// shown it masked.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn watch_dead_letters(
        &self,
        by: &By,
        filter: &DeadLetterFilter,
        limit: usize,
    ) -> Result<Listing<DeadLetter>, Error> {
        let list = |client| async move { dead_letters::list(&client, filter, limit + 1).await };
        let found = self.core.store().of(by.party().as_ref()).read(list).await?;
        Ok(Listing::of_slice(found, limit))
    }

    /// The same from the database itself: what is found here is acted on.
    async fn dead_letters_now(
        &self,
        filter: &DeadLetterFilter,
        limit: usize,
    ) -> Result<ListPage<DeadLetter>, Error> {
        Ok(dead_letters::list(&self.core.store().client().await?, filter, limit).await?)
    }

    /// How many dead letters a filter matches.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn count_dead_letters(&self, filter: &DeadLetterFilter) -> Result<u64, Error> {
        Ok(dead_letters::count(&self.core.store().client().await?, filter).await?)
    }

    /// One dead letter.
    ///
    /// # Errors
    /// [`Error::NotFound`]; failures of the database.
    pub async fn show_dead_letter(&self, by: &By, id: DeadLetterId) -> Result<DeadLetter, Error> {
        let filter = DeadLetterFilter { ids: vec![id], ..DeadLetterFilter::default() };
        let found = self.dead_letters_now(&filter, 1).await;
        let found =
            found.and_then(|mut found| found.items.pop().ok_or(Error::NotFound("dead letter")));
        let phone = found.iter().filter_map(|letter| letter.to.as_ref());
        let entry = self.core.entry(by, AuditAction::DeadLetterShow).of(id).about(phone);
        self.core.record_end(entry, found).await
    }

    /// Does something to every dead letter that a filter matches now, at most `most` of them, oldest
    /// ids last. What is put back by several callers at once is put back once. `progress` is told how
    /// many are through.
    ///
    /// # Errors
    /// Failures of the database before anything was changed; later ones are in the outcome.
    pub async fn change_dead_letters(
        &self,
        action: DeadLetterAction,
        by: &By,
        filter: &DeadLetterFilter,
        most: usize,
        mut progress: impl FnMut(usize),
    ) -> Result<BulkOutcome, Error> {
        let mut outcome = BulkOutcome::default();
        let mut page = DeadLetterFilter { before: filter.before, ..filter.clone() };
        while outcome.matched < most {
            let limit = BATCH_SIZE.min(most - outcome.matched);
            let found = match with_retries(|| self.dead_letters_now(&page, limit)).await {
                Ok(found) => found,
                Err(error) if outcome.matched == 0 => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "the rest of the dead letters could not be read");
                    outcome.broke_off = true;
                    break;
                }
            };
            let ListPage { items: found, cut } = found;
            let mut ids: Vec<DeadLetterId> = found.iter().map(|letter| letter.id).collect();
            let last = ids.last().copied().filter(|_| ids.len() == limit);
            outcome.next = last.or(cut.map(|cut| DeadLetterId(cut.id)));
            page.before = outcome.next;
            outcome.matched += ids.len();
            // Everybody takes the rows in the same order, so that nobody waits in a circle.
            ids.sort();
            let changed = async {
                if ids.is_empty() {
                    return Ok(Vec::new());
                }
                with_retries(|| self.change(action, &ids, &found, by)).await
            };
            match changed.await {
                Ok(changed) => {
                    outcome.skipped.extend(ids.iter().filter(|id| !changed.contains(id)));
                    outcome.changed.extend(changed);
                }
                Err(_) => outcome.failed.extend(&ids),
            }
            progress(outcome.matched);
            if outcome.next.is_none() {
                break;
            }
        }
        let name = match action {
            DeadLetterAction::Requeue => "requeued",
            DeadLetterAction::Delete => "deleted",
        };
        metrics::counter!("esh3ar_dead_letters_changed_total", "action" => name)
            .increment(outcome.changed.len() as u64);
        Ok(outcome)
    }

    async fn change(
        &self,
        action: DeadLetterAction,
        ids: &[DeadLetterId],
        found: &[DeadLetter],
        by: &By,
    ) -> Result<Vec<DeadLetterId>, Error> {
        let mut client = self.core.store().client().await?;
        let transaction = audit::begin(&mut client).await?;
        let now = self.core.clock().now();
        let (audited, changed) = match action {
            DeadLetterAction::Requeue => (
                AuditAction::DeadLetterRequeue,
                dead_letters::requeue(&transaction, ids, by.told(), now).await?,
            ),
            DeadLetterAction::Delete => (
                AuditAction::DeadLetterDelete,
                dead_letters::delete(&transaction, ids, by.told(), now).await?,
            ),
        };
        let entry = self.core.entry(by, audited);
        let entry = match changed.as_slice() {
            // Somebody else did it, and is recorded.
            [] => return Ok(changed),
            [one] => entry.of(one),
            many => entry.with("ids", many.iter().map(ToString::to_string).collect::<Vec<_>>()),
        };
        let those: HashSet<&DeadLetterId> = changed.iter().collect();
        let those: Vec<&DeadLetter> =
            found.iter().filter(|letter| those.contains(&letter.id)).collect();
        let entry = entry.about(those.iter().filter_map(|letter| letter.to.as_ref()));
        audit::commit(transaction, &[entry]).await?;
        if let DeadLetterAction::Requeue = action {
            DeliveryService::log_requeued(those.iter().filter_map(|letter| letter.message));
        }
        Ok(changed)
    }

    /// Keeps a frame of the broker's that nobody can read. The wake-ups that it may have held are found
    /// by the sweeper.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn bury_frame(&self, frame: &[u8], reason: &str, queue: &str) -> Result<(), Error> {
        const MAX_FRAME_LEN: usize = 65_536;
        let id = DeadLetterId(new_id());
        let reason = format!("a frame of the queue {queue}: {reason}").replace('\0', "\u{fffd}");
        let client = self.core.store().client().await?;
        let frame = frame.get(..MAX_FRAME_LEN).unwrap_or(frame);
        Ok(dead_letters::add_frame(&client, id, frame, &reason, self.core.clock().now()).await?)
    }

    /// Lets dead letters expire that were kept long enough. Returns whether there may be more.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn expire_dead_letters(&self) -> Result<bool, Error> {
        const EXPIRY_BATCH_SIZE: i64 = 500;
        let now = self.core.clock().now();
        let before = now - self.core.runtime_settings().retention.dead_letters;
        let client = self.core.store().client_for(StatementGroup::Upkeep).await?;
        let gone = dead_letters::expire(&client, before, EXPIRY_BATCH_SIZE, now).await?;
        Ok(gone == EXPIRY_BATCH_SIZE)
    }
}

/// Tries again what stood in the way of another, or did not reach the database.
async fn with_retries<T, F>(mut act: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut tries = 0;
    loop {
        tries += 1;
        match act().await {
            Err(Error::Unavailable) if tries < MAX_ATTEMPTS => {
                tokio::time::sleep(Duration::from_millis(50) * tries).await;
            }
            other => return other,
        }
    }
}
