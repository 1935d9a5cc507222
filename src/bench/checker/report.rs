//! What a history was found guilty of.

use std::fmt;

use super::{LedgerTotals, SendOutcome, StatusSnapshot, Tag};
use crate::domain::MessageId;

/// One broken promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Accepted, and never shown to its recipient (I1).
    Lost {
        /// The send.
        tag: Tag,
        /// The message.
        id: MessageId,
    },
    /// Arrived, although nobody sent it or it was refused (I6).
    Ghost {
        /// What it was marked with.
        tag: Tag,
        /// The message.
        id: MessageId,
    },
    /// One send became two messages (I7).
    Twice {
        /// The send.
        tag: Tag,
        /// The second message.
        id: MessageId,
    },
    /// Shown twice to its recipient (I2).
    ShownTwice {
        /// The send.
        tag: Tag,
        /// The message.
        id: MessageId,
    },
    /// Arrived at somebody else's connection (I9).
    Misdelivered {
        /// The send.
        tag: Tag,
        /// The message.
        id: MessageId,
        /// Whose connection it was.
        to: u32,
    },
    /// Never came on a connection that was open when it was sent, and that was not told that it missed
    /// something (delivery.md, How 6).
    Skipped {
        /// The send.
        tag: Tag,
        /// The message.
        id: MessageId,
        /// The connection.
        connection: u32,
    },
    /// Came twice on one connection, although nothing was tried again.
    Repeated {
        /// The send.
        tag: Tag,
        /// The message.
        id: MessageId,
        /// The connection.
        connection: u32,
    },
    /// Came after what it should have preceded (I3).
    OutOfOrder {
        /// The send.
        tag: Tag,
        /// The message.
        id: MessageId,
        /// The send that overtook it.
        overtaken_by: Tag,
        /// What its sender was told.
        told: SendOutcome,
    },
    /// Its status or retry count went back inside a generation, or the generation did (I4).
    WentBack {
        /// The message.
        id: MessageId,
        /// What was seen then.
        seen: StatusSnapshot,
    },
    /// An unread count that did not count what was unread (I5).
    WrongUnread {
        /// The conversation.
        conversation: u64,
        /// The count as shown.
        shown: i64,
        /// The count as counted.
        counted: i64,
    },
    /// The ledger does not balance (I11).
    Unbalanced(LedgerTotals),
}

impl Violation {
    /// The name in reports.
    pub const fn name(&self) -> &'static str {
        match self {
            Violation::Lost { .. } => "lost",
            Violation::Ghost { .. } => "ghost",
            Violation::Twice { .. } => "twice",
            Violation::ShownTwice { .. } => "shown_twice",
            Violation::Misdelivered { .. } => "misdelivered",
            Violation::Skipped { .. } => "skipped",
            Violation::Repeated { .. } => "repeated",
            Violation::OutOfOrder { .. } => "out_of_order",
            Violation::WentBack { .. } => "went_back",
            Violation::WrongUnread { .. } => "wrong_unread",
            Violation::Unbalanced(_) => "unbalanced",
        }
    }
}

/// The names of all faults, in the order in which reports count them.
pub const NAMES: [&str; 11] = [
    "lost",
    "ghost",
    "twice",
    "shown_twice",
    "misdelivered",
    "skipped",
    "repeated",
    "out_of_order",
    "went_back",
    "wrong_unread",
    "unbalanced",
];

/// How many of each are kept in full.
const MAX_EXAMPLES: usize = 20;

/// Every broken promise, counted; the first of each in full.
#[derive(Clone, Debug, Default)]
pub struct Report {
    counts: [u64; NAMES.len()],
    violations: Vec<Violation>,
}

impl Report {
    pub(super) fn record(&mut self, violation: Violation) {
        if let Some(count) = self.count_of(violation.name()) {
            *count += 1;
            if *count <= MAX_EXAMPLES as u64 {
                self.violations.push(violation);
            }
        }
    }

    fn count_of(&mut self, name: &str) -> Option<&mut u64> {
        NAMES.iter().position(|known| *known == name).and_then(|at| self.counts.get_mut(at))
    }

    /// Whether every promise was kept.
    pub fn is_clean(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }

    /// How often each promise was broken, by name.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NAMES.into_iter().zip(self.counts)
    }

    /// The first of each kind.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return f.write_str("every promise was kept");
        }
        for (name, count) in self.counts().filter(|(_, count)| *count > 0) {
            writeln!(f, "{count} {name}")?;
        }
        for violation in &self.violations {
            writeln!(f, "  {violation:?}")?;
        }
        Ok(())
    }
}
