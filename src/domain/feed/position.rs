//! Where a connection stands in what its recipient is sent: what it has had, and from where it reads again.
//!
//! Ids are the positions. They come nearly in order: a message may become known up to [`LATE`] after one
//! with a later id. So the ids that were sent last are remembered, and a read may go back below them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use crate::domain::{ConversationId, MessageId, message::ConversationPosition};

/// How much later than a message with a later id a message may become known: the time that its writer waits
/// for the database, and the difference between two processes' clocks.
pub const LATE: Duration = Duration::from_secs(10);
/// The most ids that are remembered as sent here: some pages, and all that may wait for a connection.
pub const REMEMBERED: usize = 1024;
/// The most conversations of which is known how far this connection has them. Past that all of them are
/// forgotten, and the next message of each costs a read.
const HEADS: usize = 4096;
/// The most messages that are held because nobody knows whether they were sent here.
const HELD: usize = 256;

/// What a connection has had. Idle ones have had nothing lately, and there are many of them.
#[derive(Debug, Default)]
struct Past {
    /// Up to which `seq` it has a conversation, without a gap that it could be sent.
    heads: HashMap<ConversationId, i64>,
    /// The ids that were sent last, and those that the client acknowledged itself.
    sent: BTreeSet<MessageId>,
    /// The latest id that was forgotten because there were too many.
    crowded: Option<MessageId>,
    /// Came when it was not known any more whether they were sent here, and whether a read that began since
    /// then looks for them.
    held: BTreeMap<MessageId, bool>,
    /// The first of those that this connection may have missed and that cannot be told any more.
    lost: Option<MessageId>,
    /// When the ids need not be remembered any longer.
    quiet_at: Option<Instant>,
}

impl Past {
    /// The connection may have missed this, and will not be sent it.
    fn lose(&mut self, id: MessageId) {
        self.lost = Some(self.lost.map_or(id, |lost| lost.min(id)));
    }
}

/// The position of one connection.
#[derive(Debug)]
pub(super) struct Position {
    /// What was acknowledged before it came is not its business; ids from here on may be.
    opened: MessageId,
    /// The latest id that it was sent.
    cursor: MessageId,
    /// Something from here on was passed over.
    back_to: Option<MessageId>,
    /// What was acknowledged is not read at this id and below: it is not known any more what was sent.
    floor: MessageId,
    past: Option<Box<Past>>,
}

impl Position {
    pub(super) fn new(opened: MessageId) -> Position {
        let nothing = MessageId(uuid::Uuid::nil());
        Position { opened, cursor: nothing, back_to: None, floor: nothing, past: None }
    }

    /// Whether something was passed over that no read has brought yet.
    pub(super) fn is_behind(&self) -> bool {
        self.back_to.is_some()
    }

    /// From where on a read has to look, also at what is acknowledged: not only behind the cursor, because a
    /// message that became known late may have been acknowledged elsewhere before anybody told of it, and
    /// what comes after it in its conversation must not be sent first.
    pub(super) fn begin_read(&mut self) -> MessageId {
        if let Some(past) = &mut self.past {
            past.held.values_mut().for_each(|asked| *asked = true);
        }
        let next = self.cursor.next().min(self.late_of(self.cursor));
        self.back_to.take().map_or(next, |back_to| back_to.min(next)).max(self.floor.next())
    }

    /// A read that looked from there on did not bring everything: the next one goes on behind `last`.
    pub(super) fn read_in_part(&mut self, from: MessageId, last: Option<MessageId>) {
        let next = last.map_or(from, |last| last.next().max(from));
        self.back_to = Some(self.back_to.map_or(next, |back_to| back_to.min(next)));
    }

    /// It is not known any more whether this was sent here, and nobody has acknowledged it yet: a read tells.
    pub(super) fn hold(&mut self, id: MessageId) {
        let past = self.past.get_or_insert_default();
        if past.held.len() < HELD {
            past.held.insert(id, false);
        } else {
            past.lose(id);
        }
    }

    /// A read brought these, all that there are or some. What was held and is not among all of them was
    /// acknowledged meanwhile, elsewhere: whether it was sent here nobody knows.
    pub(super) fn found(&mut self, found: impl Iterator<Item = MessageId>, all: bool) {
        let Some(past) = self.past.as_mut().filter(|past| !past.held.is_empty()) else { return };
        for id in found {
            past.held.remove(&id);
        }
        let (gone, held) =
            std::mem::take(&mut past.held).into_iter().partition(|(_, asked)| all && *asked);
        past.held = held;
        let gone: BTreeMap<MessageId, bool> = gone;
        gone.into_keys().for_each(|id| past.lose(id));
    }

    /// Everything up to now was read.
    pub(super) fn read_all(&mut self) {
        self.cursor = self.cursor.max(self.opened);
    }

    /// Was sent here, or came from the client itself.
    pub(super) fn has_had(&self, id: MessageId) -> bool {
        self.past.as_ref().is_some_and(|past| past.sent.contains(&id))
    }

    /// It is not known any more whether this was sent here.
    pub(super) fn is_forgotten(&self, id: MessageId) -> bool {
        id <= self.floor
    }

    /// The same, for one that may be this connection's business though it is acknowledged.
    pub(super) fn is_unknown(&self, id: MessageId) -> bool {
        id >= self.opened && self.is_forgotten(id)
    }

