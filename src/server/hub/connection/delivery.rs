//! The delivery of messages on one connection: the feed decides, the database stores, the driver writes.

use std::{collections::HashSet, sync::Arc, time::Instant};

use bytes::Bytes;
use futures_util::FutureExt as _;
use time::OffsetDateTime;

use super::{
    Driver, PendingRead, READ_RETRY_DELAY,
    pages::{EncodedPage, may_read},
};
use crate::{
    app::{App, Error},
    domain::{
        Message, MessageId, Party, Phone, Status, UserId,
        feed::{
            Deliverable, DeliveryAttempt, Feed, FeedBatch, LiveDecision, MAX_REORDERING, PAGE_SIZE,
            WINDOW_SIZE,
        },
        message::MAX_PAGE_BYTES,
    },
    presence::{Delivery, MissedItems, Outbound, Registration},
    server::{
        hub::{
            hubs::{
                legacy,
                service::{Service, WireFormat},
            },
            protocol::{
                codec::{self, Protocol},
                session::EndReason,
            },
            transport::CLIENT_REFUSED,
        },
        view::{ConversationView, MessageDeleted, MessageView, MissedSince, StatusChanged, Typing},
    },
};

/// Messages deferred until the end of a read; past this number they are read again.
const MAX_DEFERRED: usize = 64;
/// The smallest page that is read.
const MIN_PAGE_ROWS: usize = 4;

impl Driver {
    pub(super) fn written_at(&self, ids: &[MessageId]) -> Vec<Option<OffsetDateTime>> {
        let Some(feed) = &self.feed else { return Vec::new() };
        let times = WallClock::new(&self.app);
        ids.iter().map(|id| feed.written_at(*id).map(|at| times.at(at))).collect()
    }

    pub(super) fn handle_outbound(&mut self, outbound: Outbound) {
        let Some(protocol) = self.session.protocol() else { return };
        if self.withholds(&outbound) {
            return;
        }
        match outbound {
            Outbound::Deliver(delivery) => self.deliver(protocol, delivery, false),
            // The existing programs do not know changes of status.
            Outbound::StatusChanged { .. } if self.service.wire_format() == WireFormat::Legacy => {}
            Outbound::StatusChanged { id, status, at } => {
                let body = StatusChanged { id: id.0, status: status.name(), at };
                self.enqueue_call(protocol, "MessageStatusChanged", &body);
            }
            Outbound::Own { delivery, sender_connection } => {
                self.send_own(protocol, &delivery, sender_connection)
            }
            Outbound::ConversationChanged(_) | Outbound::Typing { .. }
                if self.service.wire_format() == WireFormat::Legacy => {}
            Outbound::ConversationChanged(conversation) => {
                let party = self.caller.party();
                let view = ConversationView::new(&conversation, &party);
                self.enqueue_call(protocol, "ConversationChanged", &view);
            }
            Outbound::Typing { conversation, from } => {
                let view = Typing { conversation_id: conversation.0, from: &from };
                self.enqueue_call(protocol, "Typing", &view);
            }
            Outbound::Acknowledged(ids) => self.on_acknowledged_elsewhere(&ids),
            Outbound::Deleted { id, place, at } => {
                if let Some(feed) = &mut self.feed {
                    // Its acknowledgement no longer matters.
                    self.missed.retain(|(a, _)| a.id != id);
                    self.deferred.retain(|(delivery, _)| delivery.message.id != id);
                    feed.on_deleted(id);
                }
                if self.service.wire_format() == WireFormat::Current {
                    self.enqueue_call(
                        protocol,
                        "MessageDeleted",
                        &MessageDeleted::new(id, place, at),
                    );
                }
            }
            Outbound::Resync(from) => {
                if let Some(feed) = &mut self.feed {
                    feed.on_resync(from);
                }
            }
            Outbound::Close { allow_reconnect, reason } => {
                self.session.close(reason, allow_reconnect, &mut self.actions);
            }
        }
    }

    fn on_acknowledged_elsewhere(&mut self, ids: &[MessageId]) {
        let Some(feed) = &mut self.feed else { return };
        self.missed.retain(|(a, _)| !ids.contains(&a.id));
        for (delivery, acknowledged) in &mut self.deferred {
            *acknowledged |= ids.contains(&delivery.message.id);
        }
        // A deferred message is sent without another read.
        let waits = |id: &MessageId| self.deferred.iter().any(|(d, _)| d.message.id == *id);
        feed.on_acknowledged_elsewhere(ids.iter().copied().filter(|id| !waits(id)));
    }

