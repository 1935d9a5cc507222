//! Keeping things only as long as they are to be kept.

use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::AdminService;
use crate::app::Error;
use crate::store::retention::{self, RetentionLock, ScanCursor};

#[derive(Clone, Copy, Debug, Default)]
pub struct Removed {
    pub messages: u64,
    /// Events of messages that stay.
    pub events: u64,
}

/// How many rows are looked at, or removed, in one transaction.
const BATCH_SIZE: i64 = 100;
/// The pause after each, in times of what it took: others have the database for most of the time.
const PAUSE_FACTOR: u32 = 9;
const MIN_PAUSE: Duration = Duration::from_millis(5);
/// How long gateways have to close the connections of an erased phone.
const OWNERLESS_TTL: Duration = Duration::from_secs(3600);

impl AdminService {
    /// Removes what was kept long enough, unless another process is at it.
    ///
    /// # Errors
    /// Failures of the database; what was removed before stays removed.
    pub async fn apply_retention(&self) -> Result<Removed, Error> {
        let mut removed = Removed::default();
        let Some(mut keeper) = retention::acquire(self.core.store()).await? else {
            return Ok(removed);
        };
        let now = self.core.clock().now();
        keeper.forget_ownerless_tokens(now - OWNERLESS_TTL).await?;
        let retention = self.core.runtime_settings().retention;
        loop {
            let began = Instant::now();
            let accepted = retention.messages.map(|kept| now - kept);
            let gone = keeper.remove_deleted(now - retention.deleted, accepted, BATCH_SIZE).await?;
            removed.count(gone);
            pause(began).await;
            if gone < BATCH_SIZE {
                break;
            }
        }
        if let Some(kept) = self.core.runtime_settings().retention.events {
            let mut place = Some(ScanCursor::default());
            while let Some(after) = place {
                let began = Instant::now();
                let (gone, next) = keeper.remove_events(now - kept, after, BATCH_SIZE).await?;
                removed.events += u64::try_from(gone).unwrap_or_default();
                place = next;
                pause(began).await;
            }
        }
        if let Some(kept) = self.core.runtime_settings().retention.messages {
            let mut place = Some(ScanCursor::default());
            while let Some(after) = place {
                let began = Instant::now();
                let looked = keeper.look(now - kept, after, BATCH_SIZE).await?;
                if !looked.one_way.is_empty() {
                    removed.count(keeper.remove_one_way(&looked.one_way).await?);
                }
                pause(began).await;
                for id in looked.conversations {
                    remove_beginning(&mut keeper, id, now - kept, &mut removed).await?;
                }
                place = looked.next;
            }
        }
        metrics::counter!("esh3ar_removed_total", "what" => "messages").increment(removed.messages);
        metrics::counter!("esh3ar_removed_total", "what" => "events").increment(removed.events);
        Ok(removed)
    }
}

async fn remove_beginning(
    keeper: &mut RetentionLock,
    id: crate::domain::ConversationId,
    before: OffsetDateTime,
    removed: &mut Removed,
) -> Result<(), Error> {
    loop {
        let began = Instant::now();
        let gone = keeper.remove_beginning(id, before, BATCH_SIZE).await?;
        removed.count(gone);
        pause(began).await;
        if gone < BATCH_SIZE {
            return Ok(());
        }
    }
}

impl Removed {
    fn count(&mut self, messages: i64) {
        self.messages += u64::try_from(messages).unwrap_or_default();
    }
}

async fn pause(began: Instant) {
    tokio::time::sleep((began.elapsed() * PAUSE_FACTOR).max(MIN_PAUSE)).await;
}
