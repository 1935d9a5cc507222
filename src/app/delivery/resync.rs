//! What finds the messages that were lost on the way: connections are asked to read from the database.

use std::time::Duration;

use super::{DeliveryService, online::LEASE_MARGIN, pending_resyncs::Behind};
use crate::{
    app::Error,
    domain::{MessageId, Party},
    presence::{Outbound, RouteOutcome},
    store::{self, StatementGroup, messages},
};

/// The most messages that one sweep takes.
const SWEEP_BATCH_SIZE: usize = 1000;
/// The most recipients that are asked to read when wake-ups may have been lost.
const MAX_RESYNCS: usize = 100_000;
/// How old a parked message of a connected recipient must be before it counts as stuck; younger ones
/// are on their way.
const STUCK_AFTER: Duration = Duration::from_secs(2);
/// How often positions are checked, and how often while Redis is away.
const CHECK_INTERVAL: Duration = Duration::from_secs(20);
const CHECK_INTERVAL_WITHOUT_REDIS: Duration = Duration::from_secs(5);
/// How often it is looked whether Redis is away.
const REDIS_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The most recipients in one position check.
const CHECK_BATCH_SIZE: usize = 1000;

impl DeliveryService {
    /// Lets the connections of these read from the database before they are sent anything more. Those of
    /// which nobody can say whether they have any are asked again later.
    pub(super) async fn resync(&self, parties: Behind) {
        if parties.is_empty() {
            return;
        }
        let parties: Vec<(Party, MessageId)> = parties.into_iter().collect();
        let resync =
            |(party, from): &(Party, MessageId)| (party.clone(), Outbound::Resync(Some(*from)));
        let reached = self.core.presence().route(parties.iter().map(resync).collect()).await;
        let unknown = parties.into_iter().zip(reached);
        let unknown = unknown.filter(|(_, reach)| *reach == RouteOutcome::Unknown);
        self.state.pending_resyncs.note(unknown.map(|(behind, _)| behind));
    }

    /// Asks recipients to read that could not be reached before, if they can be now: what comes for them
    /// next must not overtake what they missed.
    pub async fn resync_pending(&self) {
        if self.state.pending_resyncs.is_empty() {
            return;
        }
        // Not as long as the answers would be the same. A gateway that writes its connections again lets all of
        // them read by itself.
        if let Some(relay) = self.core.presence().relay()
            && !relay.can_tell_absence().await
        {
            return;
        }
        self.resync(self.state.pending_resyncs.take()).await;
    }

    /// Wakes the recipients of everything that somebody was to deliver by now: wake-ups may have been lost
    /// with the broker, and what comes after them must not overtake them.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn resync_after_lost_wake_ups(&self) -> Result<usize, Error> {
        let client = self.core.store().client_for(StatementGroup::WakeUps).await?;
        let since = self.core.clock().now()
            - self.core.runtime_settings().retry.acknowledge_timeout
            - LEASE_MARGIN;
        let parties = messages::undelivered_since(&client, since, MAX_RESYNCS).await?;
        let count = parties.len();
        // Not all of those were counted, if they are many: what they missed began no earlier than this.
        let from = MessageId::first_of(since);
        self.resync(parties.into_iter().map(|party| (party, from)).collect()).await;
        Ok(count)
    }

    /// Takes the messages whose time to be looked at has come and asks their recipients, where they
    /// are connected, to read again. Returns whether there may be more.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn sweep(&self) -> Result<bool, Error> {
        let client = self.core.store().client_for(StatementGroup::Sweeps).await?;
        let (count, parties) =
            messages::sweep(&client, self.core.clock().now(), SWEEP_BATCH_SIZE).await?;
        if count > 0 {
            self.core.failpoint("sweep_after_take");
        }
        for (party, from) in parties {
            self.core.presence().send(&party, &Outbound::Resync(Some(from)));
        }
        Ok(count == SWEEP_BATCH_SIZE)
    }

    /// Finds connected recipients that have messages waiting as if they were not, and asks them to
    /// read.
    /// With `doubted`, what was handed over may have been lost on the way, and counts too. Returns how
    /// many were found.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn check_positions(&self, doubted: bool) -> Result<usize, Error> {
        let mut found = 0;
        for parties in self.core.presence().local().parties().chunks(CHECK_BATCH_SIZE) {
            let client = self.core.store().client_for(StatementGroup::Sweeps).await?;
            let before = self.core.clock().now() - STUCK_AFTER;
            let behind = messages::behind(&client, parties, before, doubted).await?;
            found += behind.len();
            for (party, from) in behind {
                self.core.presence().local().send(&party, &Outbound::Resync(Some(from)));
            }
        }
        Ok(found)
    }

    /// Waits until positions are to be checked: every 20 s, every 5 s while Redis is away, and when
    /// something may have been lost on the way to this process. Whether that is so.
    pub async fn until_position_check(&self) -> bool {
        let Some(relay) = self.core.presence().relay() else {
            tokio::time::sleep(CHECK_INTERVAL).await;
            return false;
        };
        let mut waited = Duration::ZERO;
        loop {
            let often = if relay.redis().state().up {
                CHECK_INTERVAL
            } else {
                CHECK_INTERVAL_WITHOUT_REDIS
            };
            if waited >= often {
                return false;
            }
            tokio::select! {
                () = relay.wait_for_gap() => {
                    // What is younger than this is not looked at, and may be what was lost.
                    tokio::time::sleep(STUCK_AFTER).await;
                    return true;
                }
                () = tokio::time::sleep(REDIS_LOOK_INTERVAL) => {
                    waited += REDIS_LOOK_INTERVAL;
                    self.resync_pending().await;
                }
            }
        }
    }

    /// How many messages wait for their recipients, counted up to 100,000.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn count_waiting(&self) -> Result<i64, store::Error> {
        messages::waiting(&self.core.store().client_for(StatementGroup::Upkeep).await?, 100_000)
            .await
    }
}
