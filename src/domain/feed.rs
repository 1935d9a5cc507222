//! What one connection of a recipient is to be sent, and when.
//!
//! A feed decides; it holds ids, not messages, and neither reads nor writes. It begins with the
//! catch-up (pages of what is pending, each after the last is acknowledged), goes live when a page
//! comes back short, and whenever it has to pass over a live message (catching up, or the window is
//! full) it remembers only that it did, and asks to read from the database again: nothing is
//! buffered twice and nothing is lost.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use super::{ConversationId, MessageId, message::Place};

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

/// The most conversations of which is known how far this connection has them. Past that all of them are
/// forgotten, and the next message of each costs a read.
const HEADS: usize = 4096;

/// How many acknowledged messages are remembered: those of the last moment, for about as long as a wake-up
/// takes through the broker.
const LATELY: usize = 64;

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
    pub place: Option<Place>,
    /// Its generation when it was written.
    pub generation: i32,
    /// Its retry count when it was written.
    pub retry_count: u16,
}

#[derive(Clone, Copy, Debug)]
struct Written {
    place: Option<Place>,
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

/// What a connection has had.
#[derive(Debug, Default)]
struct Past {
    /// Up to which `seq` it has a conversation, without a gap that it could be sent.
    heads: HashMap<ConversationId, i64>,
    /// What was acknowledged lately: a wake-up that comes late, or twice, finds it here.
    lately: VecDeque<MessageId>,
}

/// The feed of one connection.
#[derive(Debug)]
pub struct Feed {
    window: HashMap<MessageId, Written>,
    /// What it has had before; idle connections have had nothing, and there are many.
    past: Option<Box<Past>>,
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
    /// The window must empty before the next page (the last one was full).
    page_out: bool,
    /// A page came back short: from here on reads only fill holes.
    live: bool,
}

impl Feed {
    /// A feed that begins by asking to read what is pending.
    pub fn new(acknowledge_timeout: Duration) -> Self {
        Feed {
            window: HashMap::new(),
            past: None,
            said: 0,
            acknowledge_timeout,
            heard: None,
            look_at: None,
            behind: true,
            reading: false,
            page_out: false,
            live: false,
        }
    }

    /// Whether to read pending messages now; says so once until [`Feed::on_read`] or
    /// [`Feed::on_read_failed`] is told. The read must leave out what [`Feed::in_window`] lists and
    /// return at most [`PAGE`] messages, oldest first.
    pub fn begin_read(&mut self) -> bool {
        if self.page_out && self.open() == 0 {
            self.page_out = false;
        }
        let due = self.behind && !self.reading && !self.page_out && self.open() <= READ_BELOW;
        if due {
            self.reading = true;
            self.behind = false;
        }
        due
    }

    /// How many wait for the client's word.
    fn open(&self) -> usize {
        self.window.len() - self.said
    }

    /// The ids that are written and not stored as acknowledged.
    pub fn in_window(&self) -> Vec<MessageId> {
        self.window.keys().copied().collect()
    }

    /// A read ended with these messages, oldest first; `cut` when more were found than a page may weigh.
    pub fn on_read(&mut self, found: &[Attempt], cut: bool, now: Instant) -> Batch {
        self.reading = false;
        let full = cut || found.len() >= PAGE;
        let fresh: Vec<MessageId> = found
            .iter()
            .filter(|attempt| !self.window.contains_key(&attempt.id))
            .map(|attempt| attempt.id)
            .collect();
        for attempt in found {
            self.note(*attempt, now);
            if let Some(Place { conversation, seq }) = attempt.place {
                self.reach(conversation, seq);
            }
        }
        let was_live = self.live;
        if full {
            // More may wait behind a full page, and it waits for the acknowledgement of this one.
            self.behind = true;
            self.page_out = true;
        } else {
            self.live = true;
        }
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
    }

    /// A message has become deliverable: accepted just now, or its retry is due.
    pub fn on_live(&mut self, attempt: Attempt, now: Instant) -> Live {
        let past = self.past.as_ref();
        let had = past.is_some_and(|past| past.lately.contains(&attempt.id));
        if had || self.window.contains_key(&attempt.id) {
            return Live::Drop;
        }
        if self.reading && !self.behind {
            return Live::Defer;
        }
        if let Some(Place { conversation, seq }) = attempt.place {
            match past.and_then(|past| past.heads.get(&conversation)) {
                // It came before, on the wire or with a read.
                Some(head) if seq <= *head => return Live::Drop,
                Some(head) if seq == head + 1 => {}
                // Wake-ups may overtake each other; what is missing is read first.
                _ => self.behind = true,
            }
        }
        // While anything is held back, whatever comes later has to wait behind it.
        if !self.live || self.behind || self.window.len() >= WINDOW {
            self.behind = true;
            return Live::Hold;
        }
        self.note(attempt, now);
        if let Some(Place { conversation, seq }) = attempt.place {
            self.reach(conversation, seq);
        }
        Live::Send
    }

    fn reach(&mut self, conversation: ConversationId, seq: i64) {
        let heads = &mut self.past.get_or_insert_default().heads;
        if heads.len() >= HEADS && !heads.contains_key(&conversation) {
            *heads = HashMap::new();
        }
        let head = heads.entry(conversation).or_insert(seq);
        *head = seq.max(*head);
    }

    /// The party itself wrote this, here or elsewhere: nobody sends it to this connection, so the
    /// conversation goes on behind it.
    pub fn on_own(&mut self, place: Place) {
        if let Some(head) =
            self.past.as_mut().and_then(|past| past.heads.get_mut(&place.conversation))
            && place.seq == *head + 1
        {
            *head = place.seq;
        }
    }

    /// Something may have been missed: read again.
    pub fn on_nudge(&mut self) {
        self.behind = true;
    }

    /// The recipient has these, on whichever connection it said so.
    pub fn on_acknowledged(&mut self, ids: &[MessageId]) {
        for id in ids {
            let said = self.window.remove(id).is_some_and(|written| written.said);
            self.said -= usize::from(said);
            let lately = &mut self.past.get_or_insert_default().lately;
            if lately.len() == LATELY {
                lately.pop_front();
            }
            lately.push_back(*id);
        }
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
        self.look_at = self.window.values().map(|written| self.due_at(written)).min();
        overdue
    }

    /// When [`Feed::on_tick`] may have something to say at the earliest; `None` while nothing is written.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.look_at.filter(|_| !self.window.is_empty())
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

    /// Whether the catch-up is over.
    pub fn is_live(&self) -> bool {
        self.live
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

    fn note(&mut self, attempt: Attempt, now: Instant) {
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
