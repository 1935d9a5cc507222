//! What one connection of a recipient is to be sent, and when.
//!
//! A feed decides; it holds ids, not messages, and neither reads nor writes. It begins with the
//! catch-up (pages of what is pending, each after the last is acknowledged), goes live when a page
//! comes back short, and whenever it has to pass over a live message (catching up, or the window is
//! full) it remembers only from where on it did, and asks to read from the database again: nothing is
//! buffered twice and nothing is lost.
//!
//! A recipient may have several connections, and each has a feed of its own: what another one
//! acknowledged meanwhile is read too, unless that was before this connection came ([`position`]).

mod position;
mod reading;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use position::Position;
pub use position::{LATE, REMEMBERED};
pub use reading::{Elsewhere, Reading, Unacknowledged};

use super::{MessageId, message::ConversationPosition};

/// The most messages in one page of the catch-up (interfaces.md, The hub).
pub const PAGE: usize = 100;
/// The most unacknowledged messages on one connection (delivery.md, How 5).
pub const WINDOW: usize = 256;
/// The most unacknowledged messages with which a read is worth its while: with more, the client has
/// enough to do, and what waits is read together.
const READ_BELOW: usize = PAGE / 2;
/// How long a written message may stay unacknowledged before it is stored as sent. An
/// acknowledgement that comes sooner stores both at once, which saves a write.
pub const SENT_AFTER: Duration = Duration::from_secs(1);

/// A client that goes on acknowledging is at work, and what it has not come to yet is not missed, for
/// up to this many times the timeout. Without that a client that is only slow would be sent everything
/// again, and be slower still.
const AT_WORK: u32 = 6;

/// What identifies one attempt to deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The message.
    pub id: MessageId,
    /// Where it stands in a conversation, if it does.
    pub place: Option<ConversationPosition>,
    /// Its generation when it was written.
    pub generation: i32,
    /// Its retry count when it was written.
    pub retry_count: u16,
}

/// A message that could be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The message.
    pub attempt: Attempt,
    /// The recipient has acknowledged it on another connection: nobody waits for this one's word.
    pub acknowledged: bool,
}

#[derive(Clone, Copy, Debug)]
struct Written {
    place: Option<ConversationPosition>,
    generation: i32,
    retry_count: u16,
    at: Instant,
    stored_as_sent: bool,
    said: bool,
}

/// What to do with a message that has just become deliverable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Live {
    /// Write it now; it is in the window from here on.
    Send,
    /// A read is under way: ask again when it has ended. This keeps a connection that had to read once
    /// from having to read for every message that comes meanwhile.
    Defer,
    /// Not now: it will come with a later read.
    Hold,
    /// This connection has it already.
    Drop,
}

/// How the messages of a read are to be sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Batch {
    /// As a page of the catch-up.
    Page(Vec<MessageId>),
    /// Each by itself, as live messages.
    Singly(Vec<MessageId>),
    /// Nothing new.
    Nothing,
}

/// What a look at the clock found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Overdue {
    /// Written a while ago, not acknowledged yet: to be stored as sent, with the time of writing.
    pub sent: Vec<(Attempt, Instant)>,
    /// Not acknowledged in time: no longer in the window, to be judged by the retry policy; with the time
    /// of writing.
    pub missed: Vec<(Attempt, Instant)>,
}

/// The feed of one connection.
#[derive(Debug)]
pub struct Feed {
    window: HashMap<MessageId, Written>,
    position: Position,
    /// How many of the window the client has acknowledged in words that are not stored yet.
    said: usize,
    acknowledge_timeout: Duration,
    /// When the client last acknowledged anything.
    heard: Option<Instant>,
    /// Nothing in the window is due before this: it is asked for at every event, and looking through the
    /// window each time would cost a busy connection more than a look too early.
    look_at: Option<Instant>,
    /// Something was passed over since the last read began.
    behind: bool,
    /// A read is under way.
    reading: bool,
    /// Were deleted meanwhile: the read may have seen them before.
    deleted: Vec<MessageId>,
    /// From where on it looks at what is acknowledged; `None` for the first.
    read_from: Option<MessageId>,
    /// A read has brought something before, if only nothing.
    opened: bool,
    /// The window must empty before the next page (the last one was full).
    page_out: bool,
    /// A page came back short: from here on reads only fill holes.
    live: bool,
}

