//! What one connection is sent of its recipient's messages: between the feed, which decides, the
//! database, which has them, and the driver, which writes.

use std::{collections::HashSet, sync::Arc, time::Instant};

use bytes::Bytes;
use futures_util::FutureExt as _;
use time::OffsetDateTime;

use super::{
    Driver, READ_AGAIN, Read,
    pages::{Written, may_read},
};
use crate::{
    app::{App, Error},
    domain::{
        Message, MessageId, Party, Phone, Status, UserId,
        feed::{Attempt, Batch, Feed, Found, LATE, Live, PAGE, WINDOW},
        message::PAGE_BYTES,
    },
    presence::{Delivery, Missed, Outbound, Seat},
    server::{
        hub::{
            codec::{self, Protocol},
            methods::Form,
            services::Service,
            session::EndReason,
            wire::REFUSED,
        },
        legacy,
        view::{ConversationView, MessageDeleted, MessageView, MissedSince, StatusChanged, Typing},
    },
};

/// Messages that may wait in memory for the end of a read; past that they are read again.
const MOST_DEFERRED: usize = 64;
/// The fewest messages that a read asks for.
const FEWEST_ROWS: usize = 4;

impl Driver {
    pub(super) fn written_at(&self, ids: &[MessageId]) -> Vec<Option<OffsetDateTime>> {
        let Some(feed) = &self.feed else { return Vec::new() };
        let times = Times::new(&self.app);
        ids.iter().map(|id| feed.written_at(*id).map(|at| times.at(at))).collect()
    }

