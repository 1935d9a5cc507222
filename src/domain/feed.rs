//! The feed of a connection: what the connection is sent, and when.
//!
//! A feed only decides: it holds ids, not messages, and does no I/O. It begins with the catch-up (pages of
//! pending messages, each after the previous one is acknowledged), goes live when a page comes back short,
//! and whenever it passes over a live message (during catch-up, or with a full window) it remembers only from
//! which id on, and asks to read from the database again: nothing is buffered twice and nothing is lost.
//!
//! A recipient may have several connections, each with its own feed: what another one acknowledged meanwhile
//! is read, too, unless that was before this connection opened ([`position`]).

mod position;
mod reading;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use position::FeedPosition;
pub use position::{MAX_REMEMBERED_IDS, MAX_REORDERING};
pub use reading::{AcknowledgedElsewhere, FeedRead, Unacknowledged};

use super::{MessageId, message::ConversationPosition};

/// Maximum number of messages in a catch-up page.
pub const PAGE_SIZE: usize = 100;
/// Maximum number of unacknowledged messages per connection.
pub const WINDOW_SIZE: usize = 256;
/// Below this many unacknowledged messages another read is worthwhile: with more, the client is busy, and
/// later messages are read together.
const READ_THRESHOLD: usize = PAGE_SIZE / 2;
/// How long a message stays unacknowledged before its status is stored as sent. An earlier acknowledgement
/// stores both at once, which saves a write.
pub const SENT_STATUS_DELAY: Duration = Duration::from_secs(1);

/// While a client keeps acknowledging, its other messages are not missed until this multiple of the timeout.
/// Otherwise a slow client would be sent everything again, and become slower.
const MAX_TIMEOUT_FACTOR: u32 = 6;

/// Identifies a delivery attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryAttempt {
    /// The message.
    pub id: MessageId,
    /// The position in a conversation, if it is in one.
    pub position: Option<ConversationPosition>,
    /// Its generation when it was written.
    pub generation: i32,
    /// Its retry count when it was written.
    pub retry_count: u16,
}

/// A message that may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deliverable {
    /// The message.
    pub attempt: DeliveryAttempt,
    /// Acknowledged on another connection: no acknowledgement is expected from this one.
    pub acknowledged: bool,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    position: Option<ConversationPosition>,
    generation: i32,
    retry_count: u16,
    at: Instant,
    stored_as_sent: bool,
    ack_received: bool,
}

/// What to do with a message that just became deliverable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiveDecision {
    /// Write it now; it is in the window from now on.
    Send,
    /// A read is running: ask again when it ends. Otherwise a connection that had to read once would have to
    /// read for every message that arrives meanwhile.
    Defer,
    /// Not now: a later read will bring it.
    Hold,
    /// This connection has it already.
    Drop,
}

/// How to send the messages of a read.
#[derive(Debug, PartialEq, Eq)]
pub enum FeedBatch {
    /// As a catch-up page.
    Page(Vec<MessageId>),
    /// One by one, as live messages.
    Singly(Vec<MessageId>),
    /// Nothing new.
    Nothing,
}

/// Messages that became overdue.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Overdue {
    /// Unacknowledged for a while: store as sent, with the time of writing.
    pub sent: Vec<(DeliveryAttempt, Instant)>,
    /// Not acknowledged in time: removed from the window, to be retried by policy; with the time of writing.
    pub missed: Vec<(DeliveryAttempt, Instant)>,
}

/// The feed of one connection.
#[derive(Debug)]
pub struct Feed {
    window: HashMap<MessageId, InFlight>,
    position: FeedPosition,
    /// Number of messages in the window whose acknowledgement is being stored.
    acks_pending: usize,
    acknowledge_timeout: Duration,
    /// When the client last acknowledged a message.
    last_active: Option<Instant>,
    /// Nothing in the window is due before this. It is checked at every event; scanning the window each time
    /// would cost a busy connection more than checking too early.
    next_check: Option<Instant>,
    /// Whether a message was passed over since the last read began.
    behind: bool,
    /// Whether a read is running.
    reading: bool,
    /// Deleted during the read, which may still return them.
    deleted: Vec<MessageId>,
    /// From which id on the running read includes acknowledged messages; `None` for the first read.
    read_from: Option<MessageId>,
    /// Whether a read has completed.
    opened: bool,
    /// Whether the window must empty before the next page, because the last one was full.
    page_out: bool,
    /// Whether a page came back short: later reads only fill gaps.
    live: bool,
}