impl Feed {
    /// A feed that begins by asking to read what is pending. `opened` is below every message that may
    /// become known from now on.
    pub fn new(acknowledge_timeout: Duration, opened: MessageId) -> Self {
        Feed {
            window: HashMap::new(),
            position: Position::new(opened),
            said: 0,
            acknowledge_timeout,
            heard: None,
            look_at: None,
            behind: true,
            reading: false,
            deleted: Vec::new(),
            read_from: None,
            opened: false,
            page_out: false,
            live: false,
        }
    }

    /// What to read now; says so once until [`Feed::on_read`] or [`Feed::on_read_failed`] is told.
    pub fn begin_read(&mut self) -> Option<Reading> {
        if self.page_out && self.open() == 0 {
            self.page_out = false;
        }
        let due = self.behind && !self.reading && !self.page_out && self.open() <= READ_BELOW;
        due.then(|| {
            self.reading = true;
            self.behind = false;
            // Of a first read that is tried again, what was told meanwhile is known.
            let looks_back = self.opened || self.position.is_behind();
            self.read_from = looks_back.then(|| self.position.begin_read());
            Reading {
                in_window: self.window.keys().copied().collect(),
                catch_up: !self.live,
                acknowledged: self
                    .read_from
                    .map(|from| Elsewhere { from, sent: self.position.sent_since(from) }),
            }
        })
    }

    /// What of the latest was acknowledged before the first read; it is not sent. Told before that read.
    pub fn on_opened(&mut self, acknowledged: &[MessageId], now: Instant) {
        let before = |id: &MessageId| self.read_from.is_none_or(|from| *id < from);
        let acknowledged: Vec<MessageId> = acknowledged.iter().copied().filter(before).collect();
        self.position.acknowledged_before(acknowledged, now);
    }

    /// How many wait for the client's word.
    fn open(&self) -> usize {
        self.window.len() - self.said
    }

    /// A read ended with these messages, oldest first; `cut` when more were found than a page may weigh.
    pub fn on_read(&mut self, found: &[Found], cut: bool, now: Instant) -> Batch {
        self.reading = false;
        self.opened = true;
        let full = cut || found.len() >= PAGE;
        self.position.found(found.iter().map(|found| found.attempt.id), !full);
        let deleted = std::mem::take(&mut self.deleted);
        let is_fresh = |found: &&Found| {
            let id = found.attempt.id;
            let had = found.acknowledged && self.position.has_had(id) || deleted.contains(&id);
            !had && !self.window.contains_key(&id)
        };
        let fresh: Vec<Found> = found.iter().filter(is_fresh).copied().collect();
        for found in &fresh {
            self.note(*found, now);
        }
        let was_live = self.live;
        let from = self.read_from.take();
        if full {
            // More may wait behind a full page, and it waits for the acknowledgement of this one.
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
            (true, _) => Batch::Nothing,
            (false, true) => Batch::Singly(fresh),
            (false, false) => Batch::Page(fresh),
        }
    }

    /// A read failed: it is asked for again.
    pub fn on_read_failed(&mut self) {
        self.reading = false;
        self.behind = true;
        self.deleted = Vec::new();
        if let Some(from) = self.read_from.take() {
            self.position.read_in_part(from, None);
        }
    }

