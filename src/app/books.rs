//! Whether the books balance: every accepted message delivered, read, pending, sent, failed or
//! erased.

use std::time::Duration;

use time::OffsetDateTime;

use super::{App, Error};
use crate::store::{
    StatementGroup,
    reconciliation::{self, DayTotals, Discrepancy},
};

/// How long after its time a message may wait to be looked at: the sweeper comes every second, and a
/// restart takes some.
const OVERDUE: Duration = Duration::from_secs(60);
/// How many single messages of each kind are listed.
const LISTED: i64 = 1000;

/// The books since a day.
#[derive(Debug)]
pub struct Audit {
    /// By business and day, newest first.
    pub days: Vec<DayTotals>,
    /// Single messages that do not add up.
    pub discrepancies: Vec<Discrepancy>,
}

impl Audit {
    /// How many messages nobody accounts for: missing ones, surplus ones and those that do not add
    /// up in themselves.
    pub fn unaccounted(&self) -> u64 {
        let off: u64 = self.days.iter().map(|day| day.missing().unsigned_abs()).sum();
        off + self.discrepancies.len() as u64
    }
}

impl App {
    /// Audits the delivery of messages accepted on the days since a time.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn audit_delivery(&self, since: OffsetDateTime) -> Result<Audit, Error> {
        let mut client = self.store().client_for(StatementGroup::Upkeep).await?;
        let days =
            reconciliation::days(&mut client, since.to_offset(time::UtcOffset::UTC).date()).await?;
        let overdue = self.clock().now() - OVERDUE;
        let discrepancies = reconciliation::discrepancies(&client, overdue, LISTED).await?;
        Ok(Audit { days, discrepancies })
    }

    /// Repairs what can be repaired without asking. Returns how much.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn repair_books(&self) -> Result<u64, Error> {
        let client = self.store().client_for(StatementGroup::Upkeep).await?;
        Ok(reconciliation::repair(&client, self.clock().now(), LISTED).await?)
    }
}
