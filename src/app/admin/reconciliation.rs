//! Whether every accepted message is accounted for: delivered, read, pending, sent, failed or erased.

use std::time::Duration;

use time::OffsetDateTime;

use super::AdminService;
use crate::app::Error;
use crate::store::{
    StatementGroup,
    reconciliation::{self, DayTotals, Discrepancy},
};

/// How long after its time a message may wait to be looked at: the sweeper comes every second, and a
/// restart takes some.
const OVERDUE_AFTER: Duration = Duration::from_secs(60);
/// How many single messages of each kind are listed.
const MAX_LISTED: i64 = 1000;

/// What was accepted since a day, and what became of it.
#[derive(Debug)]
pub struct Reconciliation {
    /// By business and day, newest first.
    pub days: Vec<DayTotals>,
    /// Single messages that do not add up.
    pub discrepancies: Vec<Discrepancy>,
}

impl Reconciliation {
    /// How many messages nobody accounts for: missing ones, surplus ones and those that do not add
    /// up in themselves.
    pub fn unaccounted(&self) -> u64 {
        let off: u64 = self.days.iter().map(|day| day.missing().unsigned_abs()).sum();
        off + self.discrepancies.len() as u64
    }
}

impl AdminService {
    /// Reconciles the messages accepted on the days since a time.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn reconcile(&self, since: OffsetDateTime) -> Result<Reconciliation, Error> {
        let mut client = self.core.store().client_for(StatementGroup::Upkeep).await?;
        let days =
            reconciliation::days(&mut client, since.to_offset(time::UtcOffset::UTC).date()).await?;
        let overdue = self.core.clock().now() - OVERDUE_AFTER;
        let discrepancies = reconciliation::discrepancies(&client, overdue, MAX_LISTED).await?;
        Ok(Reconciliation { days, discrepancies })
    }

    /// Repairs what can be repaired without asking. Returns how much.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn repair_discrepancies(&self) -> Result<u64, Error> {
        let client = self.core.store().client_for(StatementGroup::Upkeep).await?;
        Ok(reconciliation::repair(&client, self.core.clock().now(), MAX_LISTED).await?)
    }
}
