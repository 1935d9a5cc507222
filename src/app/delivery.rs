//! From accepted to the connections, and what finds the messages that got stuck on the way.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;

use super::{App, Error};
use crate::{
    domain::{Message, feed::Attempt},
    presence::{Delivery, Outbound},
    store::{self, idempotency, messages, outcome::WrittenAt},
};

/// The most messages that one sweep takes.
const SWEEP: usize = 1000;
/// How old a parked message of a connected recipient must be before it counts as stuck; younger ones
/// are on their way.
const STUCK_AFTER: Duration = Duration::from_secs(2);
/// The most recipients in one position check.
const CHECKED_AT_ONCE: usize = 1000;

impl App {
    /// Wakes the delivery of messages that have just become durable.
    pub(super) fn wake(&self, accepted: Vec<Message>) {
        let mut shares: Vec<(i16, Vec<Arc<Delivery>>)> = Vec::new();
        for message in accepted {
            if !self.registry().is_online(&message.recipient) {
                // It was stored before this look, so whoever connects from now on finds it.
                continue;
            }
            let partition = message.recipient.partition();
            let delivery = Delivery::new(message);
            match shares.iter_mut().find(|(share, _)| *share == partition) {
                Some((_, deliveries)) => deliveries.push(delivery),
                None => shares.push((partition, vec![delivery])),
            }
        }
        for (partition, deliveries) in shares {
            let items =
                deliveries.into_iter().map(|delivery| (delivery.message.priority, delivery));
            for refused in self.queue().push(partition, items) {
                // No room for the wake-up: the connection reads from the database instead.
                self.registry().send(&refused.message.recipient, &Outbound::Nudge);
            }
        }
    }

    /// Hands messages to the connections of their recipients.
    pub fn deliver(&self, deliveries: &[Arc<Delivery>]) {
        let mut offline = Vec::new();
        for delivery in deliveries {
            let outbound = Outbound::Deliver(Arc::clone(delivery));
            if self.registry().send(&delivery.message.recipient, &outbound) == 0 {
                offline.push(delivery.message.id);
            }
        }
        if !offline.is_empty() {
            self.inner.ledger.note_offline(offline);
        }
    }

    /// Takes the messages whose time to be looked at has come and asks their recipients, where they
    /// are connected, to read again. Returns whether there may be more.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn sweep(&self) -> Result<bool, Error> {
        let client = self.store().client().await?;
        let (count, parties) = messages::sweep(&client, self.clock().now(), SWEEP).await?;
        if count > 0 {
            self.failpoint("sweep_after_take");
        }
        for party in parties {
            self.registry().send(&party, &Outbound::Nudge);
        }
        Ok(count == SWEEP)
    }

    /// Finds connected recipients that have messages waiting as if they were not, and nudges them.
    /// Returns how many.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn check_positions(&self) -> Result<usize, Error> {
        let mut found = 0;
        for parties in self.registry().parties().chunks(CHECKED_AT_ONCE) {
            let client = self.store().client().await?;
            let behind =
                messages::behind(&client, parties, self.clock().now() - STUCK_AFTER).await?;
            found += behind.len();
            for party in behind {
                self.registry().send(&party, &Outbound::Nudge);
            }
        }
        Ok(found)
    }

    /// Forgets idempotency keys whose time is over. Returns whether there may be more.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn forget_keys(&self) -> Result<bool, Error> {
        const AT_ONCE: u64 = 1000;
        let client = self.store().client().await?;
        let before = self.clock().now() - super::intake::KEY_KEPT;
        Ok(idempotency::forget(&client, before, AT_ONCE as i64).await? == AT_ONCE)
    }

    /// Notes that messages were written to a connection a while ago, or why it ended with them
    /// unacknowledged.
    pub fn note_written(
        &self,
        written: Vec<(Attempt, OffsetDateTime)>,
        lost: Option<&'static str>,
    ) {
        let written =
            written.into_iter().map(|(attempt, at)| WrittenAt { attempt, at, lost }).collect();
        self.inner.ledger.note_written(written);
    }

    /// Notes that a live connection did not acknowledge these in time.
    pub fn note_missed(&self, attempts: Vec<Attempt>) {
        self.inner.ledger.note_missed(attempts);
    }

    /// How many messages wait for their recipients, counted up to 100,000.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn waiting(&self) -> Result<i64, store::Error> {
        messages::waiting(&self.store().client().await?, 100_000).await
    }
}