impl Feed {
    /// A feed that first asks to read pending messages. `opened` is below every message that may become known
    /// from now on.
    pub fn new(acknowledge_timeout: Duration, opened: MessageId) -> Self {
        Feed {
            window: HashMap::new(),
            position: FeedPosition::new(opened),
            acks_pending: 0,
            acknowledge_timeout,
            last_active: None,
            next_check: None,
            behind: true,
            reading: false,
            deleted: Vec::new(),
            read_from: None,
            opened: false,
            page_out: false,
            live: false,
        }
    }

    /// What to read now; returned once until [`Feed::on_read`] or [`Feed::on_read_failed`] is called.
    pub fn begin_read(&mut self) -> Option<FeedRead> {
        if self.page_out && self.unacknowledged() == 0 {
            self.page_out = false;
        }
        let due = self.behind
            && !self.reading
            && !self.page_out
            && self.unacknowledged() <= READ_THRESHOLD;
        due.then(|| {
            self.reading = true;
            self.behind = false;
            // When a first read is retried, what was announced meanwhile is known.
            let looks_back = self.opened || self.position.is_behind();
            self.read_from = looks_back.then(|| self.position.begin_read());
            FeedRead {
                in_window: self.window.keys().copied().collect(),
                catch_up: !self.live,
                acknowledged: self.read_from.map(|from| AcknowledgedElsewhere {
                    from,
                    sent: self.position.sent_since(from),
                }),
            }
        })
    }

    /// The latest messages acknowledged before the first read, which are not sent. Called before that read.
    pub fn on_opened(&mut self, acknowledged: &[MessageId], now: Instant) {
        let before = |id: &MessageId| self.read_from.is_none_or(|from| *id < from);
        let acknowledged: Vec<MessageId> = acknowledged.iter().copied().filter(before).collect();
        self.position.acknowledged_before(acknowledged, now);
    }

    /// Number of messages awaiting an acknowledgement.
    fn unacknowledged(&self) -> usize {
        self.window.len() - self.acks_pending
    }

    /// A read returned these messages, oldest first; `cut` if a page's byte limit cut it short.
    pub fn on_read(&mut self, found: &[Deliverable], cut: bool, now: Instant) -> FeedBatch {
        self.reading = false;
        self.opened = true;
        let full = cut || found.len() >= PAGE_SIZE;
        self.position.found(found.iter().map(|found| found.attempt.id), !full);
        let deleted = std::mem::take(&mut self.deleted);
        let is_fresh = |found: &&Deliverable| {
            let id = found.attempt.id;
            let had = found.acknowledged && self.position.has_had(id) || deleted.contains(&id);
            !had && !self.window.contains_key(&id)
        };
        let fresh: Vec<Deliverable> = found.iter().filter(is_fresh).copied().collect();
        for found in &fresh {
            self.note(*found, now);
        }
        let was_live = self.live;
        let from = self.read_from.take();
        if full {
            // There may be more behind a full page; the next one waits for the acknowledgement of this one.
            self.behind = true;
            self.page_out = true;
            if let Some(from) = from {
                let last = found.iter().map(|found| found.attempt.id).max();
                self.position.read_in_part(from, last);
            }
        } else {
            self.live = true;
            self.position.read_all();
        }
        let fresh: Vec<MessageId> = fresh.iter().map(|found| found.attempt.id).collect();
        match (fresh.is_empty(), was_live && !full) {
            (true, _) => FeedBatch::Nothing,
            (false, true) => FeedBatch::Singly(fresh),
            (false, false) => FeedBatch::Page(fresh),
        }
    }

    /// A read failed: ask for it again.
    pub fn on_read_failed(&mut self) {
        self.reading = false;
        self.behind = true;
        self.deleted = Vec::new();
        if let Some(from) = self.read_from.take() {
            self.position.read_in_part(from, None);
        }
    }