    /// Items did not fit in the outbox.
    pub(super) fn on_overflow(&mut self, missed: MissedItems) {
        if let Some(feed) = &mut self.feed {
            if let Some(from) = missed.from {
                feed.on_passed_over(from);
            }
            if missed.about.is_some() {
                feed.on_resync(missed.about);
            }
            if missed.some {
                feed.on_resync(None);
            }
        }
        if let Some(since) = missed.unreadable_since {
            self.note_missed_since(since);
        }
    }

    pub(super) fn note_missed_since(&mut self, since: OffsetDateTime) {
        self.missed_since = Some(self.missed_since.map_or(since, |known| known.min(since)));
    }

    /// Tells the client since when it missed items that will not be sent.
    pub(super) fn send_missed(&mut self) {
        let Some(protocol) = self.session.protocol() else { return };
        if self.session.is_full() {
            return;
        }
        self.count_withheld();
        let lost = self.feed.as_mut().and_then(Feed::take_lost);
        if let Some(lost) = lost {
            tracing::debug!(from = %lost, "a connection may have missed messages");
            self.note_missed_since(lost.time());
        }
        let Some(since) = self.missed_since.take() else { return };
        metrics::counter!("esh3ar_hub_missed_total").increment(1);
        match self.service.wire_format() {
            WireFormat::Current => self.enqueue_call(protocol, "Missed", &MissedSince { since }),
            // The existing clients have no such call, and show nothing but messages.
            WireFormat::Legacy if lost.is_some() => {
                let reason = Some("Some messages were missed. Read them again.");
                self.session.close(reason, true, &mut self.actions);
                self.apply_actions();
            }
            WireFormat::Legacy => {}
        }
    }

    /// A message of the party's own is only shown: it needs no acknowledgement.
    fn send_own(&mut self, protocol: Protocol, delivery: &Arc<Delivery>, sender_connection: u64) {
        if let (Some(feed), Some(place)) = (&mut self.feed, delivery.message.position) {
            feed.on_own_message(place);
        }
        let here = self
            .registration
            .as_ref()
            .is_some_and(|registration| registration.id() == sender_connection);
        // In the existing system a user had one connection: its apps would show the message as received.
        if here || self.service.wire_format() == WireFormat::Legacy {
            return;
        }
        if self.session.is_full() {
            return self.note_missed_since(delivery.message.created_at);
        }
        if let Some(bytes) = self.live_message(protocol, delivery) {
            self.enqueue(&bytes);
        }
    }

    fn deliver(&mut self, protocol: Protocol, delivery: Arc<Delivery>, acknowledged: bool) {
        let Some(feed) = &mut self.feed else { return };
        let id = delivery.message.id;
        if !self.caller.may_receive() {
            return feed.on_passed_over(id);
        }
        if self.session.is_full() || self.output.len() >= MAX_PAGE_BYTES {
            // A later read brings it, when the client has acknowledged earlier messages.
            return feed.on_passed_over(id);
        }
        if self.service.wire_format() == WireFormat::Legacy
            && lacks_account(&self.app, &delivery.message)
        {
            // A read brings it, and looks up the number that its text needs.
            return feed.on_passed_over(id);
        }
        let found = Deliverable { acknowledged, ..found(&delivery.message) };
        match feed.on_live(found, Instant::now()) {
            LiveDecision::Send => {
                let Some(bytes) = self.live_message(protocol, &delivery) else {
                    return self.app.delivery.record_unwritable(vec![id]);
                };
                self.enqueue(&bytes);
                self.unwritten.extend(self.app.delivery.follow_writing(&delivery.message));
                if !found.acknowledged {
                    self.note_sent(id);
                }
            }
            LiveDecision::Defer if self.deferred.len() < MAX_DEFERRED => {
                self.deferred.push((delivery, found.acknowledged));
            }
            LiveDecision::Defer => feed.on_passed_over(id),
            LiveDecision::Hold | LiveDecision::Drop => {}
        }
    }

