//! Messages on which the recipient's app seems to fail.
//!
//! An app that ends its connection with an error may have failed on what it was sent. The first message
//! that it had not acknowledged is then a suspect: it is sent again by itself, so that nothing else can be
//! the cause. After [`MAX_FAILURES`] of those connections it is given up, and the messages behind it get
//! through. A connection that the network lost says nothing about a message.

use std::time::{Duration, Instant};

use super::{BoundedMap, MessageId, WhenFull, feed::Unacknowledged};

/// So many connections that ended with an error end the attempts to deliver a message.
pub const MAX_FAILURES: u32 = 5;
/// How many messages are remembered, and for how long after the last failure.
const MAX_TRACKED: usize = 10_000;
const FAILURE_TTL: Duration = Duration::from_secs(24 * 3600);

/// The suspects of one process. A message has one recipient, so its id names both.
#[derive(Debug)]
pub struct PoisonDetector {
    failures: BoundedMap<MessageId, u32>,
}

impl Default for PoisonDetector {
    fn default() -> PoisonDetector {
        PoisonDetector { failures: BoundedMap::new(MAX_TRACKED, WhenFull::DropOldest) }
    }
}

impl PoisonDetector {
    /// A connection was ended by its client with an error while this message was the first that waited.
    /// Whether it is to be given up: then it is forgotten here, since an administrator may put it back.
    #[must_use]
    pub fn failed(&mut self, head: &Unacknowledged, now: Instant) -> bool {
        let id = head.attempt.id;
        let known = self.failures.get(&id, now).copied().unwrap_or_default();
        // With others on the connection it may have been one of those: that is found out by sending this
        // one alone.
        let failures = if head.is_alone { known + 1 } else { known.max(1) };
        if failures >= MAX_FAILURES {
            self.failures.retain(|suspect, _| *suspect != id);
            return true;
        }
        self.failures.insert(id, failures, Some(now + FAILURE_TTL), now);
        false
    }

    /// How many of these messages, oldest first, may be sent together: a suspect is sent alone.
    pub fn sendable(&mut self, ids: impl Iterator<Item = MessageId>, now: Instant) -> usize {
        if self.failures.is_empty() {
            return usize::MAX;
        }
        for (n, id) in ids.enumerate() {
            if self.failures.get(&id, now).is_some() {
                return n.max(1);
            }
        }
        usize::MAX
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::feed::DeliveryAttempt;

    fn id(n: u128) -> MessageId {
        MessageId(Uuid::from_u128(n))
    }

    fn head(n: u128, is_alone: bool, at: Instant) -> Unacknowledged {
        let attempt = DeliveryAttempt { id: id(n), position: None, generation: 0, retry_count: 0 };
        Unacknowledged { attempt, at, is_alone }
    }

    #[test]
    fn a_message_on_which_the_app_fails_again_and_again_is_given_up() {
        let now = Instant::now();
        let mut suspects = PoisonDetector::default();
        let gone: Vec<bool> = (0..6).map(|_| suspects.failed(&head(1, true, now), now)).collect();
        assert_eq!(gone, [false, false, false, false, true, false], "and then it begins anew");
    }

    #[test]
    fn what_came_with_others_is_not_to_blame_before_it_came_alone() {
        let now = Instant::now();
        let mut suspects = PoisonDetector::default();
        assert!((0..100).all(|_| !suspects.failed(&head(1, false, now), now)));
        let gone: Vec<bool> = (0..4).map(|_| suspects.failed(&head(1, true, now), now)).collect();
        assert_eq!(gone, [false, false, false, true]);
    }

    #[test]
    fn a_suspect_is_sent_alone_and_others_together() {
        let now = Instant::now();
        let mut suspects = PoisonDetector::default();
        let sendable = |suspects: &mut PoisonDetector, ids: &[u128]| {
            suspects.sendable(ids.iter().map(|n| id(*n)), now)
        };
        assert_eq!(sendable(&mut suspects, &[1, 2, 3]), usize::MAX);
        assert!(!suspects.failed(&head(2, false, now), now));
        assert_eq!(sendable(&mut suspects, &[2, 3, 4]), 1);
        assert_eq!(sendable(&mut suspects, &[1, 3, 2, 4]), 2, "those before it");
        assert_eq!(sendable(&mut suspects, &[3, 4]), usize::MAX);
        let later = now + FAILURE_TTL;
        assert_eq!(suspects.sendable([id(2)].into_iter(), later), usize::MAX, "forgotten");
    }
}
