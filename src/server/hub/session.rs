//! One connection of the hub as a state machine: bytes and the time go in, actions come out.
//!
//! It holds the rules of a connection: handshake first, one invocation at a time and in order,
//! timeouts, limits, and how a connection is ended. It knows no sockets and no methods: whoever
//! drives it does the actions in the order given, and calls [`Session::complete`] when an invocation
//! has ended. What the server itself calls on the client is written past it, once
//! [`Session::handshaken`] tells the protocol.

mod action;
mod excess;
mod input;
mod limits;
mod replay;
mod returning;
#[cfg(test)]
mod tests;

use std::{mem, time::Instant};

use bytes::Bytes;

pub use self::{
    action::{Action, EndReason, Kind},
    limits::{Channel, Limits},
};
use self::{input::Input, replay::Replay};
use super::{
    codec::{self, Excess, Incoming, Outcome, Protocol, Split},
    handshake::{self, Agreed, HandshakeError},
};
use crate::app::off_loop::off_loop;

/// The longest handshake, in bytes (reference: the official server's limit).
const LONGEST_HANDSHAKE: usize = 32 * 1024;
/// So many actions at once: what they are answered has to go out before more is read.
const MOST_ACTIONS: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Handshake,
    Open(Agreed),
    Ended,
}

/// The state of one connection. Holds no memory of its own while nothing is half received.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    channel: Channel,
    /// Both directions' counts, where the connection may outlive its transport.
    replay: Option<Box<Replay>>,
    /// The transport is lost; until then the client may come back.
    away_until: Option<Instant>,
    input: Input,
    /// A message that is too long is being read over.
    excess: Option<Box<Excess>>,
    phase: Phase,
    /// Whether an invocation runs, which stops the clock on the client.
    running: bool,
    /// Nothing is read until [`Session::go_on`]: so much was asked for that its answers come first.
    paused: bool,
    /// Whether the client has ever pinged: one that never does is never timed out.
    armed: bool,
    /// When the client's last whole message came, or its last invocation ended.
    heard: Instant,
    /// The next ping of the server; before the handshake, its timeout.
    due: Instant,
}

impl Session {
    /// A connection that has just been made.
    pub fn new(limits: Limits, channel: Channel, now: Instant) -> Self {
        Self {
            limits,
            channel,
            replay: None,
            away_until: None,
            input: Input::default(),
            excess: None,
            phase: Phase::Handshake,
            running: false,
            paused: false,
            armed: false,
            heard: now,
            due: now + limits.handshake_timeout,
        }
    }

    /// Takes bytes from the client, cut anywhere.
    pub fn on_bytes(&mut self, bytes: &[u8], now: Instant, out: &mut Vec<Action>) {
        if self.phase == Phase::Ended {
            return;
        }
        // Most frames are whole messages and find nothing before them: those are read in place.
        if self.input.is_empty() && !self.running && !self.paused {
            let (used, scanned) = self.read(bytes, 0, now, out);
            let rest = bytes.get(used..).unwrap_or_default();
            if !rest.is_empty() {
                self.keep(rest, out);
                self.input.advance(0, scanned);
            }
        } else {
            self.keep(bytes, out);
            self.read_on(now, out);
        }
    }

    /// Does what time demands. To be called at [`Session::next_deadline`]; earlier does no harm.
    pub fn on_tick(&mut self, now: Instant, out: &mut Vec<Action>) {
        if let Some(until) = self.away_until {
            if now >= until && self.phase != Phase::Ended {
                self.end(EndReason::Abandoned, out);
            }
            return;
        }
        if let (Phase::Open(agreed), Some(replay)) = (self.phase, &mut self.replay)
            && let Some(id) = replay.acknowledge(now)
        {
            out.push(Action::Send(codec::acknowledgement(agreed.protocol, id)));
        }
        match self.phase {
            Phase::Handshake if now >= self.due => {
                self.refuse(&HandshakeError::Canceled, EndReason::HandshakeTimeout, out);
            }
            Phase::Open(_) if self.client_deadline().is_some_and(|deadline| now >= deadline) => {
                self.fail(
                    "OperationCanceledException: Client hasn't sent a message/ping within the \
                     configured ClientTimeoutInterval.",
                    EndReason::ClientTimeout,
                    out,
                );
            }
            Phase::Open(agreed) if now >= self.due => {
                self.due = now + self.limits.ping_interval;
                out.push(Action::Send(codec::ping(agreed.protocol)));
            }
            // An ended session has no deadlines, yet its driver may still ask for one.
            Phase::Ended => self.due = now + self.limits.ping_interval,
            Phase::Handshake | Phase::Open(_) => {}
        }
    }

