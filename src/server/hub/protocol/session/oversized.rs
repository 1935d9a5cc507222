//! Oversized messages: each is skipped and answered with an error, and the connection stays open.

use std::time::Instant;

use super::{EndReason, Phase, Session, SessionAction};
use crate::server::hub::protocol::{
    codec::{self, CompletionResult, MessageHead, OversizedMessage, SkipProgress},
    error_text::invocation_failed,
    handshake::HandshakeError,
};

/// The message types Invocation and StreamInvocation.
const INVOCATIONS: [u64; 2] = [1, 4];
/// The message types that stateful reconnect counts.
const SEQUENCED: std::ops::RangeInclusive<u64> = 1..=5;

impl Session {
    pub(super) fn on_too_long(&mut self, out: &mut Vec<SessionAction>) {
        match self.phase {
            Phase::Open(agreed) => {
                self.oversized = Some(Box::new(OversizedMessage::new(agreed.protocol)))
            }
            Phase::Handshake | Phase::Ended => {
                self.refuse(&HandshakeError::Canceled, EndReason::HandshakeFailed, out);
            }
        }
    }

    /// Returns how many bytes belong to the oversized message.
    pub(super) fn skip_oversized(
        &mut self,
        bytes: &[u8],
        now: Instant,
        out: &mut Vec<SessionAction>,
    ) -> usize {
        let Some(oversized) = &mut self.oversized else { return 0 };
        match oversized.take(bytes) {
            SkipProgress::More => bytes.len(),
            SkipProgress::Whole { used, head } => {
                self.oversized = None;
                self.on_oversized_end(head, now, out);
                used
            }
            SkipProgress::TooLong => {
                self.fail_too_long(out);
                bytes.len()
            }
        }
    }

    fn on_oversized_end(&mut self, head: MessageHead, now: Instant, out: &mut Vec<SessionAction>) {
        let Phase::Open(agreed) = self.phase else { return };
        self.last_activity = now;
        let MessageHead { kind: Some(kind), invocation_id, target } = head else {
            return self.fail_too_long(out);
        };
        if SEQUENCED.contains(&kind)
            && let Some(replay) = &mut self.replay
            && (replay.awaits_sequence() || !replay.received(now))
        {
            return;
        }
        if !INVOCATIONS.contains(&kind) {
            return self.fail_too_long(out);
        }
        // A call without an id gets no answer.
        if let Some(id) = invocation_id {
            let text = format!(
                "message_too_large: esh3ar takes at most {} bytes in one message of a client",
                self.limits.max_message
            );
            let text = invocation_failed(&target.unwrap_or_default(), &text);
            self.send(codec::completion(agreed.protocol, &id, &CompletionResult::Error(text)), out);
        }
    }

    fn fail_too_long(&mut self, out: &mut Vec<SessionAction>) {
        let detail = format!(
            "InvalidDataException: The maximum message size of {}B was exceeded. This is esh3ar's own \
             limit for a message of a client.",
            self.limits.max_message
        );
        self.fail(&detail, EndReason::TooLong, out);
    }
}
