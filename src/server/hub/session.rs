//! One connection of the hub as a state machine: bytes and the time go in, actions come out.
//!
//! It holds the rules of a connection: handshake first, one invocation at a time and in order,
//! timeouts, limits, and how a connection is ended. It knows no sockets and no methods: whoever
//! drives it does the actions in the order given, and calls [`Session::complete`] when an invocation
//! has ended. What the server itself calls on the client is written past it, once
//! [`Session::handshaken`] tells the protocol.

mod action;
mod input;
#[cfg(test)]
mod tests;

use std::{
    mem,
    time::{Duration, Instant},
};

pub use self::action::{Action, EndReason, Kind};
use self::input::Input;
use super::{
    codec::{self, Incoming, Outcome, Protocol, Split},
    handshake::{self, Agreed, HandshakeError},
};

/// The limits of a connection. The defaults are those of the official server, which the official
/// clients are made for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest message from a client in bytes, without its frame: 32 KiB.
    pub max_message: usize,
    /// The most unread input in bytes: 256 KiB. A driver that heeds [`Session::wants_input`] stays
    /// below it if no chunk it passes is longer than this less `max_message`.
    pub max_buffered: usize,
    /// From the start to the handshake: 15 s.
    pub handshake_timeout: Duration,
    /// How long a client that has pinged once may be silent: 30 s.
    pub client_timeout: Duration,
    /// From one ping of the server to the next: 15 s. Clients give up after 30 s without a message.
    pub ping_interval: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message: 32 * 1024,
            max_buffered: 256 * 1024,
            handshake_timeout: Duration::from_secs(15),
            client_timeout: Duration::from_secs(30),
            ping_interval: Duration::from_secs(15),
        }
    }
}

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
    input: Input,
    phase: Phase,
    /// Whether an invocation runs, which stops the clock on the client.
    running: bool,
    /// Whether the client has ever pinged: one that never does is never timed out.
    armed: bool,
    /// When the client's last whole message came, or its last invocation ended.
    heard: Instant,
    /// The next ping of the server; before the handshake, its timeout.
    due: Instant,
}

impl Session {
    /// A connection that has just been made.
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            input: Input::default(),
            phase: Phase::Handshake,
            running: false,
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
        if self.input.is_empty() && !self.running {
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
            out.push(Action::Send(codec::completion(agreed.protocol, id, &outcome)));
        }
        self.read_on(now, out);
    }

    /// A stream has ended, or could not begin: [`Kind::Stream`].
    pub fn end_stream(&mut self, id: &str, outcome: Outcome, out: &mut Vec<Action>) {
        if let Phase::Open(agreed) = self.phase {
            out.push(Action::Send(codec::completion(agreed.protocol, id, &outcome)));
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
        self.phase != Phase::Ended && (!self.running || self.input.is_empty())
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
        self.client_deadline().map_or(self.due, |deadline| deadline.min(self.due))
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
        if self.running || self.input.is_empty() {
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
            let rest = bytes.get(used..).unwrap_or_default();
            let max = self.limits.max_message;
            let split = match self.phase {
                Phase::Open(agreed) => codec::split(agreed.protocol, rest, scanned, max),
                Phase::Handshake | Phase::Ended => codec::split_record(rest, scanned, max),
            };
            match split {
                Split::Whole { payload, used: length } => {
                    self.on_message(rest.get(..payload).unwrap_or_default(), now, out);
                    used += length;
                    scanned = 0;
                }
                Split::Partial => return (used, rest.len()),
                Split::TooLong => self.on_too_long(out),
            }
        }
        (used, 0)
    }

    fn on_message(&mut self, payload: &[u8], now: Instant, out: &mut Vec<Action>) {
        let Phase::Open(Agreed { protocol, .. }) = self.phase else {
            return match handshake::judge(payload) {
                Ok(agreed) => {
                    self.phase = Phase::Open(agreed);
                    self.due = now + self.limits.ping_interval;
                    out.push(Action::Send(handshake::accepted()));
                    out.push(Action::HandshakeDone);
                }
                Err(error) => self.refuse(&error, EndReason::HandshakeFailed, out),
            };
        };
        self.heard = now;
        match codec::parse(protocol, payload) {
            Ok(message) => self.on_parsed(protocol, message, out),
            Err(error) => {
                let detail = format!("InvalidDataException: {error}");
                self.fail(&detail, EndReason::ProtocolError, out);
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
            Incoming::Close { .. } => {
                out.push(Action::Send(codec::close(protocol, None, false)));
                self.end(EndReason::ClientClosed, out);
            }
            // Items and ends of uploads nobody has begun, and streams to stop that do not run, are
            // to be ignored. Nothing is counted unless stateful reconnect was negotiated.
            Incoming::StreamItem { .. }
            | Incoming::Completion { .. }
            | Incoming::CancelInvocation { .. }
            | Incoming::Ack { .. }
            | Incoming::Sequence { .. }
            | Incoming::Unknown => {}
        }
    }

    fn on_too_long(&mut self, out: &mut Vec<Action>) {
        if self.phase == Phase::Handshake {
            return self.refuse(&HandshakeError::Canceled, EndReason::HandshakeFailed, out);
        }
        let detail = format!(
            "InvalidDataException: The maximum message size of {}B was exceeded. The message size \
             can be configured in AddHubOptions.",
            self.limits.max_message
        );
        self.fail(&detail, EndReason::TooLong, out);
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
        self.input = Input::default();
        out.push(Action::End { reason });
    }
}
