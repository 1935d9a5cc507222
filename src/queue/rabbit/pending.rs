//! Wake-ups that wait to be published, by queue: the wake-ups of one commit batch make one frame a queue, and
//! batches that arrive while the broker is slow share frames.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, oneshot};

use super::{
    frame::{self, WakeUp},
    topology::{WorkQueue, partition},
};
use crate::{domain::Priority, queue::Lanes};

/// Capacity of each lane, so that a burst in one lane does not fill the others.
pub(super) const QUEUE_CAPACITY: usize = 50_000;

/// Sent when the frame with the last wake-up of an offer is confirmed; dropped when it never will be.
pub(super) type ConfirmSender = oneshot::Sender<()>;

/// A wake-up; the last one of an offer has the sender of its confirmation.
type NewChannel = (WakeUp, Option<ConfirmSender>);

pub(super) struct Frame {
    pub(super) work_queue: WorkQueue,
    pub(super) wake_ups: Vec<WakeUp>,
    pub(super) confirms: Vec<ConfirmSender>,
}

pub(super) struct Pending {
    partitions: u16,
    inner: Mutex<Inner>,
    wake: Notify,
}

struct Inner {
    queues: Vec<VecDeque<NewChannel>>,
    waiting: [usize; 3],
    /// Every queue that is not empty, once.
    turns: Lanes<WorkQueue>,
}

impl Pending {
    pub(super) fn new(partitions: u16) -> Pending {
        let queues = 3 * usize::from(partitions);
        let inner = Inner {
            queues: (0..queues).map(|_| VecDeque::new()).collect(),
            waiting: [0; 3],
            turns: Lanes::new(queues),
        };
        Pending { partitions, inner: Mutex::new(inner), wake: Notify::new() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues as many wake-ups as fit. Returns how many did not.
    pub(super) fn push(
        &self,
        lane: Priority,
        stored: i16,
        wake_ups: Vec<WakeUp>,
        confirm: ConfirmSender,
    ) -> usize {
        let work_queue = WorkQueue { lane, partition: partition(stored, self.partitions) };
        let offered = wake_ups.len();
        let mut inner = self.inner();
        let room = QUEUE_CAPACITY.saturating_sub(inner.waiting[lane as usize]);
        let taken = offered.min(room);
        let queue = &mut inner.queues[queue_index(work_queue)];
        let was_empty = queue.is_empty();
        queue.extend(wake_ups.into_iter().take(taken).map(|wake_up| (wake_up, None)));
        // An offer that did not fit as a whole is never confirmed as a whole.
        if let Some((_, last)) = queue.back_mut().filter(|_| taken > 0 && taken == offered) {
            *last = Some(confirm);
        }
        inner.waiting[lane as usize] += taken;
        if was_empty && taken > 0 {
            // Every queue is in `turns` at most once, so there is room for all.
            let _ = inner.turns.push(lane, work_queue);
        }
        drop(inner);
        self.wake.notify_one();
        offered - taken
    }

    /// The next frame: from the highest lane that is not empty, its queues in turn, and sometimes from the
    /// lowest lane.
    pub(super) fn take(&self) -> Option<Frame> {
        let mut inner = self.inner();
        let work_queue = inner.turns.take(1).pop()?;
        let queue = &mut inner.queues[queue_index(work_queue)];
        let most = queue.len().min(frame::MAX_WAKE_UPS);
        let (wake_ups, confirms): (Vec<WakeUp>, Vec<Option<ConfirmSender>>) =
            queue.drain(..most).unzip();
        let more = !queue.is_empty();
        inner.waiting[work_queue.lane as usize] -= wake_ups.len();
        if more {
            let _ = inner.turns.push(work_queue.lane, work_queue);
        }
        Some(Frame { work_queue, wake_ups, confirms: confirms.into_iter().flatten().collect() })
    }

    /// Waits until something has been pushed since the last call. Cancel-safe.
    pub(super) async fn pushed(&self) {
        self.wake.notified().await;
    }

    pub(super) fn depth(&self, lane: Priority) -> usize {
        self.inner().waiting[lane as usize]
    }
}

fn queue_index(work_queue: WorkQueue) -> usize {
    usize::from(work_queue.partition) * 3 + work_queue.lane as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::domain::MessageId;

    fn push(pending: &Pending, lane: Priority, stored: i16, wake_ups: Vec<WakeUp>) -> usize {
        pending.push(lane, stored, wake_ups, oneshot::channel().0)
    }

    #[test]
    fn who_offers_hears_of_the_end_of_the_last_one() {
        let pending = Pending::new(4);
        let (confirm, mut settled) = oneshot::channel();
        pending.push(Priority::Normal, 1, wake_ups(0, 150), confirm);
        let mut still_waits =
            || matches!(settled.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        drop(pending.take());
        assert!(still_waits(), "the last fifty are not out");
        let frame = pending.take().unwrap();
        assert!(still_waits());
        drop(frame);
        assert!(!still_waits());
    }

    fn wake_ups(from: u128, count: usize) -> Vec<WakeUp> {
        (from..)
            .take(count)
            .map(|n| WakeUp { id: MessageId(Uuid::from_u128(n)), generation: 1 })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Nothing lost, nothing twice, each queue in order, no frame too long or empty.
        #[test]
        fn every_queue_keeps_its_order(
            pushes in prop::collection::vec((0i16..3, 0i16..64, 0usize..250), 0..40),
            partitions in 1u16..=64,
        ) {
            let pending = Pending::new(partitions);
            let mut pushed: Vec<Vec<WakeUp>> = vec![Vec::new(); 3 * 64];
            let mut next = 0;
            for (lane, stored, count) in pushes {
                let lane = Priority::from_number(lane).unwrap();
                let batch = wake_ups(next, count);
                next += 1000;
                let work_queue = WorkQueue { lane, partition: partition(stored, partitions) };
                pushed[queue_index(work_queue)].extend(&batch);
                prop_assert_eq!(push(&pending, lane, stored, batch), 0);
            }
            let mut taken: Vec<Vec<WakeUp>> = vec![Vec::new(); 3 * 64];
            while let Some(Frame { work_queue, wake_ups: frame, .. }) = pending.take() {
                prop_assert!((1..=frame::MAX_WAKE_UPS).contains(&frame.len()));
                taken[queue_index(work_queue)].extend(frame);
            }
            prop_assert_eq!(taken, pushed);
            prop_assert!(Priority::ALL.iter().all(|lane| pending.depth(*lane) == 0));
        }
    }

    #[test]
    fn batches_of_one_queue_share_frames() {
        let pending = Pending::new(4);
        push(&pending, Priority::Normal, 1, wake_ups(0, 60));
        push(&pending, Priority::Normal, 1, wake_ups(60, 60));
        let lengths: Vec<usize> =
            std::iter::from_fn(|| pending.take()).map(|frame| frame.wake_ups.len()).collect();
        assert_eq!(lengths, [100, 20]);
    }

    #[test]
    fn a_full_lane_refuses_and_leaves_room_in_the_others() {
        let pending = Pending::new(4);
        assert_eq!(push(&pending, Priority::Low, 0, wake_ups(0, QUEUE_CAPACITY + 5)), 5);
        assert_eq!(push(&pending, Priority::Low, 1, wake_ups(0, 7)), 7);
        assert_eq!(push(&pending, Priority::High, 1, wake_ups(0, 7)), 0);
        let Frame { work_queue, wake_ups: frame, .. } = pending.take().unwrap();
        assert_eq!((work_queue.lane, frame.len()), (Priority::High, 7));
        assert_eq!(pending.depth(Priority::Low), QUEUE_CAPACITY);
    }
}
