//! One WebSocket of the hub, from the upgrade to its end.
//!
//! The driver moves bytes and time between the socket, the [`Session`] (the protocol), the [`Feed`]
//! (which messages are due) and the seat in the registry. It decides nothing that those can decide.
//! An idle connection holds no buffer here.

mod feeding;

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _, future::BoxFuture};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::time::{Sleep, sleep_until, timeout};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message as Frame,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tokio_util::sync::CancellationToken;

use feeding::Times;

use super::{
    codec::{self, Outcome, Protocol},
    methods::{Call, Done},
    session::{Action, EndReason, Kind, Limits, Session},
};
use crate::{
    app::{App, Caller, Error},
    domain::{
        Message, Party,
        feed::{Attempt, Feed},
    },
    presence::{Delivery, Outbound, Seat},
};

/// The read buffer of a socket. The library's own default would be 128 KiB for each idle connection.
const READ_BUFFER: usize = 2 * 1024;
/// The largest WebSocket message: several hub messages of 32 KiB may come in one.
const LARGEST_FRAME: usize = 128 * 1024;
/// How long one write may take before the client counts as stuck.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the client may take to answer our closing frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// A frame is sent when it has grown to this, even if more is waiting.
const FULL_FRAME: usize = 64 * 1024;
/// How long the answer to the handshake waits for the first page, so that a client that has
/// connected gets everything sent from then on as live messages.
const FIRST_PAGE_WAIT: Duration = Duration::from_secs(2);
/// The wait before a failed read is tried again.
const READ_AGAIN: Duration = Duration::from_millis(500);
/// Connections that are told to go in one second when the process stops.
const WAVE: u64 = 500;

type Socket = WebSocketStream<TokioIo<Upgraded>>;
type Running = BoxFuture<'static, (Option<String>, Done)>;
type Reading = BoxFuture<'static, Result<Vec<Message>, Error>>;

struct Driver {
    app: App,
    caller: Caller,
    session: Session,
    /// Taken at the end of the handshake; business users have no feed.
    seat: Option<Seat>,
    feed: Option<Feed>,
    /// Whole hub messages that go out in the next frame.
    outbox: BytesMut,
    /// Until then nothing goes out.
    held_until: Option<Instant>,
    connected_at: time::OffsetDateTime,
    /// What was written here, was not acknowledged in time, and still is not.
    missed: Vec<Attempt>,
    running: Option<Running>,
    reading: Option<Reading>,
    /// Messages that came during a read.
    deferred: Vec<Arc<Delivery>>,
    /// A read failed: none before this.
    read_again_at: Option<Instant>,
    actions: Vec<Action>,
    ended: Option<EndReason>,
}

enum Event {
    Input(Option<Result<Frame, tokio_tungstenite::tungstenite::Error>>),
    Outbound(Option<Outbound>),
    Done(Option<String>, Done),
    Read(Result<Vec<Message>, Error>),
    Tick,
    Stop,
}

/// Serves one connection until it ends.
pub async fn drive(upgraded: Upgraded, app: App, caller: Caller, stop: CancellationToken) {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(8 * 1024 * 1024)
        .max_message_size(Some(LARGEST_FRAME))
        .max_frame_size(Some(LARGEST_FRAME));
    let io = TokioIo::new(upgraded);
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let mut driver = Driver {
        app,
        caller,
        session: Session::new(Limits::default(), Instant::now()),
        seat: None,
        feed: None,
        outbox: BytesMut::new(),
        held_until: None,
        connected_at: time::OffsetDateTime::UNIX_EPOCH,
        missed: Vec::new(),
        running: None,
        reading: None,
        deferred: Vec::new(),
        read_again_at: None,
        actions: Vec::new(),
        ended: None,
    };
    let reason = driver.run(&mut socket, stop).await;
    driver.leave(reason);
    if driver.ended.is_some() {
        close(&mut socket).await;
    }
}