    /// A message has become deliverable: accepted just now, or its retry is due.
    pub fn on_live(&mut self, found: Found, now: Instant) -> Live {
        let Attempt { id, place, generation, retry_count } = found.attempt;
        // What was sent before comes again only as another attempt.
        let had = generation == 0 && retry_count == 0 && self.position.has_had(id);
        if had || self.window.contains_key(&id) {
            return Live::Drop;
        }
        if self.reading && !self.behind {
            return Live::Defer;
        }
        if generation == 0 && retry_count == 0 && self.position.is_forgotten(id) {
            // Most likely it was sent, and its wake-up comes late. If not, a read brings it.
            self.behind = true;
            self.position.hold(id);
            return Live::Hold;
        }
        if let Some(ConversationPosition { conversation, seq }) = place {
            match self.position.head(conversation) {
                // It came before, on the wire or with a read.
                Some(head) if seq <= head => return Live::Drop,
                Some(head) if seq == head + 1 => {}
                // Wake-ups may overtake each other; what is missing is read first.
                _ => {
                    self.behind = true;
                    self.position.go_back_before(id);
                }
            }
        }
        // While anything is held back, whatever comes later has to wait behind it.
        if !self.live || self.behind || self.window.len() >= WINDOW {
            self.on_passed_over(id);
            return Live::Hold;
        }
        self.note(found, now);
        Live::Send
    }

    /// The party itself wrote this, here or elsewhere: nobody sends it to this connection, so the
    /// conversation goes on behind it.
    pub fn on_own(&mut self, place: ConversationPosition) {
        self.position.on_own(place);
    }

    /// A message that could have been sent was not: it comes with a read.
    pub fn on_passed_over(&mut self, id: MessageId) {
        self.behind = true;
        self.position.passed_over(id);
    }

    /// Something may have been missed, from this id on where that is known: read again.
    pub fn on_resync(&mut self, from: Option<MessageId>) {
        self.behind = true;
        match from {
            Some(from) => {
                self.position.go_back(from);
                let is_unknown = self.position.is_unknown(from) && from.is_of_a_message();
                if is_unknown && !self.window.contains_key(&from) {
                    self.position.hold(from);
                }
            }
            None => self.position.go_back_to_the_late(),
        }
    }

    /// The client's word about these is stored.
    pub fn on_acknowledged(&mut self, ids: &[MessageId]) {
        for id in ids {
            let said = self.window.remove(id).is_some_and(|written| written.said);
            self.said -= usize::from(said);
            self.position.remember(*id);
        }
        self.tidy_window();
    }

    /// It was deleted: it is not sent any more, and nobody waits for its acknowledgement.
    pub fn on_deleted(&mut self, id: MessageId) {
        if self.reading {
            self.deleted.push(id);
        }
        self.on_acknowledged(&[id]);
    }

    /// The recipient has these, as it said on another connection: nobody waits for this one's word any more,
    /// but what was not sent here is still to be.
    pub fn on_acknowledged_elsewhere(&mut self, ids: impl Iterator<Item = MessageId>) {
        for id in ids {
            match self.window.remove(&id) {
                Some(written) => self.said -= usize::from(written.said),
                None if self.position.has_had(id) => {}
                None => self.behind |= self.position.is_owed(id),
            }
        }
        self.tidy_window();
    }

    fn tidy_window(&mut self) {
        if self.window.is_empty() {
            // An idle connection holds no buffer.
            self.window = HashMap::new();
            self.look_at = None;
        }
    }

    /// The client says that it has these; its word is being stored. The next page need not wait for
    /// that: it leaves these out.
    pub fn on_said(&mut self, ids: &[MessageId]) {
        for id in ids {
            // What it has by another way need not be sent here.
            self.position.remember(*id);
            if let Some(written) = self.window.get_mut(id)
                && !written.said
            {
                written.said = true;
                self.said += 1;
            }
        }
    }

    /// The client's words could not be stored: it has to say them again.
    pub fn on_word_lost(&mut self) {
        self.window.values_mut().for_each(|written| written.said = false);
        self.said = 0;
    }

    /// The client is acknowledging something.
    pub fn on_heard(&mut self, now: Instant) {
        self.heard = Some(now);
    }

