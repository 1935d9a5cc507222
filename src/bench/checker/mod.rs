//! The history checker: holds what senders were told against what receivers saw.
//!
//! Fault tests and `esh3ar bench` write down what happened, in any order, and ask for the report. It
//! knows nothing of how messages travel: two logs go in, the broken promises of delivery.md come out.

mod connections;
mod report;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};

use connections::Connections;
pub use report::{Report, Violation};

use crate::domain::MessageId;

/// A number that the load puts into each message, so that one is known again even when its sender
/// never learned its id.
pub type Tag = u64;

/// What a sender was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// It was accepted under this id.
    Accepted(MessageId),
    /// It was refused: nothing of it may ever arrive.
    Refused,
    /// No answer came: it may arrive or not.
    Unknown,
}

/// One send.
#[derive(Clone, Copy, Debug)]
pub struct SentMessage {
    /// Its mark.
    pub tag: Tag,
    /// Who sent it.
    pub sender: u32,
    /// To whom.
    pub recipient: u32,
    /// With which priority.
    pub lane: u8,
    /// When the request began, on any clock that all sends share.
    pub began: u64,
    /// When the answer came, on the same clock.
    pub ended: u64,
    /// What it was.
    pub told: SendOutcome,
    /// In which conversation and place, for chat that was accepted.
    pub place: Option<(u64, i64)>,
}

/// One message in one frame on one connection.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedMessage {
    /// Which connection; its receipts are given in the order of arrival.
    pub connection: u32,
    /// Whose connection it is.
    pub recipient: u32,
    /// The message's mark.
    pub tag: Tag,
    /// Its id.
    pub id: MessageId,
    /// In which conversation and place, for chat.
    pub place: Option<(u64, i64)>,
    /// Whether the client showed it; one that drops ids it has seen shows each once.
    pub shown: bool,
    /// Whether it had come before: what comes again is out of order by design.
    pub retry: bool,
}

/// What an observer saw of a message's way. The order is that of progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StatusSnapshot {
    /// The message's generation.
    pub generation: i32,
    /// Pending 0, sent 1, delivered 2, read 3; failed counts as 2, for neither follows the other.
    pub rank: u8,
    /// Retries inside the generation.
    pub retries: u16,
}

/// The sums of the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerTotals {
    /// Accepted.
    pub accepted: u64,
    /// Delivered, read, pending, sent, failed and erased together.
    pub accounted: u64,
}

/// Everything that was written down.
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
    /// Nothing yet.
    pub fn new() -> History {
        History::default()
    }

    /// A send and its answer.
    pub fn sent(&mut self, send: SentMessage) {
        self.sends.push(send);
    }

    /// A message that arrived. For each connection in the order of arrival.
    pub fn received(&mut self, receipt: ReceivedMessage) {
        self.receipts.push(receipt);
    }

    /// What an observer saw of a message, for each observer in order.
    pub fn observed(&mut self, observer: u32, id: MessageId, seen: StatusSnapshot) {
        self.status.push((observer, id, seen));
    }

    /// An unread count as it was shown, and as it was counted in the same moment.
    pub fn unread(&mut self, conversation: u64, shown: i64, counted: i64) {
        self.unread.push((conversation, shown, counted));
    }

    /// The ledger at rest.
    pub fn sums(&mut self, sums: LedgerTotals) {
        self.sums = Some(sums);
    }

    /// This recipient did not stay to the end: what is missing there is not lost.
    pub fn left_early(&mut self, recipient: u32) {
        self.incomplete.insert(recipient);
    }

    /// A connection of a recipient's is open, at this time of the clock of the sends: it is to get all that is
    /// sent from now on, whatever the recipient's other connections do.
    pub fn opened(&mut self, connection: u32, recipient: u32, at: u64) {
        self.connections.opened(connection, recipient, at);
    }

    /// A connection has ended: what it did not get is excused, but not what came before something that it got.
    pub fn closed(&mut self, connection: u32) {
        self.connections.closed(connection);
    }

    /// A connection was told that it missed something from the first time on, at the second.
    pub fn reported_missed(&mut self, connection: u32, since: u64, at: u64) {
        self.connections.reported_missed(connection, since, at);
    }

    /// How many sends were accepted.
    pub fn accepted(&self) -> usize {
        self.sends.iter().filter(|send| matches!(send.told, SendOutcome::Accepted(_))).count()
    }

    /// Every broken promise.
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

    /// Gives the receipts that are what was sent: only of those the order means anything.
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
            let known = match send.told {
                SendOutcome::Refused => {
                    report.record(Violation::Ghost { tag, id });
                    continue;
                }
                SendOutcome::Accepted(told) => told,
                SendOutcome::Unknown => *ids.entry(tag).or_insert(id),
            };
            if known != id {
                // One send, two messages: a commit of unknown outcome was repeated as a new one.
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
            if let SendOutcome::Accepted(id) = send.told
                && !self.incomplete.contains(&send.recipient)
                && !shown.contains(&(send.recipient, id))
            {
                report.record(Violation::Lost { tag: send.tag, id });
            }
        }
        good
    }

    /// Two sends whose order is known are those of which one was accepted before the other began. What got
    /// no answer may have been accepted at any later time.
    fn check_order(
        &self,
        sends: &HashMap<Tag, &SentMessage>,
        good: &[&ReceivedMessage],
        report: &mut Report,
    ) {
        // The latest beginning among what has arrived, by connection, sender and lane.
        let mut latest: HashMap<(u32, u32, u8), (u64, Tag)> = HashMap::new();
        let mut places = ConversationOrder::of(sends.values().copied());
        let mut arrived: HashSet<(u32, MessageId)> = HashSet::new();
        let mut out_of_order = |receipt: &ReceivedMessage, overtaken_by: Tag| {
            let told = sends.get(&receipt.tag).map_or(SendOutcome::Unknown, |send| send.told);
            let ReceivedMessage { tag, id, .. } = *receipt;
            report.record(Violation::OutOfOrder { tag, id, overtaken_by, told });
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
            let known = matches!(send.told, SendOutcome::Accepted(_));
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

/// The messages of conversations by their places, as they arrive. What one side says has gaps where the
/// other side speaks, so a gap is a message *to* somebody that has not come to that one before a later one.
#[derive(Default)]
struct ConversationOrder {
    /// What each is to get in each conversation.
    expected: HashMap<(u32, u64), BTreeMap<i64, Tag>>,
    /// What each has got on any of its connections.
    shown: HashMap<(u32, u64), HashSet<i64>>,
    /// Up to where a gap has been looked for.
    looked: HashMap<(u32, u64), i64>,
    /// The last that came on a connection.
    last: HashMap<(u32, u64), (i64, Tag)>,
}

impl ConversationOrder {
    fn of<'a>(sends: impl Iterator<Item = &'a SentMessage>) -> ConversationOrder {
        let mut places = ConversationOrder::default();
        for send in sends {
            if let (SendOutcome::Accepted(_), Some((conversation, seq))) = (send.told, send.place) {
                let to = (send.recipient, conversation);
                places.expected.entry(to).or_default().insert(seq, send.tag);
            }
        }
        places
    }

    /// Notes a message that came for the first time. Gives the one that it should not have come before or
    /// after, if there is one.
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