    /// The running invocation has ended: answers it if it had an id, then goes on with the input
    /// that waited for it. Nothing happens when none runs, or the connection has ended meanwhile.
    pub fn complete(
        &mut self,
        invocation_id: Option<&str>,
        outcome: Outcome,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Phase::Open(agreed) = self.phase else { return };
        if !mem::take(&mut self.running) {
            return;
        }
        self.heard = now;
        if let Some(id) = invocation_id {
            self.say(codec::completion(agreed.protocol, id, &outcome), out);
        }
        self.read_on(now, out);
    }

    /// The running invocation holds the line no longer: its answer comes later, by
    /// [`Session::answer`]. So it is with those that wait for the client itself.
    pub fn release(&mut self, now: Instant, out: &mut Vec<Action>) {
        if mem::take(&mut self.running) {
            self.heard = now;
            self.read_on(now, out);
        }
    }

    /// Answers an invocation that does not hold the line: a stream has ended or could not begin
    /// ([`Kind::Stream`]), or one that was released is done.
    pub fn answer(&mut self, id: &str, outcome: &Outcome, out: &mut Vec<Action>) {
        if let Phase::Open(agreed) = self.phase {
            self.say(codec::completion(agreed.protocol, id, outcome), out);
        }
    }

    /// Says something of the server's own accord: calls of the client, items of streams. Whole
    /// messages only.
    pub fn say(&mut self, message: Bytes, out: &mut Vec<Action>) {
        self.count(&message);
        out.push(Action::Send(message));
    }

    /// Counts a message that the driver writes by itself. All that goes to the client has to pass
    /// here or through [`Session::say`], or a client that comes back misses it.
    pub fn count(&mut self, message: &Bytes) {
        if let Some(replay) = &mut self.replay {
            replay.sent(message, self.limits.max_kept);
        }
    }

    /// Reads nothing more until [`Session::go_on`]. For a driver that has much to send: what is read
    /// is answered, and answers may be many times as long as what asked for them.
    pub fn pause(&mut self) {
        self.paused = self.phase != Phase::Ended;
    }

    /// Whether reading waits for [`Session::go_on`]. It may begin by itself, too.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// What was answered has gone out: reads on.
    pub fn go_on(&mut self, now: Instant, out: &mut Vec<Action>) {
        if mem::take(&mut self.paused) {
            self.read_on(now, out);
        }
    }

