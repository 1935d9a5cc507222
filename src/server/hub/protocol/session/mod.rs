//! One connection of the hub as a state machine: bytes and the time go in, actions come out.
//!
//! It holds the rules of a connection: handshake first, one invocation at a time and in order, timeouts,
//! limits, and the end of a connection. It knows no sockets and no methods. Its driver executes the actions
//! in order and calls [`Session::complete`] when an invocation has ended. Calls of the client pass through
//! [`Session::send`] or [`Session::count`].

mod action;
mod input_buffer;
mod limits;
mod oversized;
mod reconnect;
mod replay;
#[cfg(test)]
mod tests;

use std::{mem, time::Instant};

use bytes::Bytes;

pub use self::{
    action::{EndReason, InvocationKind, SessionAction},
    limits::{SessionLimits, TransportCapabilities},
};
use self::{input_buffer::InputBuffer, replay::ReplayBuffer};
use super::{
    codec::{self, ClientMessage, CompletionResult, OversizedMessage, Protocol, Split},
    handshake::{self, HandshakeError, HandshakeParams},
};
use crate::app::blocking::run_blocking;

/// Reference: the official server's limit.
const MAX_HANDSHAKE_LEN: usize = 32 * 1024;
/// Reading stops at this many actions, until the answers to them have been written.
const MAX_ACTIONS: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Handshake,
    Open(HandshakeParams),
    Ended,
}

/// Allocates nothing while no message is half received.
#[derive(Debug)]
pub struct Session {
    limits: SessionLimits,
    transport: TransportCapabilities,
    /// Only when stateful reconnect was negotiated.
    replay: Option<Box<ReplayBuffer>>,
    /// The transport is lost; the client may reconnect until then.
    detached_until: Option<Instant>,
    input: InputBuffer,
    /// An oversized message is being skipped.
    oversized: Option<Box<OversizedMessage>>,
    phase: Phase,
    /// An invocation runs: the client's timeout is suspended.
    running: bool,
    /// Reading waits for [`Session::resume_reading`].
    paused: bool,
    /// A client that never pings is never timed out.
    client_pings: bool,
    /// The client's last whole message, or the end of its last invocation.
    last_activity: Instant,
    /// The next ping of the server; before the handshake, the handshake timeout.
    server_deadline: Instant,
}

impl Session {
    pub fn new(limits: SessionLimits, transport: TransportCapabilities, now: Instant) -> Self {
        Self {
            limits,
            transport,
            replay: None,
            detached_until: None,
            input: InputBuffer::default(),
            oversized: None,
            phase: Phase::Handshake,
            running: false,
            paused: false,
            client_pings: false,
            last_activity: now,
            server_deadline: now + limits.handshake_timeout,
        }
    }

    /// Input from the client, cut anywhere.
    pub fn on_bytes(&mut self, bytes: &[u8], now: Instant, out: &mut Vec<SessionAction>) {
        if self.phase == Phase::Ended {
            return;
        }
        // Most frames hold whole messages, and no input waits before them: those are read in place.
        if self.input.is_empty() && !self.running && !self.paused {
            let (used, scanned) = self.process(bytes, 0, now, out);
            let rest = bytes.get(used..).unwrap_or_default();
            if !rest.is_empty() {
                self.buffer(rest, out);
                self.input.advance(0, scanned);
            }
        } else {
            self.buffer(bytes, out);
            self.process_buffered(now, out);
        }
    }

