//! The position of a connection in its recipient's messages: what it has been sent, and from where it reads
//! again.
//!
//! Ids are the positions. They arrive nearly in order: a message may become known up to [`MAX_REORDERING`]
//! after one with a later id. So the last sent ids are remembered, and a read may go back below them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use crate::domain::{ConversationId, MessageId, message::ConversationPosition};

/// How much later than a message with a later id a message may become known: the writer's database timeout
/// and clock differences.
pub const MAX_REORDERING: Duration = Duration::from_secs(10);
/// Maximum number of remembered sent ids: several pages, and a full window.
pub const MAX_REMEMBERED_IDS: usize = 1024;
/// Maximum number of conversations with a known head. Beyond it all are forgotten, and the next message of
/// each costs a read.
const MAX_HEADS: usize = 4096;
/// Maximum number of messages held because it is unknown whether they were sent here.
const MAX_UNRESOLVED: usize = 256;

/// What a connection has been sent. Absent on idle connections, of which there are many.
#[derive(Debug, Default)]
struct DeliveredHistory {
    /// The `seq` up to which it has each conversation without a gap.
    heads: HashMap<ConversationId, i64>,
    /// The last sent ids, and those the client acknowledged itself.
    sent: BTreeSet<MessageId>,
    /// The latest id forgotten for lack of space.
    crowded: Option<MessageId>,
    /// The floor before it rose for lack of space: it is [`MAX_REORDERING`] old.
    quiet_floor: Option<MessageId>,
    /// Arrived when it was unknown whether they were sent here; and whether a read that began since then
    /// looks for them.
    held: BTreeMap<MessageId, bool>,
    /// The first message that this connection may have missed beyond recovery.
    lost: Option<MessageId>,
    /// When the ids can be forgotten.
    quiet_at: Option<Instant>,
}

impl DeliveredHistory {
    /// The connection may have missed this, and will not be sent it.
    fn lose(&mut self, id: MessageId) {
        self.lost = Some(self.lost.map_or(id, |lost| lost.min(id)));
    }
}

/// The position of one connection.
#[derive(Debug)]
pub(super) struct FeedPosition {
    /// Messages acknowledged before it opened are ignored; from this id on they may matter.
    opened: MessageId,
    /// The latest sent id.
    cursor: MessageId,
    /// From here on a message was passed over.
    back_to: Option<MessageId>,
    /// Acknowledged messages are not read at this id and below: it is unknown whether they were sent.
    floor: MessageId,
    past: Option<Box<DeliveredHistory>>,
}

impl FeedPosition {
    pub(super) fn new(opened: MessageId) -> FeedPosition {
        let nothing = MessageId(uuid::Uuid::nil());
        FeedPosition { opened, cursor: nothing, back_to: None, floor: nothing, past: None }
    }

    /// Whether a passed-over message was not read yet.
    pub(super) fn is_behind(&self) -> bool {
        self.back_to.is_some()
    }

    /// From which id on a read must look, also at acknowledged messages: not only behind the cursor, because
    /// a late message may have been acknowledged elsewhere before its announcement, and what follows it in
    /// its conversation must not be sent first.
    pub(super) fn begin_read(&mut self) -> MessageId {
        if let Some(past) = &mut self.past {
            past.held.values_mut().for_each(|asked| *asked = true);
        }
        let next = self.cursor.next().min(self.late_of(self.cursor));
        self.back_to.take().map_or(next, |back_to| back_to.min(next)).max(self.floor.next())
    }

    /// A read was incomplete: the next one continues behind `last`.
    pub(super) fn read_in_part(&mut self, from: MessageId, last: Option<MessageId>) {
        let next = last.map_or(from, |last| last.next().max(from));
        self.back_to = Some(self.back_to.map_or(next, |back_to| back_to.min(next)));
    }

    /// Unknown whether this was sent here, and not acknowledged yet: a read will tell.
    pub(super) fn hold(&mut self, id: MessageId) {
        let past = self.past.get_or_insert_default();
        if past.held.len() < MAX_UNRESOLVED {
            past.held.insert(id, false);
        } else {
            past.lose(id);
        }
    }

    /// A read returned these, all or some. A held message that is not among all of them was acknowledged
    /// elsewhere meanwhile: whether it was sent here is unknown.
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

    /// Everything was read.
    pub(super) fn read_all(&mut self) {
        self.cursor = self.cursor.max(self.opened);
    }

    /// Sent here, or by the client itself.
    pub(super) fn has_had(&self, id: MessageId) -> bool {
        self.past.as_ref().is_some_and(|past| past.sent.contains(&id))
    }

    /// Unknown whether this was sent here.
    pub(super) fn is_forgotten(&self, id: MessageId) -> bool {
        id <= self.floor
    }

    /// The same, for an acknowledged message that may matter to this connection.
    pub(super) fn is_unknown(&self, id: MessageId) -> bool {
        id >= self.opened && self.is_forgotten(id)
    }

    /// The known sent ids from an id on.
    pub(super) fn sent_since(&self, from: MessageId) -> Vec<MessageId> {
        self.past.iter().flat_map(|past| past.sent.range(from..)).copied().collect()
    }

    pub(super) fn head(&self, conversation: ConversationId) -> Option<i64> {
        self.past.as_ref()?.heads.get(&conversation).copied()
    }