    /// Says goodbye. `error` is the whole text for the client; `allow_reconnect` invites it to come
    /// back at once, as on a restart, and its absence tells it to stay away.
    pub fn close(&mut self, error: Option<&str>, allow_reconnect: bool, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Handshake => {
                self.refuse(&HandshakeError::Canceled, EndReason::HandshakeFailed, out);
            }
            Phase::Open(agreed) => {
                out.push(Action::Send(codec::close(agreed.protocol, error, allow_reconnect)));
                self.end(EndReason::ServerClosed, out);
            }
            Phase::Ended => {}
        }
    }

    /// Whether the driver should read from the client. While an invocation runs, what comes is kept
    /// unread; one chunk of that is enough, and the transport holds back the rest.
    pub fn wants_input(&self) -> bool {
        self.phase != Phase::Ended && !self.paused && (!self.running || self.input.is_empty())
    }

    /// The protocol, from the handshake to the end.
    pub fn handshaken(&self) -> Option<Protocol> {
        self.agreed().map(|agreed| agreed.protocol)
    }

    /// What the handshake agreed on, from the handshake to the end.
    pub fn agreed(&self) -> Option<Agreed> {
        match self.phase {
            Phase::Open(agreed) => Some(agreed),
            Phase::Handshake | Phase::Ended => None,
        }
    }

    /// When [`Session::on_tick`] is next to be called.
    pub fn next_deadline(&self) -> Instant {
        if let Some(until) = self.away_until {
            return until;
        }
        let acknowledge = self.replay.as_ref().and_then(|replay| replay.next_deadline());
        let others = [self.client_deadline(), acknowledge].into_iter().flatten();
        others.fold(self.due, Instant::min)
    }

    fn client_deadline(&self) -> Option<Instant> {
        let counts = self.armed && !self.running && matches!(self.phase, Phase::Open(_));
        counts.then(|| self.heard + self.limits.client_timeout)
    }

    fn keep(&mut self, bytes: &[u8], out: &mut Vec<Action>) {
        if self.phase == Phase::Ended {
            return;
        }
        if self.input.len().saturating_add(bytes.len()) > self.limits.max_buffered {
            self.fail(
                &format!(
                    "InvalidDataException: More than {}B wait to be read.",
                    self.limits.max_buffered
                ),
                EndReason::TooLong,
                out,
            );
        } else {
            self.input.push(bytes);
        }
    }

    fn read_on(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.running || self.paused || self.input.is_empty() {
            return;
        }
        let mut input = mem::take(&mut self.input);
        let (used, scanned) = self.read(input.unread(), input.scanned(), now, out);
        if self.phase != Phase::Ended {
            input.advance(used, scanned);
            self.input = input;
        }
    }

    /// Reads messages until one is incomplete, an invocation runs or the connection ends. Returns
    /// how many bytes it has read, and how many after them hold no end of a message.
    fn read(
        &mut self,
        bytes: &[u8],
        mut scanned: usize,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> (usize, usize) {
        let mut used = 0;
        while !self.running && self.phase != Phase::Ended {
            self.paused |= out.len() >= MOST_ACTIONS;
            if self.paused {
                break;
            }
            let rest = bytes.get(used..).unwrap_or_default();
            if self.excess.is_some() {
                used += self.read_over(rest, now, out);
                if used == bytes.len() {
                    break;
                }
                continue;
            }
            let max = self.limits.max_message;
            let split = match self.phase {
                Phase::Open(agreed) => codec::split(agreed.protocol, rest, scanned, max),
                Phase::Handshake | Phase::Ended => {
                    codec::split_record(rest, scanned, max.min(LONGEST_HANDSHAKE))
                }
            };
            match split {
                Split::Whole { start, end, used: length } => {
                    self.on_message(rest.get(start..end).unwrap_or_default(), now, out);
                    used += length;
                    scanned = 0;
                }
                Split::Partial => return (used, rest.len()),
                Split::TooLong => {
                    self.on_too_long(out);
                    scanned = 0;
                }
            }
        }
        (used, 0)
    }

    fn on_message(&mut self, payload: &[u8], now: Instant, out: &mut Vec<Action>) {
        let Phase::Open(Agreed { protocol, .. }) = self.phase else {
            return match handshake::judge(payload, self.channel.text_only) {
                Ok(agreed) => {
                    self.phase = Phase::Open(agreed);
                    if self.channel.stateful && agreed.version >= handshake::STATEFUL_VERSION {
                        self.replay = Some(Box::default());
                    }
                    self.due = now + self.limits.ping_interval;
                    out.push(Action::Send(handshake::accepted()));
                    out.push(Action::HandshakeDone);
                }
                Err(error) => self.refuse(&error, EndReason::HandshakeFailed, out),
            };
        };
        self.heard = now;
        match off_loop(payload.len(), || codec::parse(protocol, payload)) {
            Ok(message) if self.is_new(&message, now) => self.on_parsed(protocol, message, out),
            Ok(_) => {}
            Err(error) => {
                let detail = format!("InvalidDataException: {error}");
                self.fail(&detail, EndReason::ProtocolError, out);
            }
        }
    }

    /// Whether a message is to be looked at: on a connection that may outlive its transport, what
    /// was seen before is not, nor anything between a return and its [`Incoming::Sequence`].
    fn is_new(&mut self, message: &Incoming, now: Instant) -> bool {
        let Some(replay) = &mut self.replay else { return true };
        match message {
            Incoming::Sequence { .. } => true,
            _ if replay.awaits_sequence() => false,
            Incoming::Invocation { .. }
            | Incoming::StreamInvocation { .. }
            | Incoming::StreamItem { .. }
            | Incoming::Completion { .. }
            | Incoming::CancelInvocation { .. } => replay.received(now),
            Incoming::Ping | Incoming::Close { .. } | Incoming::Ack { .. } | Incoming::Unknown => {
                true
            }
        }
    }

    fn on_parsed(&mut self, protocol: Protocol, message: Incoming, out: &mut Vec<Action>) {
        match message {
            Incoming::Invocation { invocation_id, target, arguments, stream_ids } => {
                self.running = true;
                let kind = Kind::Plain;
                out.push(Action::Invoke { invocation_id, target, arguments, stream_ids, kind });
            }
            Incoming::StreamInvocation { invocation_id, target, arguments, stream_ids } => {
                let invocation_id = Some(invocation_id);
                let kind = Kind::Stream;
                out.push(Action::Invoke { invocation_id, target, arguments, stream_ids, kind });
            }
            Incoming::Ping => self.armed = true,
            Incoming::Close { error, .. } => {
                out.push(Action::Send(codec::close(protocol, None, false)));
                let failed = error.is_some_and(|error| !error.is_empty());
                let reason = if failed { EndReason::ClientFailed } else { EndReason::ClientClosed };
                self.end(reason, out);
            }
            Incoming::StreamItem { invocation_id, item } => {
                out.push(Action::Item { id: invocation_id, item });
            }
            Incoming::Completion { invocation_id, outcome } => {
                out.push(Action::Settle { id: invocation_id, outcome });
            }
            Incoming::CancelInvocation { invocation_id } => {
                out.push(Action::Cancel { id: invocation_id });
            }
            Incoming::Ack { sequence_id } => {
                if let Some(replay) = &mut self.replay {
                    replay.acknowledged(sequence_id);
                }
            }
            Incoming::Sequence { sequence_id } => {
                let known = self.replay.as_mut().is_none_or(|r| r.begin_at(sequence_id));
                if !known {
                    let detail = "InvalidOperationException: Sequence ID greater than amount of \
                                  messages we've received.";
                    self.fail(detail, EndReason::ProtocolError, out);
                }
            }
            Incoming::Unknown => {}
        }
    }

    fn refuse(&mut self, error: &HandshakeError, reason: EndReason, out: &mut Vec<Action>) {
        out.push(Action::Send(handshake::refused(error)));
        self.end(reason, out);
    }

    /// Ends a connection for an error. The client may come back: only an application that sends
    /// somebody away forbids that.
    fn fail(&mut self, detail: &str, reason: EndReason, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Handshake => self.refuse(&HandshakeError::Canceled, reason, out),
            Phase::Open(agreed) => {
                let text = format!("Connection closed with an error. {detail}");
                out.push(Action::Send(codec::close(agreed.protocol, Some(&text), true)));
                self.end(reason, out);
            }
            Phase::Ended => {}
        }
    }

    fn end(&mut self, reason: EndReason, out: &mut Vec<Action>) {
        self.phase = Phase::Ended;
        self.running = false;
        self.paused = false;
        (self.input, self.excess) = (Input::default(), None);
        self.replay = None;
        out.push(Action::End { reason });
    }
}
