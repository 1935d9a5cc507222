//! The history checker: compares what senders were told with what receivers saw.
//!
//! Fault tests and `esh3ar bench` record events in any order and ask for the report. The checker knows nothing
//! of how messages travel: two logs go in, the violated guarantees come out.

mod connections;
mod report;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};

use connections::Connections;
pub use report::{Report, Violation};

use crate::domain::MessageId;

/// A number in the content of each message, which identifies it even if its sender never learned its id.
pub type Tag = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    Accepted(MessageId),
    /// Must never arrive.
    Refused,
    /// No answer: may arrive or not.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
pub struct SentMessage {
    pub tag: Tag,
    pub sender: u32,
    pub recipient: u32,
    pub lane: u8,
    /// When the request started, on a clock that all sends share.
    pub began: u64,
    /// When the answer came, on the same clock.
    pub ended: u64,
    pub outcome: SendOutcome,
    /// Conversation and `seq`, for accepted chat.
    pub place: Option<(u64, i64)>,
}

#[derive(Clone, Copy, Debug)]
pub struct ReceivedMessage {
    /// Messages of a connection are recorded in the order of arrival.
    pub connection: u32,
    pub recipient: u32,
    pub tag: Tag,
    pub id: MessageId,
    /// Conversation and `seq`, for chat.
    pub place: Option<(u64, i64)>,
    /// Whether the client showed it. A client that drops known ids shows each once.
    pub shown: bool,
    /// Whether it had arrived before. Retries are out of order by design.
    pub retry: bool,
}

/// What an observer saw of a message. Ordered by progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StatusSnapshot {
    pub generation: i32,
    /// Pending 0, sent 1, delivered 2, read 3. Failed is 2: delivered and failed do not follow each other.
    pub rank: u8,
    /// Within the generation.
    pub retries: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerTotals {
    pub accepted: u64,
    /// Delivered, read, pending, sent, failed and erased together.
    pub accounted: u64,
}

#[derive(Clone, Debug, Default)]
pub struct History {
    sends: Vec<SentMessage>,
    receipts: Vec<ReceivedMessage>,
    status: Vec<(u32, MessageId, StatusSnapshot)>,
    unread: Vec<(u64, i64, i64)>,
    sums: Option<LedgerTotals>,
    incomplete: HashSet<u32>,
    connections: Connections,
}

impl History {
    pub fn new() -> History {
        History::default()
    }

    pub fn sent(&mut self, send: SentMessage) {
        self.sends.push(send);
    }

    /// Must be called in the order of arrival of each connection.
    pub fn received(&mut self, receipt: ReceivedMessage) {
        self.receipts.push(receipt);
    }

    /// Must be called in order for each observer.
    pub fn observed(&mut self, observer: u32, id: MessageId, seen: StatusSnapshot) {
        self.status.push((observer, id, seen));
    }

    /// An unread count as the API shows it, and as the messages give it at the same time.
    pub fn unread(&mut self, conversation: u64, shown: i64, counted: i64) {
        self.unread.push((conversation, shown, counted));
    }

    /// The totals of the ledger, when nothing is in flight.
    pub fn sums(&mut self, sums: LedgerTotals) {
        self.sums = Some(sums);
    }

    /// This recipient left before the end: its missing messages do not count as lost.
    pub fn left_early(&mut self, recipient: u32) {
        self.incomplete.insert(recipient);
    }

    /// A connection is open since `at`. It has to get everything that is sent from then on, whatever the
    /// recipient's other connections do.
    pub fn opened(&mut self, connection: u32, recipient: u32, at: u64) {
        self.connections.opened(connection, recipient, at);
    }

    /// A connection has closed. Messages that it did not get are excused, unless it got later ones.
    pub fn closed(&mut self, connection: u32) {
        self.connections.closed(connection);
    }

    /// A connection was told, at `at`, that it missed messages since `since`.
    pub fn reported_missed(&mut self, connection: u32, since: u64, at: u64) {
        self.connections.reported_missed(connection, since, at);
    }

    pub fn accepted(&self) -> usize {
        self.sends.iter().filter(|send| matches!(send.outcome, SendOutcome::Accepted(_))).count()
    }

    pub fn check(&self) -> Report {
        let mut report = Report::default();
        let sends: HashMap<Tag, &SentMessage> =
            self.sends.iter().map(|send| (send.tag, send)).collect();
        let good = self.check_receipts(&sends, &mut report);
        self.check_order(&sends, &good, &mut report);
        self.connections.check(&sends, &good, &mut report);
        self.check_status(&mut report);
        for (conversation, shown, counted) in &self.unread {
            if shown != counted {
                report.record(Violation::WrongUnread {
                    conversation: *conversation,
                    shown: *shown,
                    counted: *counted,
                });
            }
        }
        if let Some(sums) = self.sums.filter(|sums| sums.accepted != sums.accounted) {
            report.record(Violation::Unbalanced(sums));
        }
        report
    }

