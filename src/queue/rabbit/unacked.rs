//! What has been taken from the broker and is still its own: kept until it is said to be done.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::mpsc;

use super::frame::WakeUp;

/// What becomes of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settlement {
    /// It is done.
    Ack,
    /// Somebody shall have it again.
    Requeue,
}

/// Where a delivery is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// Which line.
    pub(super) index: usize,
    /// Which of the times that we stood there.
    pub(super) epoch: u32,
    /// Which one on the channel.
    pub(super) tag: u64,
}

/// A delivery's end.
#[derive(Clone, Copy, Debug)]
pub(super) struct SettledDelivery {
    /// Where it is from.
    pub(super) origin: Origin,
    /// What becomes of it.
    pub(super) settlement: Settlement,
}

/// A delivery in our hands. It settles itself when nobody has a part of it any more.
#[derive(Debug)]
pub(super) struct UnackedDelivery {
    origin: Origin,
    /// Parts that are not done.
    pending: AtomicUsize,
    /// Has room for all that the broker sends unanswered. Ends with the connection: what is told later
    /// concerns nobody.
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

/// Wake-ups to be acted upon. Dropped without [`WakeUpBatch::ack`] they come again, to whichever worker
/// has their partition then.
#[derive(Debug)]
#[must_use = "dropped, it comes again"]
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

    /// They have been acted upon: the broker may forget them.
    pub fn ack(self) {
        self.deliveries.iter().for_each(|unacked| unacked.item_done());
    }
}

/// A frame that nobody can read. Dropped without [`DeadFrame::ack`] it comes again.
#[derive(Debug)]
#[must_use = "dropped, it comes again"]
pub struct DeadFrame {
    /// As it was.
    pub body: Vec<u8>,
    /// Why it cannot be read.
    pub reason: String,
    /// The queue that it was in, or else its routing key.
    pub queue: String,
    pub(super) unacked: Arc<UnackedDelivery>,
}

impl DeadFrame {
    /// It has been stored: the broker may forget it.
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
