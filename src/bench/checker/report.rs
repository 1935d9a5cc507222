//! The violations that were found.

use std::fmt;

use super::{LedgerTotals, SendOutcome, StatusSnapshot, Tag};
use crate::domain::MessageId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Accepted, but never shown to its recipient (I1).
    Lost { tag: Tag, id: MessageId },
    /// Arrived, although it was never sent, or refused (I6).
    Ghost { tag: Tag, id: MessageId },
    /// One send became two messages (I7).
    Twice { tag: Tag, id: MessageId },
    /// Shown twice to its recipient (I2).
    ShownTwice { tag: Tag, id: MessageId },
    /// Arrived on a connection of someone else (I9).
    Misdelivered {
        tag: Tag,
        id: MessageId,
        /// The owner of the connection.
        to: u32,
    },
    /// Never arrived on a connection that was open when it was sent and was not told that it missed messages.
    Skipped { tag: Tag, id: MessageId, connection: u32 },
    /// Arrived twice on one connection without a retry.
    Repeated { tag: Tag, id: MessageId, connection: u32 },
    /// Arrived after a message that it has to precede (I3).
    OutOfOrder {
        tag: Tag,
        id: MessageId,
        /// The send that overtook it.
        overtaken_by: Tag,
        outcome: SendOutcome,
    },
    /// Its status or retry count went back inside a generation, or the generation did (I4).
    WentBack { id: MessageId, seen: StatusSnapshot },
    /// An unread count differs from the unread messages (I5).
    WrongUnread { conversation: u64, shown: i64, counted: i64 },
    /// The ledger does not balance (I11).
    Unbalanced(LedgerTotals),
}

impl Violation {
    /// Used in reports.
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

/// In the order of reports.
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

/// Examples of each violation.
const MAX_EXAMPLES: usize = 20;

/// Violations by name, with the first examples of each.
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

    pub fn is_clean(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }

    /// How often each guarantee was violated.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NAMES.into_iter().zip(self.counts)
    }

    /// The first examples of each violation.
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
