//! The status of a message and its only transitions.
//!
//! ```text
//! pending ──▶ sent ──▶ delivered ──▶ read
//!               └────▶ failed ──(requeue: next generation)──▶ pending
//! ```
//! Within a generation, a status never goes back. An event may skip statuses (an acknowledgement of a message
//! that is still pending passes through sent), and a repeated event is ignored.

use std::fmt;

/// The delivery status. The numbers are the stored ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i16)]
pub enum Status {
    /// Stored; not written to a connection of the recipient yet.
    Pending = 0,
    /// Written to a live connection of the recipient, not yet acknowledged.
    Sent = 1,
    /// Acknowledged by the recipient's device.
    Delivered = 2,
    /// Opened by the recipient.
    Read = 3,
    /// Failed after the last retry; a dead letter has the reason.
    Failed = 4,
}

/// What can happen to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusEvent {
    /// It was written to a live connection of the recipient.
    Written,
    /// The recipient's device acknowledged it.
    Acknowledged,
    /// The recipient opened it.
    Opened,
    /// The last retry was not acknowledged either.
    GivenUp,
    /// An administrator requeued it: a new generation.
    Requeued,
}

/// A status and the generation it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageProgress {
    /// Starts at 0; each requeue, and each late acknowledgement of a failed message, adds one.
    pub generation: i32,
    /// The status inside that generation.
    pub status: Status,
}

/// An invalid transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a {from} message cannot take the transition {event:?}")]
pub struct IllegalTransition {
    /// The status it had.
    pub from: Status,
    /// What was asked.
    pub event: StatusEvent,
}

impl Status {
    /// All of them, in order of their numbers.
    pub const ALL: [Status; 5] =
        [Status::Pending, Status::Sent, Status::Delivered, Status::Read, Status::Failed];

    /// The name in JSON, in metrics and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Sent => "sent",
            Status::Delivered => "delivered",
            Status::Read => "read",
            Status::Failed => "failed",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.name() == name)
    }

    /// Reads a stored number.
    pub fn from_number(number: i16) -> Option<Status> {
        Status::ALL.into_iter().find(|status| *status as i16 == number)
    }

    /// Whether it is not acknowledged yet.
    pub const fn is_waiting(self) -> bool {
        matches!(self, Status::Pending | Status::Sent)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl MessageProgress {
    /// The state after `event`; unchanged if the event is a repeat or late.
    ///
    /// # Errors
    /// [`IllegalTransition`] for a step that does not exist: giving up what was never sent, or requeueing what
    /// has not failed.
    pub fn after(self, event: StatusEvent) -> Result<MessageProgress, IllegalTransition> {
        use Status::{Delivered, Failed, Pending, Read, Sent};
        let to = |status| MessageProgress { status, ..self };
        let anew =
            |status| MessageProgress { generation: self.generation.saturating_add(1), status };
        Ok(match (self.status, event) {
            (Pending | Sent, StatusEvent::Written) => to(Sent),
            (Pending | Sent | Delivered, StatusEvent::Acknowledged) => to(Delivered),
            (Pending | Sent | Delivered | Read, StatusEvent::Opened) => to(Read),
            (Sent | Failed, StatusEvent::GivenUp) => to(Failed),
            (Failed, StatusEvent::Requeued) => anew(Pending),
            // A late acknowledgement overrides the failure: it is the delivery of a new generation.
            (Failed, StatusEvent::Acknowledged) => anew(Delivered),
            (Failed, StatusEvent::Opened) => anew(Read),
            // Late or repeated.
            (Delivered | Read, StatusEvent::Written | StatusEvent::GivenUp) => self,
            (Read, StatusEvent::Acknowledged) | (Failed, StatusEvent::Written) => self,
            (from @ Pending, event @ StatusEvent::GivenUp)
            | (from @ (Pending | Sent | Delivered | Read), event @ StatusEvent::Requeued) => {
                return Err(IllegalTransition { from, event });
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVENTS: [StatusEvent; 5] = [
        StatusEvent::Written,
        StatusEvent::Acknowledged,
        StatusEvent::Opened,
        StatusEvent::GivenUp,
        StatusEvent::Requeued,
    ];

    /// The single steps that exist, by the specification.
    const EDGES: [(Status, Status); 4] = [
        (Status::Pending, Status::Sent),
        (Status::Sent, Status::Delivered),
        (Status::Delivered, Status::Read),
        (Status::Sent, Status::Failed),
    ];

    fn reachable(from: Status, to: Status) -> bool {
        from == to || EDGES.iter().any(|(a, b)| *a == from && reachable(*b, to))
    }

    // **Feature: enhanced-messaging-system, Property 3: Message Status Progression**
    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn inside_a_generation_only_existing_steps_are_taken(
            events in prop::collection::vec(prop::sample::select(&EVENTS[..]), 0..40)
        ) {
            let mut now = MessageProgress { generation: 0, status: Status::Pending };
            for event in events {
                let Ok(next) = now.after(event) else { continue };
                if next.generation == now.generation {
                    prop_assert!(reachable(now.status, next.status), "{now:?} {event:?} {next:?}");
                } else {
                    prop_assert_eq!(now.status, Status::Failed);
                    prop_assert_eq!(next.generation, now.generation + 1);
                    prop_assert!(reachable(Status::Pending, next.status));
                }
                now = next;
            }
        }
    }

    // **Feature: enhanced-messaging-system, Property 8: Message Delivery Idempotency**
    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn an_event_twice_is_an_event_once(
            start in prop::sample::select(&Status::ALL[..]), event in prop::sample::select(&EVENTS[..])
        ) {
            let start = MessageProgress { generation: 3, status: start };
            if let Ok(once) = start.after(event) {
                if event != StatusEvent::Requeued {
                    prop_assert_eq!(once.after(event), Ok(once));
                } else {
                    prop_assert!(once.after(event).is_err(), "a requeue may not be taken twice");
                }
            }
        }
    }

    #[test]
    fn names_and_numbers_round_trip() {
        for status in Status::ALL {
            assert_eq!(Status::parse(status.name()), Some(status));
            assert_eq!(Status::from_number(status as i16), Some(status));
        }
        assert_eq!(Status::from_number(5), None);
        assert_eq!(Status::parse("Pending"), None);
    }
}