    /// When a message counts as missed.
    fn missed_at(&self, written: &Written) -> Instant {
        let since = self.heard.map_or(written.at, |heard| heard.max(written.at));
        let timeout = self.acknowledge_timeout;
        (since + timeout).min(written.at + timeout.saturating_mul(AT_WORK))
    }

    /// Looks at the clock.
    pub fn on_tick(&mut self, now: Instant) -> Overdue {
        let mut overdue = Overdue::default();
        let mut window = std::mem::take(&mut self.window);
        window.retain(|id, written| {
            let attempt = Attempt {
                id: *id,
                place: written.place,
                generation: written.generation,
                retry_count: written.retry_count,
            };
            if now >= self.missed_at(written) {
                overdue.missed.push((attempt, written.at));
                self.said -= usize::from(written.said);
                return false;
            }
            let waited = now.saturating_duration_since(written.at);
            if waited >= SENT_AFTER && !written.stored_as_sent {
                written.stored_as_sent = true;
                overdue.sent.push((attempt, written.at));
            }
            true
        });
        self.window = window;
        let unread = self.behind || self.reading || !self.window.is_empty();
        self.position.on_tick(unread, now);
        self.look_at = self.window.values().map(|written| self.due_at(written)).min();
        overdue
    }

    /// When [`Feed::on_tick`] may have something to say or to forget at the earliest; `None` for a connection
    /// that has had nothing for a while.
    pub fn next_deadline(&self) -> Option<Instant> {
        let look_at = self.look_at.filter(|_| !self.window.is_empty());
        [look_at, self.position.quiet_at()].into_iter().flatten().min()
    }

    /// From when on this connection may have missed messages that it will not be sent: it is to be told.
    pub fn take_lost(&mut self) -> Option<MessageId> {
        self.position.take_lost()
    }

    /// When there is something to be done about a message.
    fn due_at(&self, written: &Written) -> Instant {
        let missed = self.missed_at(written);
        if written.stored_as_sent { missed } else { missed.min(written.at + SENT_AFTER) }
    }

    /// When a message was written to this connection, while it is not acknowledged.
    pub fn written_at(&self, id: MessageId) -> Option<Instant> {
        self.window.get(&id).map(|written| written.at)
    }

    /// Whether nothing was read yet.
    pub fn is_new(&self) -> bool {
        !self.opened
    }

    /// The first message that the client has not acknowledged, as it was written; the client has still to
    /// deal with it.
    pub fn head(&self) -> Option<Unacknowledged> {
        let open = self.window.iter().filter(|(_, written)| !written.said);
        let (id, written) = open.min_by_key(|(id, _)| **id)?;
        let Written { place, generation, retry_count, at, .. } = *written;
        let attempt = Attempt { id: *id, place, generation, retry_count };
        Some(Unacknowledged { attempt, at, is_alone: self.open() == 1 })
    }

    /// Everything written and not acknowledged, with the time of writing: for when the connection
    /// has ended.
    pub fn abandon(&mut self) -> Vec<(Attempt, Instant)> {
        self.said = 0;
        self.look_at = None;
        self.window
            .drain()
            .map(|(id, written)| {
                let Written { place, generation, retry_count, at, .. } = written;
                (Attempt { id, place, generation, retry_count }, at)
            })
            .collect()
    }

    fn note(&mut self, found: Found, now: Instant) {
        let Found { attempt, acknowledged } = found;
        self.position.sent(attempt.id, attempt.place, now);
        if acknowledged {
            return;
        }
        let written = Written {
            place: attempt.place,
            generation: attempt.generation,
            retry_count: attempt.retry_count,
            at: now,
            stored_as_sent: false,
            said: false,
        };
        let due = self.due_at(&written);
        self.window.entry(attempt.id).or_insert(written);
        self.look_at = Some(self.look_at.map_or(due, |at| at.min(due)));
    }
}

#[cfg(test)]
mod tests;
