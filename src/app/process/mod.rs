//! This process: what it counts, whether it is well, and its place among the other processes of the
//! installation.

pub(in crate::app) mod counters;
pub mod drain;
pub mod health;
pub mod health_probes;
pub mod members;
mod presence_log;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use super::{
    Core, Error, RuntimeSettings,
    clock::{Clock, begin_ids_after},
    limits::LimitService,
};
use crate::store::server_checks;

/// This process among the others of the installation. Cheap to clone.
#[derive(Clone)]
pub struct ProcessService {
    core: Core,
    limits: LimitService,
    state: Arc<State>,
}

struct State {
    members: members::Members,
    counters: counters::Counters,
    probes: health_probes::Probes,
    health: health::HealthCache,
    presence_log: presence_log::PresenceLog,
    draining: AtomicBool,
}

impl ProcessService {
    pub(super) fn new(core: &Core, limits: &LimitService) -> ProcessService {
        let started_at = core.clock().now();
        let state = State {
            members: members::Members::new(started_at),
            counters: counters::Counters::new(),
            probes: health_probes::Probes::default(),
            health: health::HealthCache::default(),
            presence_log: presence_log::PresenceLog::new(started_at),
            draining: AtomicBool::new(false),
        };
        ProcessService { core: core.clone(), limits: limits.clone(), state: Arc::new(state) }
    }

    /// From now on these settings are in effect.
    pub fn apply(&self, settings: RuntimeSettings) {
        self.core.presence().local().allow(settings.limits);
        self.core.diagnostic_connections().allow(settings.limits);
        self.core.reloadable().set(settings);
    }

    /// Lets new ids begin after the newest that is stored, so that what comes later is listed later also
    /// when a clock was or is wrong. Returns by how much that lies ahead of the clock.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn begin_ids(&self) -> Result<Duration, Error> {
        let newest = server_checks::newest_id_ahead(self.core.store(), Clock::System.now()).await?;
        Ok(newest.map(begin_ids_after).unwrap_or_default())
    }
}
