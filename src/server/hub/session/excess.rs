//! Messages that are too long: each is read over and answered, and the connection stays.

use std::time::Instant;

use super::{Action, EndReason, Phase, Session};
use crate::server::hub::{
    codec::{self, Excess, Head, Outcome, Taken},
    handshake::HandshakeError,
    method,
};

/// The types of calls: plain, and of a stream.
const CALLS: [u64; 2] = [1, 4];
/// Those that stateful reconnect counts.
const COUNTED: std::ops::RangeInclusive<u64> = 1..=5;

impl Session {
    pub(super) fn on_too_long(&mut self, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Open(agreed) => self.excess = Some(Box::new(Excess::new(agreed.protocol))),
            Phase::Handshake | Phase::Ended => {
                self.refuse(&HandshakeError::Canceled, EndReason::HandshakeFailed, out);
            }
        }
    }

    /// Reads on in a message that is too long. Returns how many bytes were of it.
    pub(super) fn read_over(&mut self, bytes: &[u8], now: Instant, out: &mut Vec<Action>) -> usize {
        let Some(excess) = &mut self.excess else { return 0 };
        match excess.take(bytes) {
            Taken::More => bytes.len(),
            Taken::Whole { used, head } => {
                self.excess = None;
                self.on_excess(head, now, out);
                used
            }
            Taken::Endless => {
                self.fail_too_long(out);
                bytes.len()
            }
        }
    }

    fn on_excess(&mut self, head: Head, now: Instant, out: &mut Vec<Action>) {
        let Phase::Open(agreed) = self.phase else { return };
        self.heard = now;
        let Head { kind: Some(kind), invocation_id, target } = head else {
            return self.fail_too_long(out);
        };
        if COUNTED.contains(&kind)
            && let Some(replay) = &mut self.replay
            && (replay.awaits_sequence() || !replay.received(now))
        {
            return;
        }
        if !CALLS.contains(&kind) {
            return self.fail_too_long(out);
        }
        // Without an id there is no answer to any call.
        if let Some(id) = invocation_id {
            let text = format!(
                "message_too_large: esh3ar takes at most {} bytes in one message of a client",
                self.limits.max_message
            );
            let text = method::failed_with(&target.unwrap_or_default(), &text);
            self.say(codec::completion(agreed.protocol, &id, &Outcome::Error(text)), out);
        }
    }

    fn fail_too_long(&mut self, out: &mut Vec<Action>) {
        let detail = format!(
            "InvalidDataException: The maximum message size of {}B was exceeded. This is esh3ar's own \
             limit for a message of a client.",
            self.limits.max_message
        );
        self.fail(&detail, EndReason::TooLong, out);
    }
}
