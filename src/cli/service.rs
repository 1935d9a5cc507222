//! What systemd and the administrator have to say to a process that runs, and what it says back:
//! the watchdog, and taking up the configuration again.

use std::{path::PathBuf, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Interval, MissedTickBehavior, interval},
};

use super::{
    Setup, addresses,
    exit::{Failure, Kind},
    opened,
    reload::{Announcement, Reloaded},
    sources,
    spec::Flag,
};
use crate::{
    app::{App, Clock},
    config::{Loaded, Sources, keys::is_live},
    server::{liveness::LivenessProbe, tls::Tls},
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
    pub(super) async fn look(&self, pulse: Option<&LivenessProbe>) {
        let thread = tokio::time::timeout(self.patience, tokio::spawn(async {})).await;
        let beats = match pulse {
            Some(pulse) => pulse.responds_within(self.patience).await,
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
    /// Whether the usual file may be closed to this user.
    pub(super) spared: bool,
    pub(super) flags: Vec<Flag>,
}

impl Again {
    /// All that is read.
    pub(super) fn sources(&self) -> Result<Sources, Failure> {
        sources::sources(self.file.as_deref(), self.spared, self.flags.clone())
    }

    fn load(&self) -> Result<Loaded, Failure> {
        Ok(addresses::load(self.sources()?)?)
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

/// What is taken up while the process runs, and what was.
pub(super) struct Reloads<'a> {
    setup: &'a Setup,
    /// What is in effect of the keys that may change; of the others `setup` has it.
    taken: Loaded,
    number: u64,
}

impl Reloads<'_> {
    pub(super) fn new(setup: &Setup) -> Reloads<'_> {
        note_success();
        Reloads { setup, taken: setup.loaded.clone(), number: 0 }
    }

    /// Takes up what can be taken up: the keys that are live ([`is_live`]) and the certificate. Of
    /// everything else that was changed it is said that it waits for a restart. A configuration that is
    /// wrong changes nothing. `found` is where commands find the answer.
    pub(super) fn reload(
        &mut self,
        app: &App,
        tls: Option<&Tls>,
        found: &mut Announcement,
        status: &str,
    ) {
        notify::reloading();
        self.number += 1;
        let reloaded = self.take_up(app, tls).unwrap_or_else(|failure| {
            tracing::error!(why = failure.what, "nothing is taken up; run: esh3ar config check");
            Reloaded {
                number: self.number,
                taken_up: false,
                changed: Vec::new(),
                waiting: Vec::new(),
                why: Some(failure.what),
            }
        });
        let result = if reloaded.taken_up { "taken_up" } else { "refused" };
        metrics::counter!("esh3ar_config_reloads_total", "result" => result).increment(1);
        found.answer(&reloaded);
        notify::ready(status);
    }

    fn take_up(&mut self, app: &App, tls: Option<&Tls>) -> Result<Reloaded, Failure> {
        let loaded = self.setup.again.load()?;
        // All that can fail comes first, so that nothing is taken up by half.
        let live = opened::live(&loaded.config)?;
        let level = &loaded.config.log.level;
        let levelled = self.setup.level.set(level);
        levelled.map_err(|error| Failure::new(Kind::Config, error.to_string()))?;
        app.take_up(live);
        let renewed = tls.map_or(Ok(()), Tls::renew);
        let why = renewed.err().map(|error| {
            tracing::error!(%error, "the old certificate is kept");
            format!("the old certificate is kept: {error}")
        });
        let names = |keys: Vec<&'static str>, live: bool| -> Vec<String> {
            let keys = keys.into_iter().filter(|key| is_live(key) == live);
            keys.map(str::to_owned).collect()
        };
        let changed = names(loaded.changed_since(&self.taken), true);
        let waiting = names(loaded.changed_since(&self.setup.loaded), false);
        let (taken, left) = (changed.join(", "), waiting.join(", "));
        if waiting.is_empty() {
            tracing::info!(changed = taken, "configuration taken up");
        } else {
            tracing::warn!(
                changed = taken,
                keys = left,
                "configuration taken up; these keys wait for a restart"
            );
        }
        self.taken = loaded;
        note_success();
        Ok(Reloaded { number: self.number, taken_up: true, changed, waiting, why })
    }
}

fn note_success() {
    let now = Clock::System.now().unix_timestamp();
    metrics::gauge!("esh3ar_config_last_reload_success_timestamp_seconds").set(now as f64);
}