    /// A message became deliverable: just accepted, or due for a retry.
    pub fn on_live(&mut self, found: Deliverable, now: Instant) -> LiveDecision {
        let DeliveryAttempt { id, position, generation, retry_count } = found.attempt;
        // A sent message is sent again only as another attempt.
        let had = generation == 0 && retry_count == 0 && self.position.has_had(id);
        if had || self.window.contains_key(&id) {
            return LiveDecision::Drop;
        }
        if self.reading && !self.behind {
            return LiveDecision::Defer;
        }
        if generation == 0 && retry_count == 0 && self.position.is_forgotten(id) {
            // Probably sent before, with a late wake-up. If not, a read brings it.
            self.behind = true;
            self.position.hold(id);
            return LiveDecision::Hold;
        }
        if let Some(ConversationPosition { conversation, seq }) = position {
            match self.position.head(conversation) {
                // Delivered before, live or by a read.
                Some(head) if seq <= head => return LiveDecision::Drop,
                Some(head) if seq == head + 1 => {}
                // Wake-ups may be reordered; missing messages are read first.
                _ => {
                    self.behind = true;
                    self.position.go_back_before(id);
                }
            }
        }
        // While a message is held back, later ones must wait behind it.
        if !self.live || self.behind || self.window.len() >= WINDOW_SIZE {
            self.on_passed_over(id);
            return LiveDecision::Hold;
        }
        self.note(found, now);
        LiveDecision::Send
    }

    /// The party sent this message itself: it is not sent to this connection, and the conversation continues
    /// behind it.
    pub fn on_own_message(&mut self, position: ConversationPosition) {
        self.position.on_own_message(position);
    }

    /// A message was passed over: a read will bring it.
    pub fn on_passed_over(&mut self, id: MessageId) {
        self.behind = true;
        self.position.passed_over(id);
    }

    /// Messages may have been missed, from this id on if known: read again.
    pub fn on_resync(&mut self, from: Option<MessageId>) {
        self.behind = true;
        match from {
            Some(from) => {
                self.position.go_back(from);
                let is_unknown = self.position.is_unknown(from) && from.is_message_id();
                if is_unknown && !self.window.contains_key(&from) {
                    self.position.hold(from);
                }
            }
            None => self.position.go_back_to_the_late(),
        }
    }

    /// The acknowledgement of these is stored.
    pub fn on_acknowledged(&mut self, ids: &[MessageId]) {
        for id in ids {
            let was_pending = self.window.remove(id).is_some_and(|written| written.ack_received);
            self.acks_pending -= usize::from(was_pending);
            self.position.remember(*id);
        }
        self.tidy_window();
    }

    /// The message was deleted: it is not sent, and no acknowledgement is expected.
    pub fn on_deleted(&mut self, id: MessageId) {
        if self.reading {
            self.deleted.push(id);
        }
        self.on_acknowledged(&[id]);
    }

    /// The recipient acknowledged these on another connection: no acknowledgement is expected here, but
    /// unsent ones are still sent.
    pub fn on_acknowledged_elsewhere(&mut self, ids: impl Iterator<Item = MessageId>) {
        for id in ids {
            match self.window.remove(&id) {
                Some(written) => self.acks_pending -= usize::from(written.ack_received),
                None if self.position.has_had(id) => {}
                None => self.behind |= self.position.is_owed(id),
            }
        }
        self.tidy_window();
    }

    fn tidy_window(&mut self) {
        if self.window.is_empty() {
            // An idle connection holds no memory.
            self.window = HashMap::new();
            self.next_check = None;
        }
    }

    /// The client acknowledged these; storing it is in progress. The next page need not wait for that: it
    /// leaves these out.
    pub fn on_ack_received(&mut self, ids: &[MessageId]) {
        for id in ids {
            // What the client has from elsewhere need not be sent here.
            self.position.remember(*id);
            if let Some(written) = self.window.get_mut(id)
                && !written.ack_received
            {
                written.ack_received = true;
                self.acks_pending += 1;
            }
        }
    }

    /// The acknowledgements could not be stored: the client must repeat them.
    pub fn on_ack_lost(&mut self) {
        self.window.values_mut().for_each(|written| written.ack_received = false);
        self.acks_pending = 0;
    }