    /// The ids from there on that are known to be sent.
    pub(super) fn sent_since(&self, from: MessageId) -> Vec<MessageId> {
        self.past.iter().flat_map(|past| past.sent.range(from..)).copied().collect()
    }

    pub(super) fn head(&self, conversation: ConversationId) -> Option<i64> {
        self.past.as_ref()?.heads.get(&conversation).copied()
    }

    /// Was sent.
    pub(super) fn sent(
        &mut self,
        id: MessageId,
        place: Option<ConversationPosition>,
        now: Instant,
    ) {
        self.cursor = self.cursor.max(id);
        self.remember(id);
        let past = self.past.get_or_insert_default();
        past.quiet_at = Some(now + LATE);
        let Some(ConversationPosition { conversation, seq }) = place else { return };
        if past.heads.len() >= HEADS && !past.heads.contains_key(&conversation) {
            past.heads = HashMap::new();
        }
        let head = past.heads.entry(conversation).or_insert(seq);
        *head = seq.max(*head);
    }

    /// Is not to be sent any more.
    pub(super) fn remember(&mut self, id: MessageId) {
        if id <= self.floor {
            if let Some(past) = &mut self.past {
                past.held.remove(&id);
            }
            return;
        }
        let past = self.past.get_or_insert_default();
        past.sent.insert(id);
        if past.sent.len() > REMEMBERED
            && let Some(forgotten) = past.sent.pop_first()
        {
            self.floor = self.floor.max(forgotten);
            past.crowded = Some(forgotten);
        }
    }

    /// These were acknowledged before the connection came, the latest of them at least.
    pub(super) fn acknowledged_before(&mut self, mut latest: Vec<MessageId>, now: Instant) {
        latest.sort_unstable();
        if latest.len() >= REMEMBERED
            && let Some(first) = latest.first()
        {
            self.floor = self.floor.max(*first);
        }
        latest.iter().for_each(|id| self.remember(*id));
        if let Some(past) = &mut self.past {
            past.quiet_at.get_or_insert(now + LATE);
        }
    }

    /// The party itself wrote this: the conversation goes on behind it.
    pub(super) fn on_own(&mut self, place: ConversationPosition) {
        let heads = self.past.as_mut().map(|past| &mut past.heads);
        if let Some(head) = heads.and_then(|heads| heads.get_mut(&place.conversation))
            && place.seq == *head + 1
        {
            *head = place.seq;
        }
    }

    /// A message was not sent that could have been: the next read looks from it on.
    pub(super) fn passed_over(&mut self, id: MessageId) {
        if id <= self.floor {
            self.past.get_or_insert_default().lose(id);
        }
        self.go_back(id);
    }

    /// Something from there on may not have been sent. What was acknowledged before the connection came is not
    /// its business, and what still waits is read wherever it stands.
    pub(super) fn go_back(&mut self, id: MessageId) {
        let id = id.max(self.opened);
        self.back_to = Some(self.back_to.map_or(id, |back_to| back_to.min(id)));
    }

    /// Something may not have been sent, nobody can say what: messages that became known late.
    pub(super) fn go_back_to_the_late(&mut self) {
        let from = self.late_of(self.cursor);
        if let Some(past) = &mut self.past
            && past.crowded.is_some_and(|crowded| from <= crowded)
        {
            past.lose(from);
        }
        self.go_back(from);
    }

    /// What precedes this message in its conversation may not have been sent.
    pub(super) fn go_back_before(&mut self, id: MessageId) {
        self.go_back(self.late_of(id.min(self.cursor)).min(id));
    }

    fn late_of(&self, id: MessageId) -> MessageId {
        id.earlier(LATE).max(self.opened)
    }

    /// Somebody else acknowledged a message that was not sent here. Whether a read may bring it.
    pub(super) fn is_owed(&mut self, id: MessageId) -> bool {
        if id > self.cursor {
            return true;
        }
        if let Some(past) = &mut self.past
            && past.held.remove(&id).is_some()
        {
            past.lose(id);
        }
        let owed = id > self.floor && id >= self.opened && !self.has_had(id);
        if owed {
            self.go_back(id);
        }
        owed
    }

    /// From when on the connection may have missed messages that it will not be sent.
    pub(super) fn take_lost(&mut self) -> Option<MessageId> {
        self.past.as_mut()?.lost.take()
    }

    /// When the ids need not be remembered any longer.
    pub(super) fn quiet_at(&self) -> Option<Instant> {
        self.past.as_ref()?.quiet_at
    }

    /// Forgets the ids that were sent if that is long enough ago; `behind` while a read may need them.
    pub(super) fn on_tick(&mut self, behind: bool, now: Instant) {
        let Some(past) =
            self.past.as_mut().filter(|past| past.quiet_at.is_some_and(|at| now >= at))
        else {
            return;
        };
        if behind {
            past.quiet_at = Some(now + LATE);
            return;
        }
        // What was acknowledged before the connection came is known like what was sent, and may be later.
        let latest = past.sent.last().copied().unwrap_or(self.cursor);
        self.floor = self.floor.max(self.cursor).max(latest);
        (past.quiet_at, past.crowded, past.sent) = (None, None, BTreeSet::new());
        if past.heads.is_empty() && past.held.is_empty() && past.lost.is_none() {
            self.past = None;
        }
    }
}
