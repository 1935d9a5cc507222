//! How many words of recipients are not stored yet.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::error::Elapsed};

use super::BATCH;
use crate::domain::Party;

/// With more words waiting than this, who accepts messages waits as well.
const BEHIND: usize = 2 * BATCH;
/// … but for no longer than this a batch: a ledger that is stuck must not stop the sending.
const GIVE_WAY: Duration = Duration::from_millis(25);
/// The most words that count of one recipient: one alone, however much it acknowledges, delays no sender.
const COUNTED: usize = BATCH;

/// The words that wait, by recipient.
#[derive(Default)]
pub(super) struct Backlog {
    words: Mutex<Words>,
    fewer: Notify,
    hasher: RandomState,
}

#[derive(Default)]
struct Words {
    of: HashMap<u64, usize>,
    /// All of them, of each recipient no more than count.
    counted: usize,
}

impl Words {
    fn change(&mut self, party: u64, change: impl FnOnce(usize) -> usize) {
        let before = self.of.get(&party).copied().unwrap_or_default();
        let after = change(before);
        self.counted = self.counted + after.min(COUNTED) - before.min(COUNTED);
        if after == 0 {
            self.of.remove(&party);
        } else {
            self.of.insert(party, after);
        }
    }
}

impl Backlog {
    /// Words that count as waiting until the answer is dropped: who said them may stop to wait for the answer.
    pub(super) fn add(&self, by: &Party, words: usize) -> Counted<'_> {
        let party = self.hasher.hash_one(by);
        self.words().change(party, |waiting| waiting + words);
        Counted { backlog: self, party, words }
    }

    /// Returns when few enough wait; an error when they have not become few within a moment.
    pub(super) async fn shrinks(&self) -> Result<(), Elapsed> {
        let few = async {
            loop {
                let fewer = self.fewer.notified();
                if self.words().counted <= BEHIND {
                    return;
                }
                fewer.await;
            }
        };
        tokio::time::timeout(GIVE_WAY, few).await
    }

    fn words(&self) -> MutexGuard<'_, Words> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Words that wait.
pub(super) struct Counted<'a> {
    backlog: &'a Backlog,
    party: u64,
    words: usize,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.backlog.words().change(self.party, |waiting| waiting.saturating_sub(self.words));
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
        let others = [2, 3].map(|n| backlog.add(&recipient(n), BATCH));
        assert!(backlog.shrinks().await.is_err());
        drop(flood);
        assert!(backlog.shrinks().await.is_ok());
        drop(others);
        assert!(backlog.words().of.is_empty() && backlog.words().counted == 0);
    }
}
