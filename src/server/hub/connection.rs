//! One connection of a hub, from its first transport to its end.
//!
//! The driver moves bytes and time between the transport, the [`Session`] (the protocol), the [`Feed`]
//! (which messages are due) and the seat in the registry. It decides nothing that those can decide.
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

use feeding::Times;
use receipts::Receipts;

use super::{
    codec::Protocol,
    diagnostics::Diagnostics,
    leaving,
    method::Done,
    newcomers::Newcomer,
    services::Service,
    session::{Action, Channel, EndReason, Limits, Session},
    table::Return,
    wire::{Heard, Wire},
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
const FULL_FRAME: usize = 64 * 1024;
/// How long the answer to the handshake waits for the first page, so that a client that has
/// connected gets everything sent from then on as live messages.
const FIRST_PAGE_WAIT: Duration = Duration::from_secs(2);
/// The wait before a failed read is tried again.
const READ_AGAIN: Duration = Duration::from_millis(500);
/// No ping in the life of a connection: held requests tell that both sides are there.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

type Running = BoxFuture<'static, (Option<String>, Done)>;
type Reading = BoxFuture<'static, Result<Read, Error>>;

/// What a read brought.
struct Read {
    found: Vec<Message>,
    /// The first one: what of the latest was acknowledged before.
    acknowledged: Vec<MessageId>,
    /// How many it asked for.
    limit: usize,
}

/// Who connects.
pub struct Client {
    /// The owner of the token.
    pub caller: Caller,
    /// From which address.
    pub peer: IpAddr,
}

/// What a connection begins with.
pub struct Beginning {
    /// Which hub it talks to.
    pub service: Service,
    /// Whose it is.
    pub client: Client,
    /// Its public name.
    pub connection_id: String,
    /// New transports, if it may outlive its first.
    pub returns: Option<mpsc::Receiver<Return>>,
    /// Its way in, which ends with the handshake.
    pub newcomer: Newcomer,
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
    seat: Option<Registration>,
    feed: Option<Feed>,
    /// On the diagnostics hub.
    diagnostics: Option<Box<Diagnostics>>,
    /// Where clients acknowledge nothing.
    receipts: Option<Box<Receipts>>,
    returns: Option<mpsc::Receiver<Return>>,
    /// Until the end of the handshake.
    newcomer: Option<Newcomer>,
    /// Whole hub messages that go out in the next frame.
    outbox: BytesMut,
    /// So many bytes of them are the answer to the handshake.
    answer: usize,
    /// Until then nothing goes out.
    held_until: Option<Instant>,
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
    /// From when on the client has to be told that it missed something.
    missed_since: Option<time::OffsetDateTime>,
    /// A read failed: none before this.
    read_again_at: Option<Instant>,
    actions: Vec<Action>,
    ended: Option<EndReason>,
    /// Followed messages that are in the outbox.
    unwritten: Vec<Unwritten>,
}

enum Event {
    Heard(Heard),
    Returned(Return),
    Outbound(Option<Outbound>),
    Done(Option<String>, Done),
    Vouched(Done),
    Read(Result<Read, Error>),
    Tick,
    Stop,
}

/// Serves one connection until it ends.
pub fn drive(
    app: App,
    mut wire: Wire,
    beginning: Beginning,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send {
    let mut driver = driver(app, &wire, beginning);
    async move {
        let reason = driver.run(&mut wire, stop.clone()).await;
        driver.leave(reason);
        let in_order = driver.ended.is_some();
        drop(driver);
        if in_order || !matches!(wire, Wire::Socket(_)) {
            wire.close(stop.is_cancelled()).await;
        }
    }
}

/// Made apart and boxed: a future would hold its parts twice, ten thousand times over.
fn driver(app: App, wire: &Wire, beginning: Beginning) -> Box<Driver> {
    let Beginning { service, client, connection_id, returns, newcomer } = beginning;
    let Client { caller, peer } = client;
    let mut limits = Limits::default();
    if matches!(wire, Wire::Polls(_)) {
        limits.ping_interval = NEVER;
        // Whoever asks is there, whatever it says.
        limits.client_timeout = NEVER;
    }
    let text_only = matches!(wire, Wire::Events(_));
    let channel = Channel { stateful: returns.is_some(), text_only };
    Box::new(Driver {
        expires: expiry(&app, caller.expires_at),
        app,
        caller,
        peer,
        service,
        connection_id: connection_id.into(),
        session: Session::new(limits, channel, Instant::now()),
        protocol: None,
        seat: None,
        feed: None,
        diagnostics: None,
        receipts: receipts::receipts(service),
        returns,
        newcomer: Some(newcomer),
        outbox: BytesMut::new(),
        answer: 0,
        held_until: None,
        connected_at: time::OffsetDateTime::UNIX_EPOCH,
        missed: Vec::new(),
        running: None,
        reading: None,
        page_rows: PAGE,
        deferred: Vec::new(),
        missed_since: None,
        read_again_at: None,
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
    async fn run(&mut self, wire: &mut Wire, stop: CancellationToken) -> &'static str {
        let mut clock: Pin<Box<Sleep>> = Box::pin(sleep_until(self.deadline().into()));
        let mut stopping = false;
        loop {
            if let Err(reason) = self.flush(wire).await
                && !self.detach(wire)
            {
                return reason;
            }
            if let Some(reason) = self.ended {
                return reason.as_str();
            }
            if self.outbox.is_empty() && self.session.is_paused() {
                self.session.go_on(Instant::now(), &mut self.actions);
                self.act();
                continue;
            }
            self.begin_read();
            self.tell_missed();
            if !self.outbox.is_empty() && self.held_until.is_none() {
                continue;
            }
            let deadline = tokio::time::Instant::from(self.deadline());
            if clock.deadline() != deadline {
                clock.as_mut().reset(deadline);
            }
            let event = tokio::select! {
                heard = wire.receive(), if self.session.wants_input() => Event::Heard(heard),
                outbound = next_outbound(&mut self.seat, self.session.is_full()) => {
                    Event::Outbound(outbound)
                }
                (id, done) = finished(&mut self.running) => Event::Done(id, done),
                done = receipts::said(&mut self.receipts) => Event::Vouched(done),
                found = finished(&mut self.reading) => Event::Read(found),
                back = next_return(&mut self.returns) => Event::Returned(back),
                () = clock.as_mut() => Event::Tick,
                () = stop.cancelled(), if !stopping => Event::Stop,
            };
            match event {
                Event::Heard(Heard::Bytes(bytes)) => {
                    self.session.on_bytes(&bytes, Instant::now(), &mut self.actions);
                }
                Event::Heard(Heard::Pong(payload)) => self.on_pong(&payload),
                Event::Heard(Heard::Ended(reason)) => return reason,
                Event::Heard(Heard::Lost(reason)) => {
                    if !self.detach(wire) {
                        return reason;
                    }
                }
                Event::Outbound(outbound) => self.on_outbound(outbound),
                Event::Done(id, done) => self.on_done(id.as_deref(), done),
                Event::Vouched(done) => self.on_vouched(&done),
                Event::Read(found) => self.on_read(found),
                Event::Returned(back) => self.resume(wire, back),
                Event::Tick => self.on_tick(wire),
                Event::Stop => {
                    stopping = true;
                    self.spread().await;
                    self.session.close(None, true, &mut self.actions);
                }
            }
            self.act();
        }
    }

    /// The transport is lost. Whether the client may come back.
    fn detach(&mut self, wire: &mut Wire) -> bool {
        let stays = self.session.detach(Instant::now());
        if stays {
            *wire = Wire::Away;
            // What was to go out is sent again to who comes back.
            (self.outbox, self.answer) = (BytesMut::new(), 0);
            self.forget_ping();
        }
        stays
    }

    /// The client is back, perhaps before its old socket is known to be lost.
    fn resume(&mut self, wire: &mut Wire, back: Return) {
        if !self.session.may_return() {
            // It has nowhere to come back to before the handshake, which says whether it may.
            return;
        }
        if !self.session.is_resumable() {
            self.outbox.clear();
            return self.session.abandon(&mut self.actions);
        }
        let now = Instant::now();
        *wire = Wire::Socket(back.socket);
        self.outbox.clear();
        self.answer = 0;
        self.forget_ping();
        let Client { caller, peer } = back.client;
        if let Some(seat) = &self.seat {
            seat.set_token(caller.token);
        }
        self.expires = expiry(&self.app, caller.expires_at);
        (self.caller, self.peer) = (caller, peer);
        self.session.resume(now, &mut self.actions);
        if let Some(feed) = &mut self.feed {
            // It could not acknowledge while it was away.
            feed.on_heard(now);
        }
    }

    fn on_done(&mut self, id: Option<&str>, done: Done) {
        self.running = None;
        self.on_word(&done);
        self.session.complete(id, done.outcome, Instant::now(), &mut self.actions);
    }

    /// The recipient's word was stored, or lost.
    fn on_word(&mut self, done: &Done) {
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
        let away = self.session.is_away();
        let feed = self.feed.as_ref().filter(|_| !away).and_then(Feed::next_deadline);
        let streams = self
            .diagnostics
            .as_ref()
            .filter(|_| !self.session.is_full())
            .and_then(|diagnostics| diagnostics.next_deadline());
        for other in [self.held_until, self.read_again_at, self.expires, feed, streams] {
            deadline = other.map_or(deadline, |other| other.min(deadline));
        }
        deadline
    }

    /// Waits for this connection's turn to be closed, so that not all clients return at once.
    async fn spread(&mut self) {
        let Some(seat) = &self.seat else { return };
        let connections = self.app.presence().local().connections() as u64;
        tokio::time::sleep(leaving::turn(seat.id(), connections)).await;
    }

    /// Does what the session asked for.
    fn act(&mut self) {
        while !self.actions.is_empty() {
            for action in std::mem::take(&mut self.actions) {
                match action {
                    Action::Send(bytes) => self.outbox.extend_from_slice(&bytes),
                    Action::HandshakeDone => {
                        self.answer = self.outbox.len();
                        self.take_seat();
                    }
                    Action::Invoke { invocation_id, target, arguments, stream_ids, kind } => {
                        let bound =
                            self.service.bind(&self.caller, &target, arguments, &stream_ids, kind);
                        self.invoke(invocation_id, bound, kind);
                    }
                    Action::Item { id, item } => self.diagnose(|hub| hub.on_item(&id, item)),
                    Action::Settle { id, outcome } => {
                        self.diagnose(|hub| hub.on_settle(&id, outcome));
                    }
                    Action::Cancel { id } => self.diagnose(|hub| hub.on_cancel(&id)),
                    Action::End { reason } => self.ended = Some(reason),
                }
                if self.outbox.len() >= FULL_FRAME {
                    self.session.pause();
                }
            }
        }
    }

    fn take_seat(&mut self) {
        self.protocol = self.session.handshaken();
        self.newcomer = None;
        if !self.session.may_return() {
            self.returns = None;
        }
        let party = self.caller.party();
        self.connected_at = self.app.clock().now();
        if !self.service.delivers() {
            self.diagnostics = Some(Box::default());
            self.seat = Some(self.app.bystanders().register(party, self.caller.token));
            return;
        }
        // First the seat, then the read: what is stored in between is told through the seat.
        let seat = self.app.presence().register(party, self.caller.token);
        if let (Ok(phone), true) = (self.caller.mobile(), seat.is_first()) {
            self.app.note_connected(phone, self.connected_at);
        }
        self.seat = Some(seat);
        metrics::gauge!("esh3ar_connections").set(self.app.presence().local().connections() as f64);
        let opened = MessageId::first_of(self.connected_at - LATE);
        self.feed = Some(Feed::new(self.app.live().retry.acknowledge_timeout, opened));
        self.held_until = Some(Instant::now() + FIRST_PAGE_WAIT);
    }

    fn on_outbound(&mut self, first: Option<Outbound>) {
        let mut next = first;
        if next.is_none() {
            self.session.close(None, true, &mut self.actions);
        }
        while let Some(outbound) = next {
            self.tell(outbound);
            if self.outbox.len() >= FULL_FRAME || self.session.is_full() {
                break;
            }
            next = self.seat.as_mut().and_then(Registration::try_next);
        }
        if let Some(missed) = self.seat.as_ref().and_then(Registration::take_missed) {
            self.on_overflow(missed);
        }
    }

    fn on_tick(&mut self, wire: &Wire) {
        let now = Instant::now();
        self.session.on_tick(now, &mut self.actions);
        if self.expires.is_some_and(|at| now >= at) {
            // Held requests may have brought a newer token.
            let until = match wire {
                Wire::Polls(polls) => polls.expires_at(),
                _ => self.caller.expires_at,
            };
            if until.is_some_and(|until| until <= self.app.clock().now()) {
                self.session.close(Some("The token has expired."), false, &mut self.actions);
                return;
            }
            self.expires = expiry(&self.app, until);
        }
        if !self.session.is_full() {
            self.diagnose(|hub| hub.on_tick(now));
        }
        if self.held_until.is_some_and(|until| now >= until) {
            self.held_until = None;
        }
        if self.read_again_at.is_some_and(|at| now >= at) {
            self.read_again_at = None;
        }
        // Who is away cannot acknowledge.
        let Some(feed) = self.feed.as_mut().filter(|_| !self.session.is_away()) else { return };
        let overdue = feed.on_tick(now);
        if !overdue.sent.is_empty() {
            self.app.note_written(Times::new(&self.app).times(overdue.sent), None);
        }
        if !overdue.missed.is_empty() {
            self.miss(overdue.missed);
        }
    }
}

async fn next_return(returns: &mut Option<mpsc::Receiver<Return>>) -> Return {
    let next = match returns {
        Some(returns) => returns.recv().await,
        None => None,
    };
    match next {
        Some(back) => back,
        None => std::future::pending().await,
    }
}

/// What the client is to be told; `only_goodbye` when it takes nothing else for now.
async fn next_outbound(seat: &mut Option<Registration>, only_goodbye: bool) -> Option<Outbound> {
    match seat {
        Some(seat) if only_goodbye => Some(seat.close_notice().await),
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