    /// The client acknowledged a message.
    pub fn on_client_active(&mut self, now: Instant) {
        self.last_active = Some(now);
    }

    fn missed_at(&self, written: &InFlight) -> Instant {
        let since = self.last_active.map_or(written.at, |last_active| last_active.max(written.at));
        let timeout = self.acknowledge_timeout;
        (since + timeout).min(written.at + timeout.saturating_mul(MAX_TIMEOUT_FACTOR))
    }

    /// Removes and returns overdue messages.
    pub fn on_tick(&mut self, now: Instant) -> Overdue {
        let mut overdue = Overdue::default();
        let mut window = std::mem::take(&mut self.window);
        window.retain(|id, written| {
            let attempt = DeliveryAttempt {
                id: *id,
                position: written.position,
                generation: written.generation,
                retry_count: written.retry_count,
            };
            if now >= self.missed_at(written) {
                overdue.missed.push((attempt, written.at));
                self.acks_pending -= usize::from(written.ack_received);
                return false;
            }
            let waited = now.saturating_duration_since(written.at);
            if waited >= SENT_STATUS_DELAY && !written.stored_as_sent {
                written.stored_as_sent = true;
                overdue.sent.push((attempt, written.at));
            }
            true
        });
        self.window = window;
        let unread = self.behind || self.reading || !self.window.is_empty();
        self.position.on_tick(unread, now);
        self.next_check = self.window.values().map(|written| self.due_at(written)).min();
        overdue
    }

    /// The earliest time at which [`Feed::on_tick`] has work; `None` for a connection that has been idle for
    /// a while.
    pub fn next_deadline(&self) -> Option<Instant> {
        let next_check = self.next_check.filter(|_| !self.window.is_empty());
        [next_check, self.position.quiet_at()].into_iter().flatten().min()
    }

    /// From which id on this connection may have missed messages that it will not be sent: the client must be
    /// told.
    pub fn take_lost(&mut self) -> Option<MessageId> {
        self.position.take_lost()
    }

    /// When a message becomes overdue.
    fn due_at(&self, written: &InFlight) -> Instant {
        let missed = self.missed_at(written);
        if written.stored_as_sent { missed } else { missed.min(written.at + SENT_STATUS_DELAY) }
    }

    /// When an unacknowledged message was written to this connection.
    pub fn written_at(&self, id: MessageId) -> Option<Instant> {
        self.window.get(&id).map(|written| written.at)
    }

    /// Whether no read has completed yet.
    pub fn is_new(&self) -> bool {
        !self.opened
    }

    /// The oldest message that the client has not acknowledged.
    pub fn head(&self) -> Option<Unacknowledged> {
        let open = self.window.iter().filter(|(_, written)| !written.ack_received);
        let (id, written) = open.min_by_key(|(id, _)| **id)?;
        let InFlight { position, generation, retry_count, at, .. } = *written;
        let attempt = DeliveryAttempt { id: *id, position, generation, retry_count };
        Some(Unacknowledged { attempt, at, is_alone: self.unacknowledged() == 1 })
    }

    /// Removes and returns all unacknowledged messages, with the time of writing: for when the connection has
    /// closed.
    pub fn abandon(&mut self) -> Vec<(DeliveryAttempt, Instant)> {
        self.acks_pending = 0;
        self.next_check = None;
        self.window
            .drain()
            .map(|(id, written)| {
                let InFlight { position, generation, retry_count, at, .. } = written;
                (DeliveryAttempt { id, position, generation, retry_count }, at)
            })
            .collect()
    }

    fn note(&mut self, found: Deliverable, now: Instant) {
        let Deliverable { attempt, acknowledged } = found;
        self.position.sent(attempt.id, attempt.position, now);
        if acknowledged {
            return;
        }
        let written = InFlight {
            position: attempt.position,
            generation: attempt.generation,
            retry_count: attempt.retry_count,
            at: now,
            stored_as_sent: false,
            ack_received: false,
        };
        let due = self.due_at(&written);
        self.window.entry(attempt.id).or_insert(written);
        self.next_check = Some(self.next_check.map_or(due, |at| at.min(due)));
    }
}

#[cfg(test)]
mod tests;
