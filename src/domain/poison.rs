//! Poison messages: messages on which the recipient's app seems to crash.
//!
//! An app that closes its connection with an error may have crashed on a message it was sent. The oldest
//! unacknowledged message is then the suspect and is sent alone next time, so that nothing else can be the
//! cause. After [`MAX_FAILURES`] such connections it fails, and the messages behind it get through. A
//! connection lost by the network says nothing about a message.

use std::time::{Duration, Instant};

use super::{BoundedMap, MessageId, WhenFull, feed::Unacknowledged};

/// A message fails after this many connections that ended with an error.
pub const MAX_FAILURES: u32 = 5;
/// How many messages are tracked, and how long after the last failure.
const MAX_TRACKED: usize = 10_000;
const FAILURE_TTL: Duration = Duration::from_secs(24 * 3600);

/// The suspected messages of one process. A message has one recipient, so its id identifies both.
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
    /// A client closed its connection with an error while this message was the oldest unacknowledged one.
    /// Returns whether the message has to fail; it is forgotten then, because an administrator may requeue
    /// it.
    #[must_use]
    pub fn failed(&mut self, head: &Unacknowledged, now: Instant) -> bool {
        let id = head.attempt.id;
        let known = self.failures.get(&id, now).copied().unwrap_or_default();
        // Others on the connection may be the cause: sending this one alone will tell.
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