impl Driver {
    /// Until the connection ends; the result says why when it was not the protocol's doing.
    async fn run(&mut self, socket: &mut Socket, stop: CancellationToken) -> &'static str {
        let mut clock: Pin<Box<Sleep>> = Box::pin(sleep_until(self.deadline().into()));
        let mut stopping = false;
        loop {
            if let Some(reason) = self.flush(socket).await {
                return reason;
            }
            if let Some(reason) = self.ended {
                return reason.as_str();
            }
            self.begin_read();
            let deadline = tokio::time::Instant::from(self.deadline());
            if clock.deadline() != deadline {
                clock.as_mut().reset(deadline);
            }
            let event = tokio::select! {
                frame = socket.next(), if self.session.wants_input() => Event::Input(frame),
                outbound = next_outbound(&mut self.seat) => Event::Outbound(outbound),
                (id, done) = finished(&mut self.running) => Event::Done(id, done),
                found = finished(&mut self.reading) => Event::Read(found),
                () = clock.as_mut() => Event::Tick,
                () = stop.cancelled(), if !stopping => Event::Stop,
            };
            match event {
                Event::Input(Some(Ok(frame))) => self.on_frame(&frame),
                Event::Input(Some(Err(error))) => {
                    tracing::debug!(%error, "a socket broke");
                    return "socket_broken";
                }
                Event::Input(None) => return "socket_closed",
                Event::Outbound(outbound) => self.on_outbound(outbound),
                Event::Done(id, done) => {
                    self.running = None;
                    let now = Instant::now();
                    if let (Some(feed), true) = (&mut self.feed, done.acknowledged.is_empty()) {
                        feed.on_word_lost();
                    }
                    if let (Some(feed), false) = (&mut self.feed, done.acknowledged.is_empty()) {
                        feed.on_acknowledged(&done.acknowledged);
                        self.missed.retain(|a| !done.acknowledged.contains(&a.id));
                        feed.on_heard(now);
                    }
                    self.session.complete(id.as_deref(), done.outcome, now, &mut self.actions);
                }
                Event::Read(found) => self.on_read(found),
                Event::Tick => self.on_tick(),
                Event::Stop => {
                    stopping = true;
                    self.spread().await;
                    self.session.close(None, true, &mut self.actions);
                }
            }
            self.act();
        }
    }

    fn deadline(&self) -> Instant {
        let mut deadline = self.session.next_deadline();
        for other in
            [self.held_until, self.read_again_at, self.feed.as_ref().and_then(Feed::next_deadline)]
        {
            deadline = other.map_or(deadline, |other| other.min(deadline));
        }
        deadline
    }

    /// Waits for this connection's turn to be closed, so that not all clients return at once.
    async fn spread(&mut self) {
        let Some(seat) = &self.seat else { return };
        let connections = self.app.registry().connections() as u64;
        let wave = seat.id() % (connections / WAVE + 1);
        tokio::time::sleep(Duration::from_secs(wave.min(10))).await;
    }

    fn on_frame(&mut self, frame: &Frame) {
        let now = Instant::now();
        match frame {
            Frame::Text(text) => {
                self.session.on_bytes(text.as_bytes(), now, &mut self.actions);
            }
            Frame::Binary(bytes) => self.session.on_bytes(bytes, now, &mut self.actions),
            // The library answers pings and closing frames; after the latter the stream ends.
            Frame::Ping(_) | Frame::Pong(_) | Frame::Close(_) | Frame::Frame(_) => {}
        }
    }

    /// Does what the session asked for.
    fn act(&mut self) {
        while !self.actions.is_empty() {
            for action in std::mem::take(&mut self.actions) {
                match action {
                    Action::Send(bytes) => self.outbox.extend_from_slice(&bytes),
                    Action::HandshakeDone => self.take_seat(),
                    Action::Invoke { invocation_id, target, arguments, kind, .. } => {
                        self.invoke(invocation_id, &target, arguments, kind);
                    }
                    Action::End { reason } => self.ended = Some(reason),
                }
            }
        }
    }

    fn take_seat(&mut self) {
        let party = self.caller.party();
        let is_mobile = matches!(party, Party::Mobile(_));
        // First the seat, then the read: what is stored in between is told through the seat.
        self.seat = Some(self.app.registry().register(party));
        metrics::gauge!("esh3ar_connections").set(self.app.registry().connections() as f64);
        if is_mobile {
            self.feed = Some(Feed::new(self.app.settings().retry.acknowledge_timeout));
            self.held_until = Some(Instant::now() + FIRST_PAGE_WAIT);
            self.connected_at = self.app.clock().now();
            if let Ok(phone) = self.caller.mobile() {
                self.app.note_connected(phone, self.connected_at);
            }
        }
    }

    fn invoke(
        &mut self,
        id: Option<String>,
        target: &str,
        arguments: Vec<serde_json::Value>,
        kind: Kind,
    ) {
        let call = Call::bind(target, arguments);
        if kind == Kind::Stream {
            let text = match call {
                Ok(call) => format!(
                    "The client attempted to invoke the non-streaming '{}' method with a streaming \
                     invocation.",
                    call.method()
                ),
                Err(text) => text,
            };
            let id = id.unwrap_or_default();
            self.session.end_stream(&id, Outcome::Error(text), &mut self.actions);
            return;
        }
        match call {
            Ok(call) => {
                let written_at = self.written_at(&call);
                // From here on it is we who take the time.
                if let (Some(feed), Call::Acknowledge(ids) | Call::MarkRead(ids)) =
                    (&mut self.feed, &call)
                {
                    feed.on_heard(Instant::now());
                    feed.on_said(ids);
                }
                let run = call.run(self.app.clone(), self.caller.clone(), written_at);
                self.running = Some(run.map(move |done| (id, done)).boxed());
            }
            Err(text) => {
                let outcome = Outcome::Error(text);
                self.session.complete(id.as_deref(), outcome, Instant::now(), &mut self.actions);
            }
        }
    }

    fn on_outbound(&mut self, first: Option<Outbound>) {
        let mut next = first;
        if next.is_none() {
            self.session.close(None, true, &mut self.actions);
        }
        while let Some(outbound) = next {
            self.tell(outbound);
            if self.outbox.len() >= FULL_FRAME {
                break;
            }
            next = self.seat.as_mut().and_then(Seat::try_next);
        }
        let missed = self.seat.as_ref().is_some_and(Seat::take_missed);
        if let (true, Some(feed)) = (missed, &mut self.feed) {
            feed.on_nudge();
        }
    }

    fn call<T: serde::Serialize>(&mut self, protocol: Protocol, target: &str, argument: &T) {
        match codec::invocation(protocol, target, argument) {
            Ok(bytes) => self.outbox.extend_from_slice(&bytes),
            Err(error) => tracing::error!(%error, target, "a call could not be written"),
        }
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        self.session.on_tick(now, &mut self.actions);
        if self.held_until.is_some_and(|until| now >= until) {
            self.held_until = None;
        }
        if self.read_again_at.is_some_and(|at| now >= at) {
            self.read_again_at = None;
        }
        let Some(feed) = &mut self.feed else { return };
        let overdue = feed.on_tick(now);
        if !overdue.sent.is_empty() {
            self.app.note_written(Times::new(&self.app).times(overdue.sent), None);
        }
        if !overdue.missed.is_empty() {
            self.miss(&overdue.missed);
            self.app.note_missed(overdue.missed);
        }
    }

    /// Writes what is to go out. The result says why the connection is over, if it is.
    async fn flush(&mut self, socket: &mut Socket) -> Option<&'static str> {
        if self.outbox.is_empty() || self.held_until.is_some() && self.ended.is_none() {
            return None;
        }
        let bytes = std::mem::take(&mut self.outbox).freeze();
        // The answer to the handshake is text under every protocol, as are all messages of JSON.
        let text = self.session.handshaken().is_none_or(Protocol::is_text);
        let frame = if text {
            match bytes.try_into() {
                Ok(text) => Frame::Text(text),
                Err(_) => return Some("encoding"),
            }
        } else {
            Frame::Binary(bytes)
        };
        self.app.failpoint("socket_before_write");
        match timeout(SEND_TIMEOUT, socket.send(frame)).await {
            Ok(Ok(())) => {
                self.app.failpoint("socket_after_write");
                None
            }
            Ok(Err(_)) => Some("socket_broken"),
            Err(_) => Some("stuck"),
        }
    }
}

async fn next_outbound(seat: &mut Option<Seat>) -> Option<Outbound> {
    match seat {
        Some(seat) => seat.next().await,
        None => std::future::pending().await,
    }
}

async fn finished<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(running) => running.await,
        None => std::future::pending().await,
    }
}

/// Ends the socket in order: our closing frame, then the client's.
async fn close(socket: &mut Socket) {
    let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let farewell = async {
        if socket.close(Some(frame)).await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
        }
    };
    let _ = timeout(CLOSE_TIMEOUT, farewell).await;
}
