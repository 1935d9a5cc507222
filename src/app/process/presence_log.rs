//! When phones were connected and when this process ran, for explanations: collected in memory, written
//! every few seconds.
//!
//! Hints only: what does not fit or cannot be written is dropped, and nothing waits for it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use time::OffsetDateTime;
use uuid::Uuid;

use super::ProcessService;
use crate::{
    app::{Error, Role, clock::new_id},
    domain::{BoundedMap, Phone, WhenFull},
    store::{
        self, StatementGroup,
        presence_log::{self, PresenceChange},
    },
};

/// Phones that wait to be written; what does not fit is not noted.
const QUEUE_CAPACITY: usize = 50_000;
const BATCH_SIZE: usize = 1000;
/// How long runs and outages are kept.
const PRESENCE_LOG_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// What waits to be written.
pub(in crate::app) struct PresenceLog {
    run: Uuid,
    started_at: OffsetDateTime,
    seen: Mutex<BoundedMap<Phone, PresenceChange>>,
}

impl PresenceLog {
    pub(in crate::app) fn new(started_at: OffsetDateTime) -> PresenceLog {
        PresenceLog {
            run: new_id(),
            started_at,
            seen: Mutex::new(BoundedMap::new(QUEUE_CAPACITY, WhenFull::Refuse)),
        }
    }

    fn seen(&self) -> MutexGuard<'_, BoundedMap<Phone, PresenceChange>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, mut seen: PresenceChange) {
        let now = Instant::now();
        let mut waiting = self.seen();
        let known = waiting.get(&seen.phone, now);
        if let (Some(known), Some(_)) = (known, &seen.left) {
            // Who leaves was here since the first of its connections, and none that is older than
            // that can be the last.
            if known.left.is_none() && known.connected_at > seen.connected_at {
                return;
            }
            if known.left.is_none() {
                seen.connected_at = known.connected_at;
            }
        }
        // Without room it is not noted.
        waiting.insert(seen.phone.clone(), seen, None, now);
    }
}

impl ProcessService {
    /// Notes that a phone connected that was not connected before.
    pub fn record_connected(&self, phone: &Phone, connected_at: OffsetDateTime) {
        self.state.presence_log.note(PresenceChange {
            phone: phone.clone(),
            connected_at,
            left: None,
        });
    }

    /// Notes that a phone's last connection here ended.
    pub fn record_disconnected(&self, phone: &Phone, since: OffsetDateTime, reason: &'static str) {
        let left = Some((self.core.clock().now(), reason));
        self.state.presence_log.note(PresenceChange {
            phone: phone.clone(),
            connected_at: since,
            left,
        });
    }

    /// Writes what was noted, and that this process lives.
    ///
    /// # Errors
    /// Failures of the database, which are noted as an outage.
    pub async fn write_presence_log(&self) -> Result<(), Error> {
        let result = self.core.outages().timed(self.try_write_presence_log()).await;
        if let Err(error) = &result {
            self.core.outages().failed(error);
        }
        Ok(result?)
    }

    async fn try_write_presence_log(&self) -> Result<(), store::Error> {
        let log = &self.state.presence_log;
        let client = self.core.store().client_for(StatementGroup::Upkeep).await?;
        let now = self.core.clock().now();
        let delivers = self.core.settings().node.as_ref().is_some_and(|n| n.role != Role::Gateway);
        presence_log::record_heartbeat(&client, log.run, log.started_at, now, delivers).await?;
        if let Some(outage) = self.core.outages().take(now) {
            presence_log::record_outage(&client, &outage).await?;
        }
        loop {
            let waiting = log.seen().take(BATCH_SIZE);
            let rows: Vec<PresenceChange> = waiting.into_iter().map(|(_, seen)| seen).collect();
            if rows.is_empty() {
                return Ok(());
            }
            presence_log::record_presence(&client, log.run, &rows).await?;
        }
    }

    /// Notes that this process has stopped in order.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn record_stopped(&self) -> Result<(), Error> {
        self.write_presence_log().await?;
        let client = self.core.store().client_for(StatementGroup::Upkeep).await?;
        Ok(presence_log::record_shutdown(
            &client,
            self.state.presence_log.run,
            self.core.clock().now(),
        )
        .await?)
    }

    /// Forgets runs and outages of long ago.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn expire_presence_log(&self) -> Result<(), Error> {
        let before = self.core.clock().now() - PRESENCE_LOG_TTL;
        Ok(presence_log::delete_before(
            &self.core.store().client_for(StatementGroup::Upkeep).await?,
            before,
        )
        .await?)
    }
}
