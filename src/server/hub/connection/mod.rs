//! One connection of a hub, from its first transport to its end.
//!
//! The driver moves bytes and time between the transport, the [`Session`] (the protocol), the [`Feed`]
//! (which messages are due) and the [`Registration`]. It decides nothing that they can decide. An idle
//! connection holds no buffer here.

mod access;
mod close_waves;
mod delivery;
mod event_loop;
mod handshake_limiter;
mod implicit_acks;
mod invocations;
mod output;
mod pages;
mod running;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use handshake_limiter::{HandshakeLimiter, HandshakePermit};

use self::{delivery::WallClock, implicit_acks::ImplicitAcks};
use super::{
    hubs::{diagnostics::DiagnosticsHub, method::InvocationResult, service::Service},
    protocol::{
        codec::Protocol,
        session::{EndReason, Session, SessionAction, SessionLimits, TransportCapabilities},
    },
    transport::{Transport, WebSocketTransport},
};
use crate::{
    app::{App, Caller, Error, delivery::traces::Unwritten},
    domain::{
        Message, MessageId,
        feed::{DeliveryAttempt, Feed, MAX_REORDERING, PAGE_SIZE},
    },
    presence::{Delivery, Outbound, Registration},
};

/// A frame is sent at this length, even if more output waits.
const TARGET_FRAME_LEN: usize = 64 * 1024;
/// How long the handshake response waits for the first page, so that a connected client receives everything
/// sent from then on as live messages.
const FIRST_PAGE_TIMEOUT: Duration = Duration::from_secs(2);
const READ_RETRY_DELAY: Duration = Duration::from_millis(500);
/// No pings over long polling: held polls show that both sides are alive.
const NO_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

type Running = BoxFuture<'static, (Option<String>, InvocationResult)>;
type Reading = BoxFuture<'static, Result<PendingRead, Error>>;

struct PendingRead {
    found: Vec<Message>,
    /// Of the first read: which of the latest messages were acknowledged before.
    acknowledged: Vec<MessageId>,
    /// How many messages it asked for.
    limit: usize,
}

/// Who connects, and from where.
pub struct ClientIdentity {
    pub caller: Caller,
    pub peer: IpAddr,
}

/// A client that reconnects to a connection which outlived its WebSocket.
pub struct Reconnect {
    pub socket: Box<WebSocketTransport>,
    /// By the token of this request.
    pub client: ClientIdentity,
}

pub struct ConnectionParams {
    pub service: Service,
    pub client: ClientIdentity,
    /// The public id.
    pub connection_id: String,
    /// New transports, with stateful reconnect.
    pub reconnects: Option<mpsc::Receiver<Reconnect>>,
    /// Released after the handshake.
    pub handshake_permit: HandshakePermit,
}

struct Driver {
    app: App,
    caller: Caller,
    peer: IpAddr,
    service: Service,
    connection_id: Box<str>,
    session: Session,
    /// `None` before the handshake, when everything is text.
    protocol: Option<Protocol>,
    /// Set after the handshake, as is the feed.
    registration: Option<Registration>,
    feed: Option<Feed>,
    /// Only on the diagnostics hub.
    diagnostics: Option<Box<DiagnosticsHub>>,
    /// Only for clients that acknowledge nothing.
    implicit_acks: Option<Box<ImplicitAcks>>,
    reconnects: Option<mpsc::Receiver<Reconnect>>,
    /// Until the end of the handshake.
    handshake_permit: Option<HandshakePermit>,
    /// Whole hub messages for the next frame.
    output: BytesMut,
    /// This many bytes of the output are the handshake response.
    handshake_len: usize,
    /// No output before this.
    hold_until: Option<Instant>,
    connected_at: time::OffsetDateTime,
    /// When the caller's token expires.
    expires: Option<Instant>,
    /// Written here, not acknowledged in time, and still unacknowledged.
    missed: Vec<(DeliveryAttempt, time::OffsetDateTime)>,
    running: Option<Running>,
    reading: Option<Reading>,
    /// The size of the next page.
    page_rows: usize,
    /// Live messages that arrived during a read, and whether they were acknowledged elsewhere meanwhile.
    deferred: Vec<(Arc<Delivery>, bool)>,
    /// Since when items were missed that the client has to be told.
    missed_since: Option<time::OffsetDateTime>,
    /// Since when items were withheld for want of a permission.
    withheld_since: Option<time::OffsetDateTime>,
    /// No read before this, after a failed one.
    read_retry_at: Option<Instant>,
    actions: Vec<SessionAction>,
    ended: Option<EndReason>,
    /// Traced messages in the output.
    unwritten: Vec<Unwritten>,
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

/// Built outside the future and boxed: a future would hold its parts twice, ten thousand times over.
fn driver(app: App, transport: &Transport, params: ConnectionParams) -> Box<Driver> {
    let ConnectionParams { service, client, connection_id, reconnects, handshake_permit } = params;
    let ClientIdentity { caller, peer } = client;
    let mut limits = SessionLimits::default();
    if matches!(transport, Transport::LongPolling(_)) {
        limits.ping_interval = NO_TIMEOUT;
        // A client that polls is alive.
        limits.client_timeout = NO_TIMEOUT;
    }
    let text_only = matches!(transport, Transport::ServerSentEvents(_));
    let capabilities = TransportCapabilities { stateful: reconnects.is_some(), text_only };
    Box::new(Driver {
        expires: expiry(&app, caller.expires_at),
        app,
        caller,
        peer,
        service,
        connection_id: connection_id.into(),
        session: Session::new(limits, capabilities, Instant::now()),
        protocol: None,
        registration: None,
        feed: None,
        diagnostics: None,
        implicit_acks: implicit_acks::for_service(service),
        reconnects,
        handshake_permit: Some(handshake_permit),
        output: BytesMut::new(),
        handshake_len: 0,
        hold_until: None,
        connected_at: time::OffsetDateTime::UNIX_EPOCH,
        missed: Vec::new(),
        running: None,
        reading: None,
        page_rows: PAGE_SIZE,
        deferred: Vec::new(),
        missed_since: None,
        withheld_since: None,
        read_retry_at: None,
        actions: Vec::new(),
        ended: None,
        unwritten: Vec::new(),
    })
}

fn expiry(app: &App, at: Option<time::OffsetDateTime>) -> Option<Instant> {
    let left = Duration::try_from(at? - app.clock().now()).unwrap_or_default();
    Instant::now().checked_add(left)
}

impl Driver {
    /// The transport is lost. Returns whether the client may reconnect.
    fn detach(&mut self, transport: &mut Transport) -> bool {
        let stays = self.session.detach(Instant::now());
        if stays {
            *transport = Transport::Detached;
            // The session replays this output after a reconnect.
            (self.output, self.handshake_len) = (BytesMut::new(), 0);
            self.reset_probe();
        }
        stays
    }