    /// The call of a live message: encoded once for all connections of a kind.
    fn live_message(&self, protocol: Protocol, delivery: &Arc<Delivery>) -> Option<Bytes> {
        let format = self.service.wire_format();
        let kept = match (format, protocol) {
            (WireFormat::Current, Protocol::Json) => Some(&delivery.encoded[0]),
            (WireFormat::Current, Protocol::MessagePack) => Some(&delivery.encoded[1]),
            (WireFormat::Legacy, Protocol::Json) => Some(&delivery.encoded[2]),
            // The existing apps all use JSON.
            (WireFormat::Legacy, Protocol::MessagePack) => None,
        };
        if let Some(bytes) = kept.and_then(|kept| kept.get()) {
            return Some(bytes.clone());
        }
        let message = &delivery.message;
        let encoded = match format {
            WireFormat::Current => {
                codec::invocation(protocol, "ReceiveMessage", &MessageView::from(message))
            }
            WireFormat::Legacy => {
                let account = account(&self.app, message);
                let sanitizes = self.app.runtime_settings().sanitize_existing;
                let (target, text) = legacy::message(message, account.as_ref(), sanitizes);
                codec::invocation(protocol, target, &text)
            }
        };
        match encoded {
            Ok(bytes) => {
                Some(kept.map_or(bytes.clone(), |kept| kept.get_or_init(|| bytes).clone()))
            }
            Err(error) => {
                tracing::error!(%error, "cannot encode a message");
                None
            }
        }
    }

    pub(super) fn begin_read(&mut self) {
        if !self.caller.may_receive() {
            // Nothing is read, so nothing has to be waited for.
            self.hold_until = None;
            return;
        }
        let Some(feed) = &mut self.feed else { return };
        let full = !may_read(&self.session, feed);
        let busy = self.reading.is_some() || self.read_retry_at.is_some() || full;
        let is_new = feed.is_new();
        let Some(reading) = (!busy).then(|| feed.begin_read()).flatten() else { return };
        let app = self.app.clone();
        let caller = self.caller.clone();
        let announcement =
            self.registration.as_ref().filter(|_| reading.catch_up).map(Registration::announcement);
        let format = self.service.wire_format();
        let since = self.connected_at - MAX_REORDERING;
        let limit = self.page_rows;
        let read = async move {
            // Announce first, then read: messages stored in between are sent.
            if let Some(announcement) = announcement {
                announcement.await;
            }
            let (reading, acknowledged) = if is_new {
                let opened = MessageId::first_of(since);
                let acknowledged = app.delivery.latest_acknowledged(&caller, opened).await?;
                (reading.first(opened, &acknowledged), acknowledged)
            } else {
                (reading, Vec::new())
            };
            let found = app.delivery.unsent(&caller, &reading, since, limit).await?;
            if format == WireFormat::Legacy {
                let accounts: Vec<UserId> = found.iter().filter_map(legacy::account).collect();
                app.identity.load_business_phones(&accounts).await?;
            }
            Ok(PendingRead { found, acknowledged, limit })
        };
        self.reading = Some(read.boxed());
    }

    pub(super) fn on_read(&mut self, found: Result<PendingRead, Error>) {
        self.take_read(found);
        let Some(protocol) = self.session.protocol() else { return };
        for (delivery, acknowledged) in std::mem::take(&mut self.deferred) {
            self.deliver(protocol, delivery, acknowledged);
        }
    }

