//! The watchdog of the service manager.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::{server::pulse::Pulse, telemetry::notify};

/// Says that the process lives, as often as systemd wants to hear it, and only if it does: the loop
/// that everything ends in asks, a thread of the runtime answers, and so does the loop that accepts
/// connections. A database that is away is no reason to be started again, and is not asked.
pub(crate) struct Watchdog {
    ticks: Option<Interval>,
    timeout: Duration,
}

impl Watchdog {
    pub(crate) fn new() -> Watchdog {
        let Some(every) = notify::alive_every().filter(|every| !every.is_zero()) else {
            return Watchdog { ticks: None, timeout: Duration::ZERO };
        };
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Watchdog { ticks: Some(ticks), timeout: every }
    }

    /// Waits until it is time to look again; for ever without a watchdog.
    pub(crate) async fn tick(&mut self) {
        match &mut self.ticks {
            Some(ticks) => {
                ticks.tick().await;
            }
            None => std::future::pending().await,
        }
    }

    /// Looks, and says so if all is well.
    pub(crate) async fn report(&self, pulse: Option<&Pulse>) {
        let thread = tokio::time::timeout(self.timeout, tokio::spawn(async {})).await;
        let beats = match pulse {
            Some(pulse) => pulse.beats(self.timeout).await,
            None => true,
        };
        if matches!(thread, Ok(Ok(()))) && beats {
            notify::alive();
        } else {
            tracing::error!("this process does not answer itself; the service manager is not told");
        }
    }
}
