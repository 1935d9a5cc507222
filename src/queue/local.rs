//! The queue inside one process.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Lanes;
use crate::domain::Priority;

/// Lanes by share. Each share has one worker, which keeps its items in order. Cheap to clone.
pub struct LocalQueue<T> {
    shares: Arc<[Share<T>]>,
}

impl<T> Clone for LocalQueue<T> {
    fn clone(&self) -> Self {
        LocalQueue { shares: Arc::clone(&self.shares) }
    }
}

struct Share<T> {
    lanes: Mutex<Lanes<T>>,
    wake: Notify,
}

impl<T> Share<T> {
    fn lanes(&self) -> MutexGuard<'_, Lanes<T>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> LocalQueue<T> {
    /// `shares` queues of `capacity` items each.
    pub fn new(shares: usize, capacity: usize) -> Self {
        let share = || Share { lanes: Mutex::new(Lanes::new(capacity)), wake: Notify::new() };
        LocalQueue { shares: (0..shares.max(1)).map(|_| share()).collect() }
    }

    pub fn shares(&self) -> usize {
        self.shares.len()
    }

    fn share(&self, partition: i16) -> &Share<T> {
        &self.shares[usize::from(partition.unsigned_abs()) % self.shares.len()]
    }

    /// Appends items to their lanes and wakes their worker once. Returns what did not fit.
    pub fn push(&self, partition: i16, items: impl IntoIterator<Item = (Priority, T)>) -> Vec<T> {
        let share = self.share(partition);
        let mut lanes = share.lanes();
        let refused =
            items.into_iter().filter_map(|(lane, item)| lanes.push(lane, item).err()).collect();
        drop(lanes);
        share.wake.notify_one();
        refused
    }

    /// Waits for items of a share: at least one, at most `most`. Cancel-safe.
    pub async fn next(&self, share: usize, most: usize) -> Vec<T> {
        let share = &self.shares[share % self.shares.len()];
        loop {
            let taken = share.lanes().take(most);
            if !taken.is_empty() {
                return taken;
            }
            share.wake.notified().await;
        }
    }

    /// Drops all items.
    pub fn clear(&self) {
        for share in self.shares.iter() {
            let dropped = share.lanes().take(usize::MAX);
            drop(dropped);
        }
    }

    /// Items in a lane, over all shares.
    pub fn depth(&self, lane: Priority) -> usize {
        self.shares.iter().map(|share| share.lanes().depth(lane)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_belongs_together_goes_to_one_worker_in_order() {
        let queue = LocalQueue::new(4, 1000);
        for partition in 0..8 {
            for n in 0..100 {
                assert!(queue.push(partition, [(Priority::Normal, (partition, n))]).is_empty());
            }
        }
        for share in 0..4 {
            let taken = queue.next(share, 1000).await;
            for partition in 0..8 {
                let found: Vec<i32> =
                    taken.iter().filter(|(of, _)| *of == partition).map(|(_, n)| *n).collect();
                assert!(found.is_empty() || found == (0..100).collect::<Vec<_>>());
            }
        }
    }
}