    fn take_read(&mut self, read: Result<PendingRead, Error>) {
        self.reading = None;
        self.hold_until = None;
        let may_receive = self.caller.may_receive();
        let Some(feed) = &mut self.feed else { return };
        let PendingRead { found, acknowledged, limit } = match read {
            // The permission was withdrawn during the read.
            Ok(_) if !may_receive => return feed.on_read_failed(),
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(%error, "cannot read pending messages; retrying");
                feed.on_read_failed();
                self.read_retry_at = Some(Instant::now() + READ_RETRY_DELAY);
                return;
            }
        };
        let Some(protocol) = self.session.protocol() else { return };
        let format = self.service.wire_format();
        let most = self.app.delivery.sendable_together(&found);
        let sanitizes = self.app.runtime_settings().sanitize_existing;
        let mut page = EncodedPage::new(protocol, format, &found, most, sanitizes, |message| {
            account(&self.app, message)
        });
        let cut = page.count < found.len();
        // Long messages: the next page has fewer rows.
        let rows = if cut { page.count } else { limit };
        self.page_rows = (rows * 2).clamp(MIN_PAGE_ROWS, PAGE_SIZE);
        if !page.unwritable.is_empty() {
            self.app.delivery.record_unwritable(std::mem::take(&mut page.unwritable));
        }
        let now = Instant::now();
        if feed.is_new() {
            feed.on_opened(&acknowledged, now);
        }
        let sendable: Vec<Deliverable> = page.messages().map(self::found).collect();
        let (ids, one_by_one) = match feed.on_read(&sendable, cut || found.len() >= limit, now) {
            FeedBatch::Nothing => return,
            // The programs of businesses have no call for a page.
            FeedBatch::Page(ids) => (ids, self.service == Service::LegacyBusiness),
            FeedBatch::Singly(ids) => (ids, true),
        };
        page.retain(&ids);
        self.unwritten.extend(page.messages().filter_map(|m| self.app.delivery.follow_writing(m)));
        if !one_by_one {
            match page.in_one_call(protocol) {
                Ok(call) => self.enqueue(&call),
                Err(error) => tracing::error!(%error, "cannot encode a page"),
            }
            return;
        }
        for (message, call) in page.one_by_one(protocol) {
            match call {
                Ok(call) => self.enqueue(&call),
                Err(error) => tracing::error!(%error, "cannot encode a message"),
            }
            if format == WireFormat::Legacy && !self::found(message).acknowledged {
                self.note_sent(message.id);
            }
        }
    }

    /// Records missed messages, and remembers as many as fit in a window.
    pub(super) fn record_missed(&mut self, missed: Vec<(DeliveryAttempt, Instant)>) {
        let missed = WallClock::new(&self.app).times(missed);
        for (attempt, at) in &missed {
            self.missed.retain(|(known, _)| known.id != attempt.id);
            if self.missed.len() < WINDOW_SIZE {
                self.missed.push((*attempt, *at));
            }
        }
        self.app.delivery.record_missed(missed);
    }

    /// The connection has ended: its unacknowledged messages wait for the next one.
    pub(super) fn finish(&mut self, reason: &'static str) {
        if let Some(mut feed) = self.feed.take() {
            let failed = reason == EndReason::ClientFailed.as_str() || reason == CLIENT_REFUSED;
            let head = feed.head().filter(|_| failed);
            let mut abandoned = WallClock::new(&self.app).times(feed.abandon());
            // Messages that waited for their retry here wait for the next connection now.
            let known: HashSet<MessageId> = abandoned.iter().map(|(a, _)| a.id).collect();
            let missed = std::mem::take(&mut self.missed);
            abandoned.extend(missed.into_iter().filter(|(a, _)| !known.contains(&a.id)));
            if !abandoned.is_empty() {
                self.app.delivery.record_written(abandoned, Some(reason));
            }
            if let Some(head) = head {
                self.app
                    .delivery
                    .record_client_failure(&head, WallClock::new(&self.app).at(head.at));
            }
        }
        if let Some(registration) = self.registration.take() {
            tracing::debug!(party = ?registration.party(), peer = %self.peer, reason, "connection ended");
            let party = registration.party().clone();
            drop(registration);
            let gone = self.service.delivers() && !self.app.presence().local().is_online(&party);
            if let (Party::Mobile(phone), true) = (&party, gone) {
                self.app.process.record_disconnected(phone, self.connected_at, reason);
            }
        }
        metrics::gauge!("esh3ar_connections").set(self.app.presence().local().connections() as f64);
    }
}

/// Converts `Instant`s to the time of day.
pub(super) struct WallClock {
    now: Instant,
    time: OffsetDateTime,
}

impl WallClock {
    pub(super) fn new(app: &App) -> WallClock {
        WallClock { now: Instant::now(), time: app.clock().now() }
    }

    pub(super) fn at(&self, moment: Instant) -> OffsetDateTime {
        self.time - self.now.saturating_duration_since(moment)
    }

    pub(super) fn times(
        &self,
        moments: Vec<(DeliveryAttempt, Instant)>,
    ) -> Vec<(DeliveryAttempt, OffsetDateTime)> {
        moments.into_iter().map(|(attempt, moment)| (attempt, self.at(moment))).collect()
    }
}

/// The number of the business user of a chat message.
fn account(app: &App, message: &Message) -> Option<Phone> {
    app.identity.business_phone(legacy::account(message)?).flatten()
}

/// Whether that number is not in the cache.
fn lacks_account(app: &App, message: &Message) -> bool {
    legacy::account(message).is_some_and(|id| app.identity.business_phone(id).is_none())
}

fn found(message: &Message) -> Deliverable {
    let Message { id, position, generation, retry_count, .. } = *message;
    let attempt = DeliveryAttempt { id, position, generation, retry_count };
    let acknowledged = matches!(message.status, Status::Delivered | Status::Read);
    Deliverable { attempt, acknowledged }
}
