//! The watchdog of the service manager.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::{server::liveness::LivenessProbe, telemetry::notify};

/// Notifies systemd at the interval that it asks for, as long as the process works: a task must run on the
/// runtime, and the loop that accepts connections must answer. The database is not asked: a restart of this
/// process would not help.
pub(crate) struct Watchdog {
    ticks: Option<Interval>,
    timeout: Duration,
}

impl Watchdog {
    pub(crate) fn new() -> Watchdog {
        let Some(every) = notify::watchdog_interval().filter(|every| !every.is_zero()) else {
            return Watchdog { ticks: None, timeout: Duration::ZERO };
        };
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Watchdog { ticks: Some(ticks), timeout: every }
    }

    /// Waits for the next check; forever without a watchdog.
    pub(crate) async fn tick(&mut self) {
        match &mut self.ticks {
            Some(ticks) => {
                ticks.tick().await;
            }
            None => std::future::pending().await,
        }
    }

    /// Checks, and notifies systemd if all is well.
    pub(crate) async fn report(&self, pulse: Option<&LivenessProbe>) {
        let thread = tokio::time::timeout(self.timeout, tokio::spawn(async {})).await;
        let beats = match pulse {
            Some(pulse) => pulse.responds_within(self.timeout).await,
            None => true,
        };
        if matches!(thread, Ok(Ok(()))) && beats {
            notify::watchdog();
        } else {
            tracing::error!("self-check failed; the watchdog is not notified");
        }
    }
}
