//! Stateful reconnect: connections that outlive their transport.

use std::time::Instant;

use super::{EndReason, InputBuffer, Phase, Session, SessionAction};
use crate::server::hub::protocol::codec;

impl Session {
    /// Whether stateful reconnect was negotiated, and asked for in the handshake.
    pub fn is_stateful(&self) -> bool {
        self.replay.is_some()
    }

    pub fn is_detached(&self) -> bool {
        self.detached_until.is_some()
    }

    /// Whether so many bytes are unacknowledged that no live message should be sent.
    pub fn is_full(&self) -> bool {
        self.replay.as_ref().is_some_and(|replay| replay.is_full())
    }

    /// Whether this many more bytes can be kept until the client acknowledges them.
    pub fn has_room(&self, bytes: usize) -> bool {
        let kept = self.replay.as_ref().map_or(0, |replay| replay.size());
        kept + bytes <= self.limits.max_kept
    }

    /// Whether everything that a reconnecting client may have missed is kept.
    pub fn is_resumable(&self) -> bool {
        self.replay.as_ref().is_some_and(|replay| replay.is_whole())
    }

    /// Ends a connection whose client misses messages that are no longer kept: it has to start anew.
    pub fn abandon(&mut self, out: &mut Vec<SessionAction>) {
        if self.phase != Phase::Ended {
            self.end(EndReason::Abandoned, out);
        }
    }

    /// The transport was lost. Returns whether the connection continues without one; then
    /// [`Session::resume`] or the end follows.
    pub fn detach(&mut self, now: Instant) -> bool {
        if !self.is_resumable() || self.phase == Phase::Ended {
            return false;
        }
        // The client resends a half-received message from its beginning.
        (self.input, self.oversized) = (InputBuffer::default(), None);
        self.paused = false;
        self.detached_until = Some(now + self.limits.disconnect_timeout);
        true
    }

    /// The client is back on a new transport: replays the messages that it may have missed.
    pub fn resume(&mut self, now: Instant, out: &mut Vec<SessionAction>) {
        let (Phase::Open(agreed), Some(replay)) = (self.phase, &mut self.replay) else { return };
        self.detached_until = None;
        (self.input, self.oversized) = (InputBuffer::default(), None);
        self.paused = false;
        self.last_activity = now;
        self.server_deadline = now + self.limits.ping_interval;
        let (first, kept) = replay.resume();
        out.push(SessionAction::Send(codec::sequence(agreed.protocol, first)));
        out.extend(kept.map(SessionAction::Send));
    }
}
