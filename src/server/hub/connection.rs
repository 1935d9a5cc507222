//! One connection of a hub, from its first transport to its end.
//!
//! The driver moves bytes and time between the transport, the [`Session`] (the protocol), the [`Feed`]
//! (which messages are due) and the registration in the registry. It decides nothing that those can decide.
//! An idle connection holds no buffer here.

mod calls;
mod feeding;
mod pages;
mod receipts;
mod writing;

use std::{
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use tokio::{
    sync::mpsc,
    time::{Sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use feeding::WallClock;
use receipts::ImplicitAcks;

use super::{
    codec::Protocol,
    diagnostics::DiagnosticsHub,
    leaving,
    method::InvocationResult,
    newcomers::HandshakePermit,
    services::Service,
    session::{EndReason, Session, SessionAction, SessionLimits, TransportCapabilities},
    table::Reconnect,
    wire::{Transport, TransportEvent},
};
use crate::{
    app::{App, Caller, Error, traces::Unwritten},
    domain::{
        Message, MessageId,
        feed::{Attempt, Feed, LATE, PAGE},
    },
    presence::{Delivery, Outbound, Registration},
};

/// A frame is sent when it has grown to this, even if more is waiting.
const TARGET_FRAME_LEN: usize = 64 * 1024;
/// How long the answer to the handshake waits for the first page, so that a client that has
/// connected gets everything sent from then on as live messages.
const FIRST_PAGE_TIMEOUT: Duration = Duration::from_secs(2);
/// The wait before a failed read is tried again.
const READ_RETRY_DELAY: Duration = Duration::from_millis(500);
/// No ping in the life of a connection: held requests tell that both sides are there.
const NO_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

type Running = BoxFuture<'static, (Option<String>, InvocationResult)>;
type Reading = BoxFuture<'static, Result<PendingRead, Error>>;

/// What a read brought.
struct PendingRead {
    found: Vec<Message>,
    /// The first one: what of the latest was acknowledged before.
    acknowledged: Vec<MessageId>,
    /// How many it asked for.
    limit: usize,
}

/// Who connects.
pub struct ClientIdentity {
    /// The owner of the token.
    pub caller: Caller,
    /// From which address.
    pub peer: IpAddr,
}

/// What a connection begins with.
pub struct ConnectionParams {
    /// Which hub it talks to.
    pub service: Service,
    /// Whose it is.
    pub client: ClientIdentity,
    /// Its public name.
    pub connection_id: String,
    /// New transports, if it may outlive its first.
    pub reconnects: Option<mpsc::Receiver<Reconnect>>,
    /// Its way in, which ends with the handshake.
    pub handshake_permit: HandshakePermit,
}

struct Driver {
    app: App,
    caller: Caller,
    peer: IpAddr,
    service: Service,
    connection_id: Box<str>,
    session: Session,
    /// What the handshake agreed on; until then everything is text.
    protocol: Option<Protocol>,
    /// Taken at the end of the handshake, with the feed.
    registration: Option<Registration>,
    feed: Option<Feed>,
    /// On the diagnostics hub.
    diagnostics: Option<Box<DiagnosticsHub>>,
    /// Where clients acknowledge nothing.
    implicit_acks: Option<Box<ImplicitAcks>>,
    reconnects: Option<mpsc::Receiver<Reconnect>>,
    /// Until the end of the handshake.
    handshake_permit: Option<HandshakePermit>,
    /// Whole hub messages that go out in the next frame.
    output: BytesMut,
    /// So many bytes of them are the answer to the handshake.
    handshake_len: usize,
    /// Until then nothing goes out.
    hold_until: Option<Instant>,
    connected_at: time::OffsetDateTime,
    /// When the caller's token is valid no longer.
    expires: Option<Instant>,
    /// What was written here, was not acknowledged in time, and still is not.
    missed: Vec<(Attempt, time::OffsetDateTime)>,
    running: Option<Running>,
    reading: Option<Reading>,
    /// How many messages the next read asks for.
    page_rows: usize,
    /// Messages that came during a read; whether they were acknowledged elsewhere meanwhile.
    deferred: Vec<(Arc<Delivery>, bool)>,
    /// From when on the client has to be sent that it missed something.
    missed_since: Option<time::OffsetDateTime>,
    /// A read failed: none before this.
    read_retry_at: Option<Instant>,
    actions: Vec<SessionAction>,
    ended: Option<EndReason>,
    /// Followed messages that are in the output.
    unwritten: Vec<Unwritten>,
}

enum Event {
    Transport(TransportEvent),
    Reconnected(Reconnect),
    Outbound(Option<Outbound>),
    Invoked(Option<String>, InvocationResult),
    ImplicitlyAcknowledged(InvocationResult),
    Read(Result<PendingRead, Error>),
    Tick,
    Stop,
}

/// Serves one connection until it ends.
pub fn drive(
    app: App,
    mut transport: Transport,
    params: ConnectionParams,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send {
    let mut driver = driver(app, &transport, params);
    async move {
        let reason = driver.run(&mut transport, stop.clone()).await;
        driver.finish(reason);
        let in_order = driver.ended.is_some();
        drop(driver);
        if in_order || !matches!(transport, Transport::WebSocket(_)) {
            transport.close(stop.is_cancelled()).await;
        }
    }
}

/// Made apart and boxed: a future would hold its parts twice, ten thousand times over.
fn driver(app: App, transport: &Transport, params: ConnectionParams) -> Box<Driver> {
    let ConnectionParams { service, client, connection_id, reconnects, handshake_permit } = params;
    let ClientIdentity { caller, peer } = client;
    let mut limits = SessionLimits::default();
    if matches!(transport, Transport::LongPolling(_)) {
        limits.ping_interval = NO_TIMEOUT;
        // Whoever asks is there, whatever it says.
        limits.client_timeout = NO_TIMEOUT;
    }
    let text_only = matches!(transport, Transport::ServerSentEvents(_));
    let channel = TransportCapabilities { stateful: reconnects.is_some(), text_only };
    Box::new(Driver {
        expires: expiry(&app, caller.expires_at),
        app,
        caller,
        peer,
        service,
        connection_id: connection_id.into(),
        session: Session::new(limits, channel, Instant::now()),
        protocol: None,
        registration: None,
        feed: None,
        diagnostics: None,
        implicit_acks: receipts::for_service(service),
        reconnects,
        handshake_permit: Some(handshake_permit),
        output: BytesMut::new(),
        handshake_len: 0,
        hold_until: None,
        connected_at: time::OffsetDateTime::UNIX_EPOCH,
        missed: Vec::new(),
        running: None,
        reading: None,
        page_rows: PAGE,
        deferred: Vec::new(),
        missed_since: None,
        read_retry_at: None,
        actions: Vec::new(),
        ended: None,
        unwritten: Vec::new(),
    })
}

/// The moment at which a token expires.
fn expiry(app: &App, at: Option<time::OffsetDateTime>) -> Option<Instant> {
    let left = Duration::try_from(at? - app.clock().now()).unwrap_or_default();
    Instant::now().checked_add(left)
}

impl Driver {
    /// Until the connection ends; the result says why.
    async fn run(&mut self, transport: &mut Transport, stop: CancellationToken) -> &'static str {
        let mut clock: Pin<Box<Sleep>> = Box::pin(sleep_until(self.deadline().into()));
        let mut stopping = false;
        loop {
            if let Err(reason) = self.flush(transport).await
                && !self.detach(transport)
            {
                return reason;
            }
            if let Some(reason) = self.ended {
                return reason.as_str();
            }
            if self.output.is_empty() && self.session.is_paused() {
                self.session.resume_reading(Instant::now(), &mut self.actions);
                self.apply_actions();
                continue;
            }
            self.begin_read();
            self.send_missed();
            if !self.output.is_empty() && self.hold_until.is_none() {
                continue;
            }
            let deadline = tokio::time::Instant::from(self.deadline());
            if clock.deadline() != deadline {
                clock.as_mut().reset(deadline);
            }
            let event = tokio::select! {
                heard = transport.receive(), if self.session.wants_input() => Event::Transport(heard),
                outbound = next_outbound(&mut self.registration, self.session.is_full()) => {
                    Event::Outbound(outbound)
                }
                (id, done) = finished(&mut self.running) => Event::Invoked(id, done),
                done = receipts::stored(&mut self.implicit_acks) => Event::ImplicitlyAcknowledged(done),
                found = finished(&mut self.reading) => Event::Read(found),
                back = next_reconnect(&mut self.reconnects) => Event::Reconnected(back),
                () = clock.as_mut() => Event::Tick,
                () = stop.cancelled(), if !stopping => Event::Stop,
            };
            match event {
                Event::Transport(TransportEvent::Bytes(bytes)) => {
                    self.session.on_bytes(&bytes, Instant::now(), &mut self.actions);
                }
                Event::Transport(TransportEvent::Pong(payload)) => self.on_pong(&payload),
                Event::Transport(TransportEvent::Ended(reason)) => return reason,
                Event::Transport(TransportEvent::Lost(reason)) => {
                    if !self.detach(transport) {
                        return reason;
                    }
                }
                Event::Outbound(outbound) => self.on_outbound(outbound),
                Event::Invoked(id, done) => self.on_done(id.as_deref(), done),
                Event::ImplicitlyAcknowledged(done) => self.on_implicit_ack_stored(&done),
                Event::Read(found) => self.on_read(found),
                Event::Reconnected(back) => self.resume(transport, back),
                Event::Tick => self.on_tick(transport),
                Event::Stop => {
                    stopping = true;
                    self.wait_close_turn().await;
                    self.session.close(None, true, &mut self.actions);
                }
            }
            self.apply_actions();
        }
    }

    /// The transport is lost. Whether the client may come back.
    fn detach(&mut self, transport: &mut Transport) -> bool {
        let stays = self.session.detach(Instant::now());
        if stays {
            *transport = Transport::Detached;
            // What was to go out is sent again to who comes back.
            (self.output, self.handshake_len) = (BytesMut::new(), 0);
            self.reset_probe();
        }
        stays
    }

    /// The client is back, perhaps before its old socket is known to be lost.
    fn resume(&mut self, transport: &mut Transport, back: Reconnect) {
        if !self.session.is_stateful() {
            // It has nowhere to come back to before the handshake, which says whether it may.
            return;
        }
        if !self.session.is_resumable() {
            self.output.clear();
            return self.session.abandon(&mut self.actions);
        }
        let now = Instant::now();
        *transport = Transport::WebSocket(back.socket);
        self.output.clear();
        self.handshake_len = 0;
        self.reset_probe();
        let ClientIdentity { caller, peer } = back.client;
        if let Some(registration) = &self.registration {
            registration.set_token(caller.token);
        }
        self.expires = expiry(&self.app, caller.expires_at);
        (self.caller, self.peer) = (caller, peer);
        self.session.resume(now, &mut self.actions);
        if let Some(feed) = &mut self.feed {
            // It could not acknowledge while it was away.
            feed.on_heard(now);
        }
    }

    fn on_done(&mut self, id: Option<&str>, done: InvocationResult) {
        self.running = None;
        self.on_acknowledge_stored(&done);
        self.session.complete(id, done.outcome, Instant::now(), &mut self.actions);
    }

    /// The recipient's word was stored, or lost.
    fn on_acknowledge_stored(&mut self, done: &InvocationResult) {
        let Some(feed) = &mut self.feed else { return };
        if done.acknowledged.is_empty() {
            feed.on_word_lost();
        } else {
            feed.on_acknowledged(&done.acknowledged);
            self.missed.retain(|(a, _)| !done.acknowledged.contains(&a.id));
            feed.on_heard(Instant::now());
        }
    }

    fn deadline(&self) -> Instant {
        let mut deadline = self.session.next_deadline();
        let away = self.session.is_detached();
        let feed = self.feed.as_ref().filter(|_| !away).and_then(Feed::next_deadline);
        let streams = self
            .diagnostics
            .as_ref()
            .filter(|_| !self.session.is_full())
            .and_then(|diagnostics| diagnostics.next_deadline());
        for other in [self.hold_until, self.read_retry_at, self.expires, feed, streams] {
            deadline = other.map_or(deadline, |other| other.min(deadline));
        }
        deadline
    }

    /// Waits for this connection's turn to be closed, so that not all clients return at once.
    async fn wait_close_turn(&mut self) {
        let Some(registration) = &self.registration else { return };
        let connections = self.app.presence().local().connections() as u64;
        tokio::time::sleep(leaving::close_delay(registration.id(), connections)).await;
    }

    /// Does what the session asked for.
    fn apply_actions(&mut self) {
        while !self.actions.is_empty() {
            for action in std::mem::take(&mut self.actions) {
                match action {
                    SessionAction::Send(bytes) => self.output.extend_from_slice(&bytes),
                    SessionAction::HandshakeDone => {
                        self.handshake_len = self.output.len();
                        self.register();
                    }
                    SessionAction::Invoke {
                        invocation_id,
                        target,
                        arguments,
                        stream_ids,
                        kind,
                    } => {
                        let bound =
                            self.service.bind(&self.caller, &target, arguments, &stream_ids, kind);
                        self.invoke(invocation_id, bound, kind);
                    }
                    SessionAction::StreamItem { id, item } => {
                        self.with_diagnostics(|hub| hub.on_item(&id, item))
                    }
                    SessionAction::Completion { id, outcome } => {
                        self.with_diagnostics(|hub| hub.on_completion(&id, outcome));
                    }
                    SessionAction::Cancel { id } => self.with_diagnostics(|hub| hub.on_cancel(&id)),
                    SessionAction::End { reason } => self.ended = Some(reason),
                }
                if self.output.len() >= TARGET_FRAME_LEN {
                    self.session.pause();
                }
            }
        }
    }

    fn register(&mut self) {
        self.protocol = self.session.protocol();
        self.handshake_permit = None;
        if !self.session.is_stateful() {
            self.reconnects = None;
        }
        let party = self.caller.party();
        self.connected_at = self.app.clock().now();
        if !self.service.delivers() {
            self.diagnostics = Some(Box::default());
            self.registration = Some(self.app.bystanders().register(party, self.caller.token));
            return;
        }
        // First the registration, then the read: what is stored in between is sent through the registration.
        let registration = self.app.presence().register(party, self.caller.token);
        if let (Ok(phone), true) = (self.caller.mobile(), registration.is_first()) {
            self.app.note_connected(phone, self.connected_at);
        }
        self.registration = Some(registration);
        metrics::gauge!("esh3ar_connections").set(self.app.presence().local().connections() as f64);
        let opened = MessageId::first_of(self.connected_at - LATE);
        self.feed = Some(Feed::new(self.app.live().retry.acknowledge_timeout, opened));
        self.hold_until = Some(Instant::now() + FIRST_PAGE_TIMEOUT);
    }

    fn on_outbound(&mut self, first: Option<Outbound>) {
        let mut next = first;
        if next.is_none() {
            self.session.close(None, true, &mut self.actions);
        }
        while let Some(outbound) = next {
            self.on_event(outbound);
            if self.output.len() >= TARGET_FRAME_LEN || self.session.is_full() {
                break;
            }
            next = self.registration.as_mut().and_then(Registration::try_next);
        }
        if let Some(missed) = self.registration.as_ref().and_then(Registration::take_missed) {
            self.on_overflow(missed);
        }
    }

    fn on_tick(&mut self, transport: &Transport) {
        let now = Instant::now();
        self.session.on_tick(now, &mut self.actions);
        if self.expires.is_some_and(|at| now >= at) {
            // Held requests may have brought a newer token.
            let until = match transport {
                Transport::LongPolling(polls) => polls.expires_at(),
                _ => self.caller.expires_at,
            };
            if until.is_some_and(|until| until <= self.app.clock().now()) {
                self.session.close(Some("The token has expired."), false, &mut self.actions);
                return;
            }
            self.expires = expiry(&self.app, until);
        }
        if !self.session.is_full() {
            self.with_diagnostics(|hub| hub.on_tick(now));
        }
        if self.hold_until.is_some_and(|until| now >= until) {
            self.hold_until = None;
        }
        if self.read_retry_at.is_some_and(|at| now >= at) {
            self.read_retry_at = None;
        }
        // Who is away cannot acknowledge.
        let Some(feed) = self.feed.as_mut().filter(|_| !self.session.is_detached()) else { return };
        let overdue = feed.on_tick(now);
        if !overdue.sent.is_empty() {
            self.app.note_written(WallClock::new(&self.app).times(overdue.sent), None);
        }
        if !overdue.missed.is_empty() {
            self.record_missed(overdue.missed);
        }
    }
}

async fn next_reconnect(reconnects: &mut Option<mpsc::Receiver<Reconnect>>) -> Reconnect {
    let next = match reconnects {
        Some(reconnects) => reconnects.recv().await,
        None => None,
    };
    match next {
        Some(back) => back,
        None => std::future::pending().await,
    }
}

/// What the client is to be sent; `only_close_notice` when it takes nothing else for now.
async fn next_outbound(
    registration: &mut Option<Registration>,
    only_close_notice: bool,
) -> Option<Outbound> {
    match registration {
        Some(registration) if only_close_notice => Some(registration.close_notice().await),
        Some(registration) => registration.next().await,
        None => std::future::pending().await,
    }
}

async fn finished<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(running) => running.await,
        None => std::future::pending().await,
    }
}