    /// Records a sent message.
    pub(super) fn sent(
        &mut self,
        id: MessageId,
        position: Option<ConversationPosition>,
        now: Instant,
    ) {
        self.cursor = self.cursor.max(id);
        self.remember(id);
        let past = self.past.get_or_insert_default();
        past.quiet_at = Some(now + MAX_REORDERING);
        let Some(ConversationPosition { conversation, seq }) = position else { return };
        if past.heads.len() >= MAX_HEADS && !past.heads.contains_key(&conversation) {
            past.heads = HashMap::new();
        }
        let head = past.heads.entry(conversation).or_insert(seq);
        *head = seq.max(*head);
    }

    /// Records that a message must not be sent again.
    pub(super) fn remember(&mut self, id: MessageId) {
        let past = self.past.get_or_insert_default();
        past.held.remove(&id);
        past.sent.insert(id);
        if past.sent.len() > MAX_REMEMBERED_IDS
            && let Some(forgotten) = past.sent.pop_first()
            && forgotten > self.floor
        {
            past.quiet_floor.get_or_insert(self.floor);
            self.floor = forgotten;
            past.crowded = Some(forgotten);
        }
    }

    /// These, at least the latest ones, were acknowledged before the connection opened.
    pub(super) fn acknowledged_before(&mut self, mut latest: Vec<MessageId>, now: Instant) {
        latest.sort_unstable();
        if latest.len() >= MAX_REMEMBERED_IDS
            && let Some(first) = latest.first()
        {
            self.past.get_or_insert_default().quiet_floor.get_or_insert(self.floor);
            self.floor = self.floor.max(*first);
        }
        latest.iter().for_each(|id| self.remember(*id));
        if let Some(past) = &mut self.past {
            past.quiet_at.get_or_insert(now + MAX_REORDERING);
        }
    }

    /// The party sent this message itself: the conversation continues behind it.
    pub(super) fn on_own_message(&mut self, position: ConversationPosition) {
        let heads = self.past.as_mut().map(|past| &mut past.heads);
        if let Some(head) = heads.and_then(|heads| heads.get_mut(&position.conversation))
            && position.seq == *head + 1
        {
            *head = position.seq;
        }
    }

    /// A message was passed over: the next read looks from it on.
    pub(super) fn passed_over(&mut self, id: MessageId) {
        if id <= self.floor {
            self.past.get_or_insert_default().lose(id);
        }
        self.go_back(id);
    }

    /// A message from there on may not have been sent. Messages acknowledged before the connection opened are
    /// ignored, and pending ones are read wherever they are.
    pub(super) fn go_back(&mut self, id: MessageId) {
        let id = id.max(self.opened);
        self.back_to = Some(self.back_to.map_or(id, |back_to| back_to.min(id)));
    }

    /// An unknown message may not have been sent: one that became known late.
    pub(super) fn go_back_to_the_late(&mut self) {
        let from = self.late_of(self.cursor);
        if let Some(past) = &mut self.past
            && past.crowded.is_some_and(|crowded| from <= crowded)
        {
            past.lose(from);
        }
        self.go_back(from);
    }

    /// Predecessors of this message in its conversation may not have been sent.
    pub(super) fn go_back_before(&mut self, id: MessageId) {
        self.go_back(self.late_of(id.min(self.cursor)).min(id));
    }

    fn late_of(&self, id: MessageId) -> MessageId {
        id.earlier(MAX_REORDERING).max(self.opened)
    }

    /// Another connection acknowledged a message that was not sent here. Returns whether a read may bring it.
    pub(super) fn is_owed(&mut self, id: MessageId) -> bool {
        if id > self.cursor {
            return true;
        }
        let held = self.past.as_mut().is_some_and(|past| past.held.remove(&id).is_some());
        // What was sent down there was acknowledged here, or its attempt was missed: this one became known
        // late.
        let quiet_floor =
            self.past.as_ref().and_then(|past| past.quiet_floor).unwrap_or(self.floor);
        if held || id >= self.opened && id <= quiet_floor {
            self.past.get_or_insert_default().lose(id);
        }
        let owed = id > self.floor && id >= self.opened && !self.has_had(id);
        if owed {
            self.go_back(id);
        }
        owed
    }

    /// From which id on the connection may have missed messages beyond recovery.
    pub(super) fn take_lost(&mut self) -> Option<MessageId> {
        self.past.as_mut()?.lost.take()
    }

    /// When the ids can be forgotten.
    pub(super) fn quiet_at(&self) -> Option<Instant> {
        self.past.as_ref()?.quiet_at
    }

    /// Forgets sent ids after a while; not while `behind`, when a read may need them.
    pub(super) fn on_tick(&mut self, behind: bool, now: Instant) {
        let Some(past) =
            self.past.as_mut().filter(|past| past.quiet_at.is_some_and(|at| now >= at))
        else {
            return;
        };
        if behind {
            past.quiet_at = Some(now + MAX_REORDERING);
            return;
        }
        // Messages acknowledged before the connection opened count like sent ones, and may be later.
        let latest = past.sent.last().copied().unwrap_or(self.cursor);
        self.floor = self.floor.max(self.cursor).max(latest);
        (past.quiet_at, past.crowded, past.quiet_floor, past.sent) =
            (None, None, None, BTreeSet::new());
        if past.heads.is_empty() && past.held.is_empty() && past.lost.is_none() {
            self.past = None;
        }
    }
}