    pub(super) fn tell(&mut self, outbound: Outbound) {
        let Some(protocol) = self.session.handshaken() else { return };
        match outbound {
            Outbound::Deliver(delivery) => self.deliver(protocol, delivery, false),
            // The existing programs are not told.
            Outbound::StatusChanged { .. } if self.service.form() == Form::Legacy => {}
            Outbound::StatusChanged { id, status, at } => {
                let body = StatusChanged { id: id.0, status: status.name(), at };
                self.call(protocol, "MessageStatusChanged", &body);
            }
            Outbound::Own { delivery, said_by } => self.show_own(protocol, &delivery, said_by),
            Outbound::ConversationChanged(_) | Outbound::Typing { .. }
                if self.service.form() == Form::Legacy => {}
            Outbound::ConversationChanged(conversation) => {
                let party = self.caller.party();
                let view = ConversationView::new(&conversation, &party);
                self.call(protocol, "ConversationChanged", &view);
            }
            Outbound::Typing { conversation, from } => {
                let view = Typing { conversation_id: conversation.0, from: &from };
                self.call(protocol, "Typing", &view);
            }
            Outbound::Acknowledged(ids) => self.on_acknowledged_elsewhere(&ids),
            Outbound::Deleted { id, place, at } => {
                if let Some(feed) = &mut self.feed {
                    // Nobody waits for an acknowledgement of it any more.
                    self.missed.retain(|(a, _)| a.id != id);
                    self.deferred.retain(|(delivery, _)| delivery.message.id != id);
                    feed.on_deleted(id);
                }
                if self.service.form() == Form::Current {
                    self.call(protocol, "MessageDeleted", &MessageDeleted::new(id, place, at));
                }
            }
            Outbound::Nudge(from) => {
                if let Some(feed) = &mut self.feed {
                    feed.on_nudge(from);
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
        // What is deferred is sent without another read.
        let waits = |id: &MessageId| self.deferred.iter().any(|(d, _)| d.message.id == *id);
        feed.on_acknowledged_elsewhere(ids.iter().copied().filter(|id| !waits(id)));
    }

    /// Things had no room while they waited to be told.
    pub(super) fn on_overflow(&mut self, missed: Missed) {
        if let Some(feed) = &mut self.feed {
            if let Some(from) = missed.from {
                feed.on_passed_over(from);
            }
            if missed.about.is_some() {
                feed.on_nudge(missed.about);
            }
            if missed.some {
                feed.on_nudge(None);
            }
        }
        if let Some(since) = missed.told_since {
            self.note_missed_since(since);
        }
    }

    fn note_missed_since(&mut self, since: OffsetDateTime) {
        self.missed_since = Some(self.missed_since.map_or(since, |known| known.min(since)));
    }

    /// Tells the client from when on it missed something that will not be sent.
    pub(super) fn tell_missed(&mut self) {
        let Some(protocol) = self.session.handshaken() else { return };
        if self.session.is_full() {
            return;
        }
        let lost = self.feed.as_mut().and_then(Feed::take_lost);
        if let Some(lost) = lost {
            tracing::debug!(from = %lost, "a connection may have missed messages");
            self.note_missed_since(lost.time());
        }
        let Some(since) = self.missed_since.take() else { return };
        metrics::counter!("esh3ar_hub_missed_total").increment(1);
        match self.service.form() {
            Form::Current => self.call(protocol, "Missed", &MissedSince { since }),
            // Its clients have no such call, and are shown nothing but messages.
            Form::Legacy if lost.is_some() => {
                let reason = Some("Some messages were missed. Read them again.");
                self.session.close(reason, true, &mut self.actions);
                self.act();
            }
            Form::Legacy => {}
        }
    }

    /// Nothing of what the party wrote itself waits for this connection: it is only shown.
    fn show_own(&mut self, protocol: Protocol, delivery: &Arc<Delivery>, said_by: u64) {
        if let (Some(feed), Some(place)) = (&mut self.feed, delivery.message.place) {
            feed.on_own(place);
        }
        let here = self.seat.as_ref().is_some_and(|seat| seat.id() == said_by);
        // In the existing system a user had one connection: its apps would show it as somebody else's.
        if here || self.service.form() == Form::Legacy {
            return;
        }
        if self.session.is_full() {
            return self.note_missed_since(delivery.message.created_at);
        }
        if let Some(bytes) = self.live_message(protocol, delivery) {
            self.put(&bytes);
        }
    }

    fn deliver(&mut self, protocol: Protocol, delivery: Arc<Delivery>, acknowledged: bool) {
        let Some(feed) = &mut self.feed else { return };
        let id = delivery.message.id;
        if self.session.is_full() || self.outbox.len() >= PAGE_BYTES {
            // It comes with a read, when the client has acknowledged some of what it has.
            return feed.on_passed_over(id);
        }
        if self.service.form() == Form::Legacy && lacks_account(&self.app, &delivery.message) {
            // It comes with a read, which looks up what its text needs.
            return feed.on_passed_over(id);
        }
        let found = Found { acknowledged, ..found(&delivery.message) };
        match feed.on_live(found, Instant::now()) {
            Live::Send => {
                let Some(bytes) = self.live_message(protocol, &delivery) else {
                    return self.app.note_unwritable(vec![id]);
                };
                self.put(&bytes);
                self.unwritten.extend(self.app.follow_writing(&delivery.message));
                if !found.acknowledged {
                    self.note_told(id);
                }
            }
            Live::Defer if self.deferred.len() < MOST_DEFERRED => {
                self.deferred.push((delivery, found.acknowledged));
            }
            Live::Defer => feed.on_passed_over(id),
            Live::Hold | Live::Drop => {}
        }
    }

    /// The call that brings a live message: encoded once for all connections of a kind.
    fn live_message(&self, protocol: Protocol, delivery: &Arc<Delivery>) -> Option<Bytes> {
        let form = self.service.form();
        let kept = match (form, protocol) {
            (Form::Current, Protocol::Json) => Some(&delivery.encoded[0]),
            (Form::Current, Protocol::MessagePack) => Some(&delivery.encoded[1]),
            (Form::Legacy, Protocol::Json) => Some(&delivery.encoded[2]),
            // The existing apps all speak JSON.
            (Form::Legacy, Protocol::MessagePack) => None,
        };
        if let Some(bytes) = kept.and_then(|kept| kept.get()) {
            return Some(bytes.clone());
        }
        let message = &delivery.message;
        let encoded = match form {
            Form::Current => {
                codec::invocation(protocol, "ReceiveMessage", &MessageView::from(message))
            }
            Form::Legacy => {
                let account = account(&self.app, message);
                let (target, text) = legacy::hub::message(message, account.as_ref());
                codec::invocation(protocol, target, &text)
            }
        };
        match encoded {
            Ok(bytes) => {
                Some(kept.map_or(bytes.clone(), |kept| kept.get_or_init(|| bytes).clone()))
            }
            Err(error) => {
                tracing::error!(%error, "a message could not be written");
                None
            }
        }
    }

    pub(super) fn begin_read(&mut self) {
        let Some(feed) = &mut self.feed else { return };
        let full = !may_read(&self.session, feed);
        let busy = self.reading.is_some() || self.read_again_at.is_some() || full;
        let is_new = feed.is_new();
        let Some(reading) = (!busy).then(|| feed.begin_read()).flatten() else { return };
        let app = self.app.clone();
        let caller = self.caller.clone();
        let announcement = self.seat.as_ref().filter(|_| reading.catch_up).map(Seat::announcement);
        let form = self.service.form();
        let since = self.connected_at - LATE;
        let limit = self.page_rows;
        let read = async move {
            // First known everywhere, then the read: what is stored in between is told.
            if let Some(announcement) = announcement {
                announcement.await;
            }
            let (reading, acknowledged) = if is_new {
                let opened = MessageId::first_of(since);
                let acknowledged = app.latest_acknowledged(&caller, opened).await?;
                (reading.first(opened, &acknowledged), acknowledged)
            } else {
                (reading, Vec::new())
            };
            let found = app.unsent(&caller, &reading, since, limit).await?;
            if form == Form::Legacy {
                let accounts: Vec<UserId> = found.iter().filter_map(legacy::hub::account).collect();
                app.learn_business_phones(&accounts).await?;
            }
            Ok(Read { found, acknowledged, limit })
        };
        self.reading = Some(read.boxed());
    }

    pub(super) fn on_read(&mut self, found: Result<Read, Error>) {
        self.take_read(found);
        let Some(protocol) = self.session.handshaken() else { return };
        for (delivery, acknowledged) in std::mem::take(&mut self.deferred) {
            self.deliver(protocol, delivery, acknowledged);
        }
    }

    fn take_read(&mut self, read: Result<Read, Error>) {
        self.reading = None;
        self.held_until = None;
        let Some(feed) = &mut self.feed else { return };
        let Read { found, acknowledged, limit } = match read {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(%error, "pending messages could not be read; trying again");
                feed.on_read_failed();
                self.read_again_at = Some(Instant::now() + READ_AGAIN);
                return;
            }
        };
        let Some(protocol) = self.session.handshaken() else { return };
        let form = self.service.form();
        let most = self.app.sent_together(&found);
        let mut page =
            Written::new(protocol, form, &found, most, |message| account(&self.app, message));
        let cut = page.count < found.len();
        // Of long messages only few are read the next time.
        let rows = if cut { page.count } else { limit };
        self.page_rows = (rows * 2).clamp(FEWEST_ROWS, PAGE);
        if !page.unwritable.is_empty() {
            self.app.note_unwritable(std::mem::take(&mut page.unwritable));
        }
        let now = Instant::now();
        if feed.is_new() {
            feed.on_opened(&acknowledged, now);
        }
        let sendable: Vec<Found> = page.messages().map(self::found).collect();
        let (ids, singly) = match feed.on_read(&sendable, cut || found.len() >= limit, now) {
            Batch::Nothing => return,
            // There is no other call for it there.
            Batch::Page(ids) => (ids, self.service == Service::LegacyBusiness),
            Batch::Singly(ids) => (ids, true),
        };
        page.retain(&ids);
        self.unwritten.extend(page.messages().filter_map(|m| self.app.follow_writing(m)));
        if !singly {
            match page.together(protocol) {
                Ok(call) => self.put(&call),
                Err(error) => tracing::error!(%error, "a page could not be written"),
            }
            return;
        }
        for (message, call) in page.singly(protocol) {
            match call {
                Ok(call) => self.put(&call),
                Err(error) => tracing::error!(%error, "a message could not be written"),
            }
            if form == Form::Legacy && !self::found(message).acknowledged {
                self.note_told(message.id);
            }
        }
    }

    /// Notes what was missed, and remembers as much of it as a window holds.
    pub(super) fn miss(&mut self, missed: Vec<(Attempt, Instant)>) {
        let missed = Times::new(&self.app).times(missed);
        for (attempt, at) in &missed {
            self.missed.retain(|(known, _)| known.id != attempt.id);
            if self.missed.len() < WINDOW {
                self.missed.push((*attempt, *at));
            }
        }
        self.app.note_missed(missed);
    }

    /// The connection is over: what it did not acknowledge waits for the next one.
    pub(super) fn leave(&mut self, reason: &'static str) {
        if let Some(mut feed) = self.feed.take() {
            let failed = reason == EndReason::ClientFailed.as_str() || reason == REFUSED;
            let head = feed.head().filter(|_| failed);
            let mut abandoned = Times::new(&self.app).times(feed.abandon());
            // What waited for its retry here waits for the next connection now.
            let known: HashSet<MessageId> = abandoned.iter().map(|(a, _)| a.id).collect();
            let missed = std::mem::take(&mut self.missed);
            abandoned.extend(missed.into_iter().filter(|(a, _)| !known.contains(&a.id)));
            if !abandoned.is_empty() {
                self.app.note_written(abandoned, Some(reason));
            }
            if let Some(head) = head {
                self.app.note_failed_on(&head, Times::new(&self.app).at(head.at));
            }
        }
        if let Some(seat) = self.seat.take() {
            tracing::debug!(party = ?seat.party(), peer = %self.peer, reason, "connection ended");
            let party = seat.party().clone();
            drop(seat);
            let gone = self.service.delivers() && !self.app.presence().local().is_online(&party);
            if let (Party::Mobile(phone), true) = (&party, gone) {
                self.app.note_disconnected(phone, self.connected_at, reason);
            }
        }
        metrics::gauge!("esh3ar_connections").set(self.app.presence().local().connections() as f64);
    }
}

/// Turns moments into times of day.
pub(super) struct Times {
    now: Instant,
    time: OffsetDateTime,
}

impl Times {
    pub(super) fn new(app: &App) -> Times {
        Times { now: Instant::now(), time: app.clock().now() }
    }

    pub(super) fn at(&self, moment: Instant) -> OffsetDateTime {
        self.time - self.now.saturating_duration_since(moment)
    }

    pub(super) fn times(&self, moments: Vec<(Attempt, Instant)>) -> Vec<(Attempt, OffsetDateTime)> {
        moments.into_iter().map(|(attempt, moment)| (attempt, self.at(moment))).collect()
    }
}

/// The number of a chat message's business user.
fn account(app: &App, message: &Message) -> Option<Phone> {
    app.business_phone(legacy::hub::account(message)?).flatten()
}

/// Whether that has still to be read.
fn lacks_account(app: &App, message: &Message) -> bool {
    legacy::hub::account(message).is_some_and(|id| app.business_phone(id).is_none())
}

fn found(message: &Message) -> Found {
    let Message { id, place, generation, retry_count, .. } = *message;
    let attempt = Attempt { id, place, generation, retry_count };
    let acknowledged = matches!(message.status, Status::Delivered | Status::Read);
    Found { attempt, acknowledged }
}
