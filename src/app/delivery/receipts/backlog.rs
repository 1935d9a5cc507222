//! How many receipts of recipients are not stored yet.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::error::Elapsed};

use super::BATCH_SIZE;
use crate::domain::Party;

/// With more receipts waiting than this, who accepts messages waits as well.
const MAX_BACKLOG: usize = 2 * BATCH_SIZE;
/// … but for no longer than this a batch: a writer that is stuck must not stop the sending.
const BACKLOG_TIMEOUT: Duration = Duration::from_millis(25);
/// The most receipts that count of one recipient: one alone, however much it acknowledges, delays no sender.
const MAX_COUNTED: usize = BATCH_SIZE;

/// The receipts that wait, by recipient.
#[derive(Default)]
pub(super) struct Backlog {
    receipts: Mutex<ReceiptCounts>,
    fewer: Notify,
    hasher: RandomState,
}

#[derive(Default)]
struct ReceiptCounts {
    of: HashMap<u64, usize>,
    /// All of them, of each recipient no more than count.
    counted: usize,
}

impl ReceiptCounts {
    fn change(&mut self, party: u64, change: impl FnOnce(usize) -> usize) {
        let before = self.of.get(&party).copied().unwrap_or_default();
        let after = change(before);
        self.counted = self.counted + after.min(MAX_COUNTED) - before.min(MAX_COUNTED);
        if after == 0 {
            self.of.remove(&party);
        } else {
            self.of.insert(party, after);
        }
    }
}

impl Backlog {
    /// Receipts that count as waiting until the answer is dropped: the sender may stop waiting for the answer.
    pub(super) fn add(&self, by: &Party, receipts: usize) -> Counted<'_> {
        let party = self.hasher.hash_one(by);
        self.receipts().change(party, |waiting| waiting + receipts);
        Counted { backlog: self, party, receipts }
    }

    /// Returns when few enough wait; an error when they have not become few within a moment.
    pub(super) async fn shrinks(&self) -> Result<(), Elapsed> {
        let few = async {
            loop {
                let fewer = self.fewer.notified();
                if self.receipts().counted <= MAX_BACKLOG {
                    return;
                }
                fewer.await;
            }
        };
        tokio::time::timeout(BACKLOG_TIMEOUT, few).await
    }

    fn receipts(&self) -> MutexGuard<'_, ReceiptCounts> {
        self.receipts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Receipts that wait.
pub(super) struct Counted<'a> {
    backlog: &'a Backlog,
    party: u64,
    receipts: usize,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.backlog.receipts().change(self.party, |waiting| waiting.saturating_sub(self.receipts));
        self.backlog.fewer.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Phone;

    fn recipient(n: usize) -> Party {
        Party::Mobile(Phone::from_stored(&format!("+96777100000{n}")))
    }

    #[tokio::test]
    async fn one_recipient_alone_delays_no_sender_and_many_do_for_a_moment() {
        let backlog = Backlog::default();
        let flood: Vec<Counted<'_>> = (0..1000).map(|_| backlog.add(&recipient(1), 1000)).collect();
        assert!(backlog.shrinks().await.is_ok());
        let others = [2, 3].map(|n| backlog.add(&recipient(n), BATCH_SIZE));
        assert!(backlog.shrinks().await.is_err());
        drop(flood);
        assert!(backlog.shrinks().await.is_ok());
        drop(others);
        assert!(backlog.receipts().of.is_empty() && backlog.receipts().counted == 0);
    }
}
