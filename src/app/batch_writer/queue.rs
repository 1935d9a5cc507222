//! The queue between callers and the task that stores what they bring: bounded, and served in turn by party.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::domain::{FairQueue, Party};

/// With so many callers in the last batch, more are on their way.
const CROWD: usize = 12;
/// The wait for them, which is within the 2 ms that docs/DELIVERY.md, Batches allows.
const CROWD_WAIT: Duration = Duration::from_millis(1);

pub(super) struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// Where they are taken. Dropped, it drops all that wait, and nothing new comes in.
pub(super) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    /// How many callers shared the last batch. One caller with many rows is no crowd: waiting would only
    /// hold that one up.
    last: usize,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    arrived: Notify,
    /// There is room again, or there never will be.
    room: Notify,
    /// Parties are queued by a hash of theirs that no client can foresee. Two that have the same share their turns.
    hasher: RandomState,
}

struct State<T> {
    queue: FairQueue<T>,
    is_closed: bool,
}

/// Why a request was not queued. It is given back.
pub(super) enum Refused<T> {
    /// The queue is full, or the party has used its share of it.
    Full(T),
    /// Nothing is taken any more.
    Closed(T),
}

pub(super) fn new<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State { queue: FairQueue::new(capacity), is_closed: false }),
        arrived: Notify::new(),
        room: Notify::new(),
        hasher: RandomState::new(),
    });
    (Sender { shared: Arc::clone(&shared) }, Receiver { shared, last: 0 })
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        drop(state);
        self.room.notify_waiters();
    }
}

impl<T> Sender<T> {
    pub(super) fn len(&self) -> usize {
        self.shared.state().queue.len()
    }

    /// Queues a request, if there is room for it now.
    pub(super) fn try_send(
        &self,
        party: Option<&Party>,
        rows: usize,
        request: T,
    ) -> Result<(), Refused<T>> {
        let party = party.map(|party| self.shared.hasher.hash_one(party));
        let mut state = self.shared.state();
        if state.is_closed {
            return Err(Refused::Closed(request));
        }
        state.queue.push(party, rows, request).map_err(Refused::Full)?;
        drop(state);
        self.shared.arrived.notify_one();
        Ok(())
    }

    /// Queues a request as soon as there is room for it; gives it back when nothing is taken any more.
    pub(super) async fn send(
        &self,
        party: Option<&Party>,
        rows: usize,
        mut request: T,
    ) -> Result<(), T> {
        loop {
            let room = self.shared.room.notified();
            request = match self.try_send(party, rows, request) {
                Ok(()) => return Ok(()),
                Err(Refused::Closed(request)) => return Err(request),
                Err(Refused::Full(request)) => request,
            };
            room.await;
        }
    }
}

impl<T> Receiver<T> {
    /// What waits, in turn by party: as many as have `most` rows, and one that has more by itself. After
    /// `stop` nothing new comes in, what waits already is still given, and `None` is the end.
    pub(super) async fn batch(&mut self, most: usize, stop: &CancellationToken) -> Option<Vec<T>> {
        loop {
            let arrived = self.shared.arrived.notified();
            let (is_empty, is_closed) = {
                let state = self.shared.state();
                (state.queue.is_empty(), state.is_closed)
            };
            if !is_empty {
                break;
            }
            if is_closed {
                return None;
            }
            tokio::select! {
                biased;
                () = arrived => {}
                () = stop.cancelled() => self.shared.close(),
            }
        }
        if self.last >= CROWD {
            tokio::time::sleep(CROWD_WAIT).await;
        }
        let batch = self.shared.state().queue.take(most);
        self.shared.room.notify_waiters();
        self.last = batch.len();
        Some(batch)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.close();
        self.shared.state().queue.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Phone;

    #[tokio::test]
    async fn what_waits_is_taken_together_and_to_the_end() {
        let (sender, mut queue) = new(8);
        let stop = CancellationToken::new();
        for rows in [9, 1, 2, 3] {
            assert!(sender.try_send(None, rows, rows).is_ok(), "there is room");
        }
        assert_eq!(queue.batch(3, &stop).await, Some(vec![9]), "too heavy, and alone");
        assert_eq!(queue.batch(3, &stop).await, Some(vec![1, 2]));
        stop.cancel();
        assert_eq!(
            queue.batch(3, &stop).await,
            Some(vec![3]),
            "what waited is given after the stop"
        );
        assert_eq!(queue.batch(3, &stop).await, None);
        assert!(sender.send(None, 1, 1).await.is_err(), "nothing new comes in");
    }

    #[tokio::test]
    async fn a_party_that_fills_its_share_leaves_room_and_the_next_batch_for_another() {
        let (sender, mut queue) = new(64);
        let stop = CancellationToken::new();
        let [busy, quiet] = ["+967771000001", "+967771000002"]
            .map(|phone| Party::Mobile(Phone::from_stored(phone)));
        let mut refused = 0;
        for _ in 0..100 {
            refused += usize::from(sender.try_send(Some(&busy), 500, "busy").is_err());
        }
        assert_eq!((refused, sender.len()), (68, 32));
        assert!(sender.try_send(Some(&quiet), 1, "quiet").is_ok());
        assert_eq!(queue.batch(500, &stop).await, Some(vec!["quiet"]));
        let waits = sender.send(Some(&busy), 500, "busy");
        let (sent, batch) = tokio::join!(waits, queue.batch(500, &stop));
        assert_eq!((sent, batch), (Ok(()), Some(vec!["busy"])));
        assert_eq!(sender.len(), 32, "there was room for one that waited");
    }
}