    /// The client has reconnected, perhaps before its old socket is known to be lost.
    fn resume(&mut self, transport: &mut Transport, reconnect: Reconnect) {
        if !self.session.is_stateful() {
            // Before the handshake nothing can be resumed.
            return;
        }
        if !self.session.is_resumable() {
            self.output.clear();
            return self.session.abandon(&mut self.actions);
        }
        let now = Instant::now();
        *transport = Transport::WebSocket(reconnect.socket);
        self.output.clear();
        self.handshake_len = 0;
        self.reset_probe();
        let ClientIdentity { caller, peer } = reconnect.client;
        if let Some(registration) = &self.registration {
            registration.set_token(caller.token);
        }
        self.expires = expiry(&self.app, caller.expires_at);
        (self.caller, self.peer) = (caller, peer);
        self.session.resume(now, &mut self.actions);
        if let Some(feed) = &mut self.feed {
            // It could not acknowledge while it was detached.
            feed.on_client_active(now);
        }
    }

    fn on_invocation_result(&mut self, id: Option<&str>, result: InvocationResult) {
        self.running = None;
        self.on_acknowledge_stored(&result);
        self.session.complete(id, result.outcome, Instant::now(), &mut self.actions);
    }

    /// An acknowledgement was stored, or failed.
    fn on_acknowledge_stored(&mut self, result: &InvocationResult) {
        let Some(feed) = &mut self.feed else { return };
        if result.acknowledged.is_empty() {
            feed.on_ack_lost();
        } else {
            feed.on_acknowledged(&result.acknowledged);
            self.missed.retain(|(a, _)| !result.acknowledged.contains(&a.id));
            feed.on_client_active(Instant::now());
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

    /// Waits for this connection's close wave, so that clients do not all reconnect at once.
    async fn wait_for_close_wave(&mut self) {
        let Some(registration) = &self.registration else { return };
        let connections = self.app.presence().local().connections() as u64;
        tokio::time::sleep(close_waves::close_delay(registration.id(), connections)).await;
    }

    /// Executes the actions of the session.
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
                        self.refresh_access();
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
            self.registration =
                Some(self.app.diagnostic_connections().register(party, self.caller.token));
            return;
        }
        // Register first, then read: messages stored in between come through the registration.
        let registration = self.app.presence().register(party, self.caller.token);
        if let (Ok(phone), true) = (self.caller.mobile(), registration.is_first()) {
            self.app.process.record_connected(phone, self.connected_at);
        }
        self.registration = Some(registration);
        metrics::gauge!("esh3ar_connections").set(self.app.presence().local().connections() as f64);
        let opened = MessageId::first_of(self.connected_at - MAX_REORDERING);
        self.feed = Some(Feed::new(self.app.runtime_settings().retry.acknowledge_timeout, opened));
        self.hold_until = Some(Instant::now() + FIRST_PAGE_TIMEOUT);
    }

    fn on_outbound(&mut self, first: Option<Outbound>) {
        let mut next = first;
        if next.is_none() {
            self.session.close(None, true, &mut self.actions);
        }
        self.refresh_access();
        while let Some(outbound) = next {
            self.handle_outbound(outbound);
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
            // Polls may have brought a newer token.
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
        // A detached client cannot acknowledge.
        let Some(feed) = self.feed.as_mut().filter(|_| !self.session.is_detached()) else { return };
        let overdue = feed.on_tick(now);
        if !overdue.sent.is_empty() {
            self.app.delivery.record_written(WallClock::new(&self.app).times(overdue.sent), None);
        }
        if !overdue.missed.is_empty() {
            self.record_missed(overdue.missed);
        }
    }
}
