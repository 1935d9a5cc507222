//! Connections that may outlive their transport: what is kept for their clients, and how they come back.

use std::time::Instant;

use super::{EndReason, InputBuffer, Phase, Session, SessionAction};
use crate::server::hub::protocol::codec;

impl Session {
    /// Whether the connection may outlive its transport, as a handshake of this version asked for.
    pub fn is_stateful(&self) -> bool {
        self.replay.is_some()
    }

    /// Whether the transport is lost and the client may still come back.
    pub fn is_detached(&self) -> bool {
        self.detached_until.is_some()
    }

    /// Whether so much waits for the client's acknowledgement that no live message should be said.
    pub fn is_full(&self) -> bool {
        self.replay.as_ref().is_some_and(|replay| replay.is_full())
    }

    /// Whether so many bytes more can be kept until the client acknowledges them.
    pub fn has_room(&self, bytes: usize) -> bool {
        let kept = self.replay.as_ref().map_or(0, |replay| replay.size());
        kept + bytes <= self.limits.max_kept
    }

    /// Whether a client that comes back now would get everything that it may have missed.
    pub fn is_resumable(&self) -> bool {
        self.replay.as_ref().is_some_and(|replay| replay.is_whole())
    }

    /// Ends a connection whose client came back for what is not kept any more: it has to begin anew.
    pub fn abandon(&mut self, out: &mut Vec<SessionAction>) {
        if self.phase != Phase::Ended {
            self.end(EndReason::Abandoned, out);
        }
    }

    /// The transport was lost without a goodbye. Whether the connection lives on without it for a
    /// while; then [`Session::resume`] or the end follows.
    pub fn detach(&mut self, now: Instant) -> bool {
        if !self.is_resumable() || self.phase == Phase::Ended {
            return false;
        }
        // Half a message comes again from its beginning.
        (self.input, self.oversized) = (InputBuffer::default(), None);
        self.paused = false;
        self.detached_until = Some(now + self.limits.disconnect_timeout);
        true
    }

    /// The client is back on a new transport: says what it may have missed, from the beginning.
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
