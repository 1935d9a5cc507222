//! The state of the whole installation: one read model for the dashboard, for administrators over HTTP,
//! and for monitoring.
//!
//! It is made of what the database holds and of what every process wrote of itself, so it needs nothing
//! but the database.

use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::AdminService;
use crate::app::{By, Error, process::counters::millis};
use crate::{
    domain::{Party, Phone, Priority, audit::AuditAction, process_stats::ProcessStats},
    store::{StatementGroup, Statements as _, nodes, stats},
};

pub use crate::app::Role;
pub use crate::store::{
    nodes::Node,
    stats::{DatabaseInfo, DeadLetterCount, MAX_COUNTED, SlowRecipient},
};

/// How many slow recipients are named.
const MAX_SLOW: i64 = 50;
/// How long all of it may take.
const STATS_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
pub struct LaneStats {
    pub lane: Priority,
    /// Messages not acknowledged yet, whether their recipient is there or not.
    pub waiting: u64,
    /// When the oldest of those was accepted.
    pub oldest_waiting_at: Option<OffsetDateTime>,
    /// Those of them that are on their way to a device, or due.
    pub in_flight: u64,
    /// When the oldest of those was accepted.
    pub oldest_in_flight_at: Option<OffsetDateTime>,
    /// Wake-ups that wait in the processes.
    pub wake_ups: u64,
}

/// A count that was not carried to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub count: u64,
    /// Whether there may be more.
    pub at_least: bool,
}

impl Counted {
    fn of(counts: impl Iterator<Item = u64>) -> Counted {
        let count = counts.sum();
        Counted { count, at_least: count >= MAX_COUNTED.unsigned_abs() }
    }
}

/// How the installation does at a moment.
#[derive(Clone, Debug)]
pub struct StatsSnapshot {
    pub at: OffsetDateTime,
    /// High first.
    pub lanes: Vec<LaneStats>,
    /// Messages not acknowledged yet.
    pub waiting: Counted,
    /// Deliveries on their way or due; what waits and is not in flight is parked for an absent recipient.
    pub in_flight: Counted,
    pub dead: Counted,
    /// The same by class, those without any left out.
    pub dead_by_class: Vec<DeadLetterCount>,
    /// Recipients that are slow to acknowledge, the worst first.
    pub slowest: Vec<SlowRecipient>,
    pub database: DatabaseInfo,
    /// How long the database took to answer, in milliseconds.
    pub database_ms: f64,
    /// The processes that live, oldest first, each with what it knows of itself.
    pub nodes: Vec<Node>,
    /// The figures of all processes, added up.
    pub all: ProcessStats,
}

impl StatsSnapshot {
    /// The phones among the recipients that are slow.
    pub fn phones(&self) -> impl Iterator<Item = &Phone> {
        self.slowest.iter().filter_map(|slow| match &slow.recipient {
            Party::Mobile(phone) => Some(phone),
            Party::Business(_) => None,
        })
    }
}

impl AdminService {
    /// How the installation does now.
    ///
    /// # Errors
    /// Failures of the database; [`Error::Unavailable`] also when it takes more than five seconds.
    pub async fn stats(&self) -> Result<StatsSnapshot, Error> {
        let snapshot = tokio::time::timeout(STATS_TIMEOUT, self.look()).await;
        snapshot.map_err(|_| Error::Unavailable)?
    }

    /// Records that somebody is about to be shown the numbers of these recipients.
    ///
    /// # Errors
    /// Failures of the database; then they must not be shown.
    pub async fn record_shown_numbers(&self, by: &By, shown: &[Phone]) -> Result<(), Error> {
        let entry =
            self.core.entry(by, AuditAction::RecipientList).about(shown).with("shown", shown.len());
        self.core.record(entry).await
    }

    /// How many conversations are active and had a message within the last hour, counted up to 100,000.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn count_active_conversations(&self) -> Result<u64, Error> {
        let client = self.core.store().client_for(StatementGroup::Upkeep).await?;
        let since = self.core.clock().now() - Duration::from_secs(3600);
        Ok(stats::active_conversations(&client, since, 100_000).await?)
    }

    async fn look(&self) -> Result<StatsSnapshot, Error> {
        let client = self.core.store().client_for(StatementGroup::Upkeep).await?;
        let asked = Instant::now();
        client.simple_query("").await?;
        let database_ms = millis(asked.elapsed());
        let waiting = stats::waiting(&client).await?;
        let in_flight = stats::in_flight(&client).await?;
        let dead_by_class = stats::dead_letters(&client).await?;
        let nodes = nodes::live(&client).await?;
        let mut all = ProcessStats::default();
        for node in &nodes {
            all.merge(&node.figures);
        }
        let lane = |lane: Priority| {
            let of = |lanes: &[stats::LaneBacklog]| {
                let found = lanes.iter().find(|found| found.lane == lane);
                (found.map_or(0, |found| found.count), found.map(|found| found.oldest_at))
            };
            let (mut waiting, mut oldest_waiting_at) = of(&waiting);
            let (in_flight, oldest_in_flight_at) = of(&in_flight);
            // The two were counted one after the other, and each no further than it had to be.
            waiting = waiting.max(in_flight);
            oldest_waiting_at = oldest_waiting_at.into_iter().chain(oldest_in_flight_at).min();
            let wake_ups = all.wake_ups.get(lane as usize).copied().unwrap_or_default();
            LaneStats { lane, waiting, oldest_waiting_at, in_flight, oldest_in_flight_at, wake_ups }
        };
        let lanes: Vec<LaneStats> =
            Priority::ALL.iter().rev().map(|priority| lane(*priority)).collect();
        Ok(StatsSnapshot {
            at: self.core.clock().now(),
            waiting: Counted::of(lanes.iter().map(|lane| lane.waiting)),
            in_flight: Counted::of(lanes.iter().map(|lane| lane.in_flight)),
            dead: Counted::of(dead_by_class.iter().map(|of_class| of_class.count)),
            dead_by_class,
            slowest: stats::slowest(&client, MAX_SLOW).await?,
            database: stats::database(&client).await?,
            database_ms,
            lanes,
            nodes,
            all,
        })
    }
}