    /// Handles timeouts. Call it at [`Session::next_deadline`]; earlier is harmless.
    pub fn on_tick(&mut self, now: Instant, out: &mut Vec<SessionAction>) {
        if let Some(until) = self.detached_until {
            if now >= until && self.phase != Phase::Ended {
                self.end(EndReason::Abandoned, out);
            }
            return;
        }
        if let (Phase::Open(agreed), Some(replay)) = (self.phase, &mut self.replay)
            && let Some(id) = replay.acknowledge(now)
        {
            out.push(SessionAction::Send(codec::acknowledgement(agreed.protocol, id)));
        }
        match self.phase {
            Phase::Handshake if now >= self.server_deadline => {
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
            Phase::Open(agreed) if now >= self.server_deadline => {
                self.server_deadline = now + self.limits.ping_interval;
                out.push(SessionAction::Send(codec::ping(agreed.protocol)));
            }
            // An ended session has no deadlines, but its driver may still ask for one.
            Phase::Ended => self.server_deadline = now + self.limits.ping_interval,
            Phase::Handshake | Phase::Open(_) => {}
        }
    }

    /// The running invocation has ended: sends its completion if it has an id, then processes the input
    /// that waited. Does nothing when none runs or the connection has ended.
    pub fn complete(
        &mut self,
        invocation_id: Option<&str>,
        outcome: CompletionResult,
        now: Instant,
        out: &mut Vec<SessionAction>,
    ) {
        let Phase::Open(agreed) = self.phase else { return };
        if !mem::take(&mut self.running) {
            return;
        }
        self.last_activity = now;
        if let Some(id) = invocation_id {
            self.send(codec::completion(agreed.protocol, id, &outcome), out);
        }
        self.process_buffered(now, out);
    }

    /// Lets input continue although the running invocation is not done: its answer depends on the client
    /// and follows by [`Session::answer`].
    pub fn release(&mut self, now: Instant, out: &mut Vec<SessionAction>) {
        if mem::take(&mut self.running) {
            self.last_activity = now;
            self.process_buffered(now, out);
        }
    }

    /// Completes an invocation for which input does not wait: an [`InvocationKind::Stream`], or one that
    /// was released.
    pub fn answer(&mut self, id: &str, outcome: &CompletionResult, out: &mut Vec<SessionAction>) {
        if let Phase::Open(agreed) = self.phase {
            self.send(codec::completion(agreed.protocol, id, outcome), out);
        }
    }

    /// Sends a message of the server's own: a call of the client, an item of a stream.
    pub fn send(&mut self, message: Bytes, out: &mut Vec<SessionAction>) {
        self.count(&message);
        out.push(SessionAction::Send(message));
    }

    /// Counts a message that the driver writes itself. Every message to the client has to pass through here
    /// or through [`Session::send`]; otherwise a client that reconnects misses it.
    pub fn count(&mut self, message: &Bytes) {
        if let Some(replay) = &mut self.replay {
            replay.sent(message, self.limits.max_kept);
        }
    }

    /// Stops reading until [`Session::resume_reading`]: answers may be many times as long as their
    /// requests, so a driver with a full output buffer must not read more.
    pub fn pause(&mut self) {
        self.paused = self.phase != Phase::Ended;
    }

    /// Also true when the session paused itself.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// The answers have been written.
    pub fn resume_reading(&mut self, now: Instant, out: &mut Vec<SessionAction>) {
        if mem::take(&mut self.paused) {
            self.process_buffered(now, out);
        }
    }

    /// Closes the connection. `error` is the whole text for the client; a client reconnects by itself only
    /// with `allow_reconnect`.
    pub fn close(
        &mut self,
        error: Option<&str>,
        allow_reconnect: bool,
        out: &mut Vec<SessionAction>,
    ) {
        match self.phase {
            Phase::Handshake => {
                self.refuse(&HandshakeError::Canceled, EndReason::HandshakeFailed, out);
            }
            Phase::Open(agreed) => {
                out.push(SessionAction::Send(codec::close(
                    agreed.protocol,
                    error,
                    allow_reconnect,
                )));
                self.end(EndReason::ServerClosed, out);
            }
            Phase::Ended => {}
        }
    }

    /// Whether the driver should read from the client. While an invocation runs one chunk is buffered; the
    /// transport holds back the rest.
    pub fn wants_input(&self) -> bool {
        self.phase != Phase::Ended && !self.paused && (!self.running || self.input.is_empty())
    }

    /// `None` before the handshake and after the end.
    pub fn protocol(&self) -> Option<Protocol> {
        self.handshake_params().map(|agreed| agreed.protocol)
    }

    /// `None` before the handshake and after the end.
    pub fn handshake_params(&self) -> Option<HandshakeParams> {
        match self.phase {
            Phase::Open(agreed) => Some(agreed),
            Phase::Handshake | Phase::Ended => None,
        }
    }

    /// When to call [`Session::on_tick`].
    pub fn next_deadline(&self) -> Instant {
        if let Some(until) = self.detached_until {
            return until;
        }
        let acknowledge = self.replay.as_ref().and_then(|replay| replay.next_deadline());
        let others = [self.client_deadline(), acknowledge].into_iter().flatten();
        others.fold(self.server_deadline, Instant::min)
    }

    fn client_deadline(&self) -> Option<Instant> {
        let counts = self.client_pings && !self.running && matches!(self.phase, Phase::Open(_));
        counts.then(|| self.last_activity + self.limits.client_timeout)
    }

    fn buffer(&mut self, bytes: &[u8], out: &mut Vec<SessionAction>) {
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

    fn process_buffered(&mut self, now: Instant, out: &mut Vec<SessionAction>) {
        if self.running || self.paused || self.input.is_empty() {
            return;
        }
        let mut input = mem::take(&mut self.input);
        let (used, scanned) = self.process(input.unread(), input.scanned(), now, out);
        if self.phase != Phase::Ended {
            input.advance(used, scanned);
            self.input = input;
        }
    }

    /// Reads messages until one is incomplete, an invocation runs or the connection ends. Returns how many
    /// bytes were read, and how many after them contain no end of a message.
    fn process(
        &mut self,
        bytes: &[u8],
        mut scanned: usize,
        now: Instant,
        out: &mut Vec<SessionAction>,
    ) -> (usize, usize) {
        let mut used = 0;
        while !self.running && self.phase != Phase::Ended {
            self.paused |= out.len() >= MAX_ACTIONS;
            if self.paused {
                break;
            }
            let rest = bytes.get(used..).unwrap_or_default();
            if self.oversized.is_some() {
                used += self.skip_oversized(rest, now, out);
                if used == bytes.len() {
                    break;
                }
                continue;
            }
            let max = self.limits.max_message;
            let split = match self.phase {
                Phase::Open(agreed) => codec::split(agreed.protocol, rest, scanned, max),
                Phase::Handshake | Phase::Ended => {
                    codec::split_record(rest, scanned, max.min(MAX_HANDSHAKE_LEN))
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

    fn on_message(&mut self, payload: &[u8], now: Instant, out: &mut Vec<SessionAction>) {
        let Phase::Open(HandshakeParams { protocol, .. }) = self.phase else {
            return match handshake::parse_request(payload, self.transport.text_only) {
                Ok(agreed) => {
                    self.phase = Phase::Open(agreed);
                    if self.transport.stateful && agreed.version >= handshake::STATEFUL_VERSION {
                        self.replay = Some(Box::default());
                    }
                    self.server_deadline = now + self.limits.ping_interval;
                    out.push(SessionAction::Send(handshake::success_response()));
                    out.push(SessionAction::HandshakeDone);
                }
                Err(error) => self.refuse(&error, EndReason::HandshakeFailed, out),
            };
        };
        self.last_activity = now;
        match run_blocking(payload.len(), || codec::parse(protocol, payload)) {
            Ok(message) if self.is_new(&message, now) => self.on_parsed(protocol, message, out),
            Ok(_) => {}
            Err(error) => {
                let detail = format!("InvalidDataException: {error}");
                self.fail(&detail, EndReason::ProtocolError, out);
            }
        }
    }

    /// With stateful reconnect, messages processed before are skipped, and so is everything between a
    /// reconnect and its [`ClientMessage::Sequence`].
    fn is_new(&mut self, message: &ClientMessage, now: Instant) -> bool {
        let Some(replay) = &mut self.replay else { return true };
        match message {
            ClientMessage::Sequence { .. } => true,
            _ if replay.awaits_sequence() => false,
            ClientMessage::Invocation { .. }
            | ClientMessage::StreamInvocation { .. }
            | ClientMessage::StreamItem { .. }
            | ClientMessage::Completion { .. }
            | ClientMessage::CancelInvocation { .. } => replay.received(now),
            ClientMessage::Ping
            | ClientMessage::Close { .. }
            | ClientMessage::Ack { .. }
            | ClientMessage::Unknown => true,
        }
    }

    fn on_parsed(
        &mut self,
        protocol: Protocol,
        message: ClientMessage,
        out: &mut Vec<SessionAction>,
    ) {
        match message {
            ClientMessage::Invocation { invocation_id, target, arguments, stream_ids } => {
                self.running = true;
                let kind = InvocationKind::Plain;
                out.push(SessionAction::Invoke {
                    invocation_id,
                    target,
                    arguments,
                    stream_ids,
                    kind,
                });
            }
            ClientMessage::StreamInvocation { invocation_id, target, arguments, stream_ids } => {
                let invocation_id = Some(invocation_id);
                let kind = InvocationKind::Stream;
                out.push(SessionAction::Invoke {
                    invocation_id,
                    target,
                    arguments,
                    stream_ids,
                    kind,
                });
            }
            ClientMessage::Ping => self.client_pings = true,
            ClientMessage::Close { error, .. } => {
                out.push(SessionAction::Send(codec::close(protocol, None, false)));
                let failed = error.is_some_and(|error| !error.is_empty());
                let reason = if failed { EndReason::ClientFailed } else { EndReason::ClientClosed };
                self.end(reason, out);
            }
            ClientMessage::StreamItem { invocation_id, item } => {
                out.push(SessionAction::StreamItem { id: invocation_id, item });
            }
            ClientMessage::Completion { invocation_id, outcome } => {
                out.push(SessionAction::Completion { id: invocation_id, outcome });
            }
            ClientMessage::CancelInvocation { invocation_id } => {
                out.push(SessionAction::Cancel { id: invocation_id });
            }
            ClientMessage::Ack { sequence_id } => {
                if let Some(replay) = &mut self.replay {
                    replay.acknowledged(sequence_id);
                }
            }
            ClientMessage::Sequence { sequence_id } => {
                let known = self.replay.as_mut().is_none_or(|r| r.begin_at(sequence_id));
                if !known {
                    let detail = "InvalidOperationException: Sequence ID greater than amount of \
                                  messages we've received.";
                    self.fail(detail, EndReason::ProtocolError, out);
                }
            }
            ClientMessage::Unknown => {}
        }
    }

    fn refuse(&mut self, error: &HandshakeError, reason: EndReason, out: &mut Vec<SessionAction>) {
        out.push(SessionAction::Send(handshake::error_response(error)));
        self.end(reason, out);
    }

    /// Ends a connection with an error. The client may reconnect: only the application forbids that.
    fn fail(&mut self, detail: &str, reason: EndReason, out: &mut Vec<SessionAction>) {
        match self.phase {
            Phase::Handshake => self.refuse(&HandshakeError::Canceled, reason, out),
            Phase::Open(agreed) => {
                let text = format!("Connection closed with an error. {detail}");
                out.push(SessionAction::Send(codec::close(agreed.protocol, Some(&text), true)));
                self.end(reason, out);
            }
            Phase::Ended => {}
        }
    }

    fn end(&mut self, reason: EndReason, out: &mut Vec<SessionAction>) {
        self.phase = Phase::Ended;
        self.running = false;
        self.paused = false;
        (self.input, self.oversized) = (InputBuffer::default(), None);
        self.replay = None;
        out.push(SessionAction::End { reason });
    }
}
