//! Unacknowledged deliveries: each is acknowledged when all its wake-ups are, and requeued when one is dropped.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::mpsc;

use super::frame::WakeUp;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settlement {
    Ack,
    /// The broker delivers it again.
    Requeue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) index: usize,
    /// The epoch of its channel.
    pub(super) epoch: u32,
    pub(super) tag: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct SettledDelivery {
    pub(super) origin: Origin,
    pub(super) settlement: Settlement,
}

/// Settles its delivery when the last of its items is dropped.
#[derive(Debug)]
pub(super) struct UnackedDelivery {
    origin: Origin,
    /// Items that are not acknowledged.
    pending: AtomicUsize,
    /// Has room for all unacknowledged deliveries. Closes with the connection; later settlements have no effect.
    settled: mpsc::Sender<SettledDelivery>,
}

impl UnackedDelivery {
    pub(super) fn new(
        origin: Origin,
        parts: usize,
        settled: &mpsc::Sender<SettledDelivery>,
    ) -> Arc<UnackedDelivery> {
        Arc::new(UnackedDelivery {
            origin,
            pending: AtomicUsize::new(parts),
            settled: settled.clone(),
        })
    }

    fn item_done(&self) {
        self.pending.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for UnackedDelivery {
    fn drop(&mut self) {
        let settlement = match self.pending.load(Ordering::Acquire) {
            0 => Settlement::Ack,
            _ => Settlement::Requeue,
        };
        let _ = self.settled.try_send(SettledDelivery { origin: self.origin, settlement });
    }
}

/// One wake-up of a delivery.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) wake_up: WakeUp,
    pub(super) unacked: Arc<UnackedDelivery>,
}

/// Wake-ups to act upon. Dropped without [`WakeUpBatch::ack`] they are redelivered, to the worker that has their
/// partition then.
#[derive(Debug)]
#[must_use = "dropped, it is redelivered"]
pub struct WakeUpBatch {
    /// At most a hundred, those of the higher lanes first.
    pub wake_ups: Vec<WakeUp>,
    deliveries: Vec<Arc<UnackedDelivery>>,
}

impl WakeUpBatch {
    pub(super) fn new(parts: Vec<Item>) -> WakeUpBatch {
        let (wake_ups, deliveries) =
            parts.into_iter().map(|part| (part.wake_up, part.unacked)).unzip();
        WakeUpBatch { wake_ups, deliveries }
    }

    /// Acknowledges all of them.
    pub fn ack(self) {
        self.deliveries.iter().for_each(|unacked| unacked.item_done());
    }
}

/// An unreadable frame. Dropped without [`DeadFrame::ack`] it is redelivered.
#[derive(Debug)]
#[must_use = "dropped, it is redelivered"]
pub struct DeadFrame {
    pub body: Vec<u8>,
    pub reason: String,
    /// The queue that it was in, or else its routing key.
    pub queue: String,
    pub(super) unacked: Arc<UnackedDelivery>,
}

impl DeadFrame {
    /// Acknowledges it, once it is stored.
    pub fn ack(self) {
        self.unacked.item_done();
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::MessageId;

    const ORIGIN: Origin = Origin { index: 2, epoch: 3, tag: 7 };

    fn parts(unacked: &Arc<UnackedDelivery>, count: usize) -> Vec<Item> {
        let wake_up = WakeUp { id: MessageId(Uuid::nil()), generation: 1 };
        (0..count).map(|_| Item { wake_up, unacked: Arc::clone(unacked) }).collect()
    }

    #[test]
    fn a_delivery_is_done_when_all_its_parts_are() {
        let (sender, mut settled) = mpsc::channel(2);
        let unacked = UnackedDelivery::new(ORIGIN, 5, &sender);
        let (first, second) =
            (WakeUpBatch::new(parts(&unacked, 3)), WakeUpBatch::new(parts(&unacked, 2)));
        drop(unacked);
        first.ack();
        assert!(settled.try_recv().is_err());
        second.ack();
        let end = settled.try_recv().unwrap();
        assert_eq!((end.origin, end.settlement), (ORIGIN, Settlement::Ack));
    }

    #[test]
    fn a_delivery_comes_again_when_one_part_was_dropped() {
        let (sender, mut settled) = mpsc::channel(2);
        let unacked = UnackedDelivery::new(ORIGIN, 5, &sender);
        let (first, second) =
            (WakeUpBatch::new(parts(&unacked, 3)), WakeUpBatch::new(parts(&unacked, 2)));
        drop(unacked);
        drop(first);
        second.ack();
        assert_eq!(settled.try_recv().unwrap().settlement, Settlement::Requeue);
        assert!(settled.try_recv().is_err());
    }
}