    /// Returns the received messages that match a send; only for these is the order checked.
    fn check_receipts<'a>(
        &'a self,
        sends: &HashMap<Tag, &SentMessage>,
        report: &mut Report,
    ) -> Vec<&'a ReceivedMessage> {
        let mut good = Vec::with_capacity(self.receipts.len());
        let mut ids: HashMap<Tag, MessageId> = HashMap::new();
        let mut shown: HashSet<(u32, MessageId)> = HashSet::new();
        for receipt in &self.receipts {
            let ReceivedMessage { tag, id, recipient, .. } = *receipt;
            let Some(send) = sends.get(&tag) else {
                report.record(Violation::Ghost { tag, id });
                continue;
            };
            let known = match send.outcome {
                SendOutcome::Refused => {
                    report.record(Violation::Ghost { tag, id });
                    continue;
                }
                SendOutcome::Accepted(outcome) => outcome,
                SendOutcome::Unknown => *ids.entry(tag).or_insert(id),
            };
            if known != id {
                // One send became two messages: a commit with unknown outcome was repeated under a new id.
                report.record(Violation::Twice { tag, id });
            } else if send.recipient != recipient {
                report.record(Violation::Misdelivered { tag, id, to: recipient });
            } else {
                if receipt.shown && !shown.insert((recipient, id)) {
                    report.record(Violation::ShownTwice { tag, id });
                }
                good.push(receipt);
            }
        }
        for send in &self.sends {
            if let SendOutcome::Accepted(id) = send.outcome
                && !self.incomplete.contains(&send.recipient)
                && !shown.contains(&(send.recipient, id))
            {
                report.record(Violation::Lost { tag: send.tag, id });
            }
        }
        good
    }

    /// The order of two sends is known if one was accepted before the other started. A send without an answer
    /// may have been accepted at any later time.
    fn check_order(
        &self,
        sends: &HashMap<Tag, &SentMessage>,
        good: &[&ReceivedMessage],
        report: &mut Report,
    ) {
        // The latest start of the sends that have arrived, by connection, sender and lane.
        let mut latest: HashMap<(u32, u32, u8), (u64, Tag)> = HashMap::new();
        let mut places = ConversationOrder::of(sends.values().copied());
        let mut arrived: HashSet<(u32, MessageId)> = HashSet::new();
        let mut out_of_order = |receipt: &ReceivedMessage, overtaken_by: Tag| {
            let outcome = sends.get(&receipt.tag).map_or(SendOutcome::Unknown, |send| send.outcome);
            let ReceivedMessage { tag, id, .. } = *receipt;
            report.record(Violation::OutOfOrder { tag, id, overtaken_by, outcome });
        };
        for receipt in good {
            if receipt.retry || !arrived.insert((receipt.connection, receipt.id)) {
                continue;
            }
            if let Some(place) = receipt.place {
                if let Some(before) = places.arrived(receipt, place) {
                    out_of_order(receipt, before);
                }
                continue;
            }
            let Some(send) = sends.get(&receipt.tag) else { continue };
            let latest = latest.entry((receipt.connection, send.sender, send.lane)).or_default();
            let known = matches!(send.outcome, SendOutcome::Accepted(_));
            if known && latest.0 > send.ended {
                out_of_order(receipt, latest.1);
            }
            *latest = (*latest).max((send.began, send.tag));
        }
    }

    fn check_status(&self, report: &mut Report) {
        let mut last: HashMap<(u32, MessageId), StatusSnapshot> = HashMap::new();
        for (observer, id, seen) in &self.status {
            let before = last.insert((*observer, *id), *seen);
            let back = before.is_some_and(|before| {
                seen.generation < before.generation
                    || seen.generation == before.generation
                        && (seen.rank < before.rank || seen.retries < before.retries)
            });
            if back {
                report.record(Violation::WentBack { id: *id, seen: *seen });
            }
        }
    }
}

/// Messages of conversations by `seq`. The `seq`s that one side receives have gaps where it wrote itself, so a
/// gap is a message *to* a side that has not arrived there before a later one.
#[derive(Default)]
struct ConversationOrder {
    /// Messages for each recipient in each conversation.
    expected: HashMap<(u32, u64), BTreeMap<i64, Tag>>,
    /// What has arrived on any connection of the recipient.
    shown: HashMap<(u32, u64), HashSet<i64>>,
    /// Up to which `seq` gaps were checked.
    looked: HashMap<(u32, u64), i64>,
    /// The last message of a connection.
    last: HashMap<(u32, u64), (i64, Tag)>,
}

impl ConversationOrder {
    fn of<'a>(sends: impl Iterator<Item = &'a SentMessage>) -> ConversationOrder {
        let mut places = ConversationOrder::default();
        for send in sends {
            if let (SendOutcome::Accepted(_), Some((conversation, seq))) =
                (send.outcome, send.place)
            {
                let to = (send.recipient, conversation);
                places.expected.entry(to).or_default().insert(seq, send.tag);
            }
        }
        places
    }

    /// Records a message that arrived for the first time. Returns the one that it must not precede or follow,
    /// if there is one.
    fn arrived(
        &mut self,
        receipt: &ReceivedMessage,
        (conversation, seq): (u64, i64),
    ) -> Option<Tag> {
        let to = (receipt.recipient, conversation);
        let shown = self.shown.entry(to).or_default();
        shown.insert(seq);
        let looked = self.looked.entry(to).or_insert(i64::MIN);
        let missing = self.expected.get(&to).and_then(|expected| {
            let mut between = expected.range(*looked..seq.max(*looked));
            between.find(|(seq, _)| !shown.contains(seq)).map(|(_, tag)| *tag)
        });
        *looked = (*looked).max(seq);
        let last = self.last.insert((receipt.connection, conversation), (seq, receipt.tag));
        missing.or(last.filter(|(last, _)| *last >= seq).map(|(_, tag)| tag))
    }
}
