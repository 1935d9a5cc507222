//! Checks each connection by itself: it gets everything that is sent while it is open, whatever the recipient's
//! other connections acknowledge.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{ReceivedMessage, Report, SendOutcome, SentMessage, Tag, Violation};

#[derive(Clone, Debug)]
struct Connection {
    recipient: u32,
    opened: u64,
    closed: bool,
    /// Since when messages were missed, and when the connection was told.
    missed: Vec<(u64, u64)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Connections {
    all: BTreeMap<u32, Connection>,
}

#[derive(Default)]
struct ConnectionLog {
    tags: HashSet<Tag>,
    /// The last `seq` of each conversation.
    seqs: HashMap<u64, i64>,
    /// The latest start of a send, by sender and lane.
    began: HashMap<(u32, u8), u64>,
}

impl ConnectionLog {
    /// Whether a message arrived that this one has to precede.
    fn is_past(&self, send: &SentMessage) -> bool {
        match send.place {
            Some((conversation, seq)) => {
                self.seqs.get(&conversation).is_some_and(|last| *last > seq)
            }
            None => {
                self.began.get(&(send.sender, send.lane)).is_some_and(|began| *began > send.ended)
            }
        }
    }
}

impl Connections {
    pub(super) fn opened(&mut self, connection: u32, recipient: u32, at: u64) {
        let new = Connection { recipient, opened: at, closed: false, missed: Vec::new() };
        self.all.insert(connection, new);
    }

    pub(super) fn closed(&mut self, connection: u32) {
        if let Some(connection) = self.all.get_mut(&connection) {
            connection.closed = true;
        }
    }

    pub(super) fn reported_missed(&mut self, connection: u32, since: u64, at: u64) {
        if let Some(connection) = self.all.get_mut(&connection) {
            connection.missed.push((since, at));
        }
    }

    pub(super) fn check(
        &self,
        sends: &HashMap<Tag, &SentMessage>,
        good: &[&ReceivedMessage],
        report: &mut Report,
    ) {
        let mut got: HashMap<u32, ConnectionLog> = HashMap::new();
        for receipt in good.iter().filter(|receipt| self.all.contains_key(&receipt.connection)) {
            let ReceivedMessage { connection, tag, id, .. } = **receipt;
            let got = got.entry(connection).or_default();
            if !got.tags.insert(tag) {
                if !receipt.retry {
                    report.record(Violation::Repeated { tag, id, connection });
                }
                continue;
            }
            if let Some((conversation, seq)) = receipt.place {
                let last = got.seqs.entry(conversation).or_insert(seq);
                *last = seq.max(*last);
            } else if let Some(send) = sends.get(&tag) {
                let latest = got.began.entry((send.sender, send.lane)).or_default();
                *latest = send.began.max(*latest);
            }
        }
        let nothing = ConnectionLog::default();
        let mut all: Vec<&&SentMessage> = sends.values().collect();
        all.sort_by_key(|send| send.tag);
        for (name, connection) in &self.all {
            let got = got.get(name).unwrap_or(&nothing);
            let of = |send: &&&&SentMessage| {
                send.recipient == connection.recipient && send.began >= connection.opened
            };
            for send in all.iter().filter(of) {
                let SendOutcome::Accepted(id) = send.outcome else { continue };
                let due = !connection.closed || got.is_past(send);
                if due && !got.tags.contains(&send.tag) && !connection.excuses(send) {
                    report.record(Violation::Skipped { tag: send.tag, id, connection: *name });
                }
            }
        }
    }
}

impl Connection {
    /// Whether the connection was told that it may have missed this message.
    fn excuses(&self, send: &SentMessage) -> bool {
        self.missed.iter().any(|(since, at)| send.ended >= *since && send.began <= *at)
    }
}
