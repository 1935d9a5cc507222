//! The counters and the replay buffer of stateful reconnect.
//!
//! Both sides number invocations, completions, items and cancellations from 1, each direction by itself;
//! the numbers are not sent. Where the official clients differ from the text of the protocol, this follows
//! the clients: a replay is announced with the number of its first message.
//!
//! The buffer is bounded: past its limit the oldest message is dropped, and a client that loses its
//! transport before it has acknowledged that message cannot reconnect. The connection itself continues.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

/// Past this many unacknowledged bytes no live message should be sent (reference: the buffer of the official
/// server and clients).
const MAX_LIVE_LEN: usize = 100_000;
/// Acknowledgements are batched for this long.
const ACKNOWLEDGE_DELAY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct ReplayBuffer {
    /// Oldest first.
    unacknowledged: VecDeque<Bytes>,
    /// The number of the first of them; one past the last sent if there are none.
    first: u64,
    size: usize,
    acknowledged_up_to: u64,
    /// The number of the client's last message that was processed.
    last_processed: u64,
    /// The number of the client's last message; below `last_processed` during its replay.
    last_received: u64,
    awaits_sequence: bool,
    acknowledge_at: Option<Instant>,
}

impl Default for ReplayBuffer {
    fn default() -> Self {
        ReplayBuffer {
            unacknowledged: VecDeque::new(),
            first: 1,
            size: 0,
            acknowledged_up_to: 0,
            last_processed: 0,
            last_received: 0,
            awaits_sequence: false,
            acknowledge_at: None,
        }
    }
}

impl ReplayBuffer {
    /// Keeps at most `max_kept` bytes.
    pub(super) fn sent(&mut self, message: &Bytes, max_kept: usize) {
        self.size += message.len();
        self.unacknowledged.push_back(message.clone());
        while self.size > max_kept && self.drop_first() {}
    }

    fn drop_first(&mut self) -> bool {
        let Some(message) = self.unacknowledged.pop_front() else { return false };
        self.size -= message.len();
        self.first += 1;
        true
    }

    /// Whether every message that the client may have missed is kept.
    pub(super) fn is_whole(&self) -> bool {
        self.first <= self.acknowledged_up_to.saturating_add(1)
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn is_full(&self) -> bool {
        self.size > MAX_LIVE_LEN
    }

    pub(super) fn acknowledged(&mut self, number: u64) {
        while self.first <= number && self.drop_first() {}
        // A client cannot acknowledge more than was sent.
        self.acknowledged_up_to = self.acknowledged_up_to.max(number.min(self.first - 1));
    }

    /// Returns whether the message is new.
    pub(super) fn received(&mut self, now: Instant) -> bool {
        self.last_received += 1;
        self.acknowledge_at.get_or_insert(now + ACKNOWLEDGE_DELAY);
        if self.last_received <= self.last_processed {
            return false;
        }
        self.last_processed = self.last_received;
        true
    }

    /// The number to acknowledge, when it is time.
    pub(super) fn acknowledge(&mut self, now: Instant) -> Option<u64> {
        let at = self.acknowledge_at?;
        (now >= at).then(|| {
            self.acknowledge_at = None;
            self.last_processed
        })
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.acknowledge_at
    }

    /// The number of the first message to replay (or of the next new one), and the messages to replay.
    pub(super) fn resume(&mut self) -> (u64, impl Iterator<Item = Bytes>) {
        self.awaits_sequence = true;
        (self.first, self.unacknowledged.iter().cloned())
    }

    /// Whether the client has yet to announce the first number of its replay.
    pub(super) fn awaits_sequence(&self) -> bool {
        self.awaits_sequence
    }

    /// The client announces the number of its next message. Returns whether no message is missing.
    pub(super) fn begin_at(&mut self, number: u64) -> bool {
        self.awaits_sequence = false;
        if number == 0 || number > self.last_processed + 1 {
            return false;
        }
        self.last_received = number - 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(n: u8) -> Bytes {
        Bytes::copy_from_slice(&[n; 10])
    }

    #[test]
    fn what_is_not_acknowledged_is_said_again_from_its_first() {
        let mut replay = ReplayBuffer::default();
        assert_eq!(replay.resume().0, 1, "nothing was sent yet: the next is the first");
        (1..=4).for_each(|n| replay.sent(&message(n), 1000));
        replay.acknowledged(2);
        assert_eq!(replay.size(), 20);
        let (first, again) = replay.resume();
        assert_eq!((first, again.collect::<Vec<_>>()), (3, vec![message(3), message(4)]));
        replay.acknowledged(99);
        assert_eq!(replay.resume().0, 5, "with nothing left, the next number");
        assert_eq!(replay.size(), 0);
    }

    #[test]
    fn what_is_kept_has_an_end_and_who_misses_more_cannot_come_back() {
        let mut replay = ReplayBuffer::default();
        (1..=4).for_each(|n| replay.sent(&message(n), 25));
        assert_eq!((replay.size(), replay.is_whole()), (20, false), "the first two are dropped");
        replay.acknowledged(1);
        assert!(!replay.is_whole(), "the second may be missing");
        replay.acknowledged(2);
        assert!(replay.is_whole());
        let (first, again) = replay.resume();
        assert_eq!((first, again.collect::<Vec<_>>()), (3, vec![message(3), message(4)]));
        // One that is larger than the limit.
        replay.sent(&message(5), 9);
        assert_eq!((replay.size(), replay.is_whole()), (0, false));
        replay.acknowledged(5);
        assert!(replay.is_whole());
        replay.acknowledged(99);
        replay.sent(&message(6), 9);
        assert!(!replay.is_whole(), "a message sent later was not acknowledged");
    }

    #[test]
    fn what_came_before_is_not_new_again() {
        let now = Instant::now();
        let mut replay = ReplayBuffer::default();
        assert!((0..3).all(|_| replay.received(now)));
        let _ = replay.resume().1.count();
        assert!(replay.awaits_sequence());
        assert!(replay.begin_at(2));
        let fresh: Vec<bool> = (0..4).map(|_| replay.received(now)).collect();
        assert_eq!(fresh, [false, false, true, true], "the second and third were here");
        assert!(!replay.begin_at(7), "the sixth is missing");
        assert!(!replay.begin_at(0));
    }

    #[test]
    fn acknowledgements_are_gathered_for_a_second() {
        let now = Instant::now();
        let mut replay = ReplayBuffer::default();
        assert_eq!(replay.next_deadline(), None);
        replay.received(now);
        replay.received(now + Duration::from_millis(500));
        assert_eq!(replay.acknowledge(now), None);
        assert_eq!(replay.next_deadline(), Some(now + Duration::from_secs(1)));
        assert_eq!(replay.acknowledge(now + Duration::from_secs(1)), Some(2));
        assert_eq!(replay.next_deadline(), None);
    }
}
