//! What systemd and the administrator have to say to a process that runs, and what it says back:
//! the watchdog, and taking up the configuration again.

use std::{path::PathBuf, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Interval, MissedTickBehavior, interval},
};

use super::{
    Setup,
    exit::{Failure, Kind},
};
use crate::{
    config::{self, Loaded},
    server::{pulse::Pulse, tls::Tls},
    telemetry::notify,
};

/// Says that the process lives, as often as systemd wants to hear it, and only if it does: the loop
/// that everything ends in asks, a thread of the runtime answers, and so does the loop that accepts
/// connections. A database that is away is no reason to be started again, and is not asked.
pub(super) struct Watchdog {
    ticks: Option<Interval>,
    patience: Duration,
}

impl Watchdog {
    pub(super) fn new() -> Watchdog {
        let Some(every) = notify::alive_every().filter(|every| !every.is_zero()) else {
            return Watchdog { ticks: None, patience: Duration::ZERO };
        };
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Watchdog { ticks: Some(ticks), patience: every }
    }

    /// Waits until it is time to look again; for ever without a watchdog.
    pub(super) async fn due(&mut self) {
        match &mut self.ticks {
            Some(ticks) => {
                ticks.tick().await;
            }
            None => std::future::pending().await,
        }
    }

    /// Looks, and says so if all is well.
    pub(super) async fn look(&self, pulse: Option<&Pulse>) {
        let thread = tokio::time::timeout(self.patience, tokio::spawn(async {})).await;
        let beats = match pulse {
            Some(pulse) => pulse.beats(self.patience).await,
            None => true,
        };
        if matches!(thread, Ok(Ok(()))) && beats {
            notify::alive();
        } else {
            tracing::error!("this process does not answer itself; the service manager is not told");
        }
    }
}

/// Where the configuration was read from, to read it again.
pub(super) struct Again {
    pub(super) file: Option<PathBuf>,
    pub(super) flags: Vec<(&'static str, String, &'static str)>,
}

impl Again {
    fn load(&self) -> Result<Loaded, Failure> {
        Ok(config::load(super::sources(self.file.as_deref(), self.flags.clone())?)?)
    }
}

/// SIGHUP: take up the configuration again. Without this it would end the process.
pub(super) struct Hangups(Signal);

impl Hangups {
    pub(super) fn listen() -> Result<Hangups, Failure> {
        let failed = |error: std::io::Error| Failure::new(Kind::Failed, error.to_string());
        signal(SignalKind::hangup()).map(Hangups).map_err(failed)
    }

    pub(super) async fn next(&mut self) {
        self.0.recv().await;
    }
}

/// Takes up what can be taken up while the process runs: the level of the log and the certificate. Of
/// everything else that was changed it is said that it waits for a restart. A configuration that is
/// wrong changes nothing.
pub(super) fn reload(setup: &Setup, tls: Option<&Tls>, status: &str) {
    notify::reloading();
    match setup.again.load() {
        Ok(loaded) => take_up(setup, &loaded, tls),
        Err(failure) => {
            tracing::error!(why = failure.what, "nothing is taken up; run: esh3ar config check");
        }
    }
    notify::ready(status);
}

fn take_up(setup: &Setup, loaded: &Loaded, tls: Option<&Tls>) {
    let level = &loaded.config.log.level;
    if let Err(error) = setup.level.set(level) {
        tracing::error!(%error, "the old level of the log stays");
    }
    if let Some(tls) = tls
        && let Err(error) = tls.renew()
    {
        tracing::error!(%error, "the old certificate is kept");
    }
    // Secrets look the same before and after; they are taken up by a restart too.
    let old = setup.loaded.origins.iter();
    let waiting: Vec<&str> = old
        .zip(&loaded.origins)
        .filter(|(old, new)| old.value != new.value && old.key != "log.level")
        .map(|(old, _)| old.key)
        .collect();
    if waiting.is_empty() {
        tracing::info!(level, "configuration taken up");
    } else {
        let keys = waiting.join(", ");
        tracing::warn!(level, keys, "configuration taken up; these keys wait for a restart");
    }
}
