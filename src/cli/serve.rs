//! `serve`: the appliance until it is told to stop.

use std::{net::SocketAddr, path::Path};

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    Setup,
    appliance::Appliance,
    exit::{Failure, Kind},
    privilege::Given,
    reload::Announcement,
    service::{Hangups, Reloads, Watchdog},
    spec::{Flag, LogLevel, Privilege, Run, Running, Spec},
};
use crate::telemetry::{metrics, notify};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Address of the API and the hub (http.listen)
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

impl Run for ServeArgs {
    fn spec(&self) -> Spec {
        Spec {
            name: "serve",
            privilege: Privilege::Service,
            log: LogLevel::Configured,
            ..Spec::LOCAL
        }
    }

    fn flags(&self, flags: &mut Vec<Flag>) {
        if let Some(listen) = self.listen {
            flags.push(("http.listen", listen.to_string(), "--listen"));
        }
    }

    fn run(self: Box<Self>, setup: &Setup, _files: Given) -> Running<'_> {
        Box::pin(run(setup))
    }
}

/// Where a running appliance can be found; written beside its data for commands and scripts.
#[derive(Serialize, Deserialize)]
pub(super) struct Whereabouts {
    pub(super) pid: u32,
    pub(super) http: SocketAddr,
    pub(super) metrics: Option<SocketAddr>,
}

/// Where the appliance of a folder can be found, if it runs.
pub(super) fn whereabouts(data_dir: &Path) -> Option<Whereabouts> {
    let text = std::fs::read_to_string(data_dir.join("serve.json")).ok()?;
    serde_json::from_str(&text).ok()
}

/// The signals that end the appliance.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    pub(super) fn listen() -> Result<StopSignals, Failure> {
        let failed = |error: std::io::Error| Failure::new(Kind::Failed, error.to_string());
        Ok(StopSignals {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The signals of `esh3ar drain`: only who may send them, may empty the process.
struct DrainSignals {
    begin: Signal,
    end: Signal,
}

impl DrainSignals {
    fn listen() -> Result<DrainSignals, Failure> {
        let failed = |error: std::io::Error| Failure::new(Kind::Failed, error.to_string());
        Ok(DrainSignals {
            begin: signal(SignalKind::user_defined1()).map_err(failed)?,
            end: signal(SignalKind::user_defined2()).map_err(failed)?,
        })
    }

    /// Whether to begin or to end.
    async fn next(&mut self) -> bool {
        tokio::select! {
            _ = self.begin.recv() => true,
            _ = self.end.recv() => false,
        }
    }
}

async fn run(setup: &Setup) -> Result<(), Failure> {
    let mut signals = StopSignals::listen()?;
    let mut drains = DrainSignals::listen()?;
    let mut hangups = Hangups::listen()?;
    let recorder =
        metrics::install().map_err(|error| Failure::new(Kind::Failed, error.to_string()))?;
    let mut appliance = tokio::select! {
        started = Box::pin(Appliance::start(setup, recorder)) => started?,
        () = signals.next() => return Ok(()),
    };
    let mut whereabouts = announce(setup, &appliance);
    let mut reloads = Reloads::new(setup);
    let status = format!("serving on {}", appliance.http);
    notify::ready(&status);
    let mut watchdog = Watchdog::new();
    let died = loop {
        let app = appliance.app.clone();
        tokio::select! {
            () = signals.next() => break None,
            draining = drains.next() => app.process.set_draining(draining),
            () = hangups.next() => {
                reloads.reload(&app, appliance.tls(), &mut whereabouts, &status);
            }
            () = watchdog.due() => watchdog.look(Some(appliance.pulse())).await,
            how = appliance.database_died() => break Some(how),
        }
    };
    drop(whereabouts);
    if let Some(how) = died {
        let what = format!("the private Postgres ended by itself: {how}");
        tracing::error!("{what}");
        return Err(Failure::new(Kind::Unavailable, what)
            .hint("see postgres.log in the data folder, then start esh3ar again"));
    }
    tracing::info!("stopping; a second signal stops at once");
    tokio::select! {
        stopped = Box::pin(appliance.stop()) => stopped,
        // Nothing is lost by this: what was answered is committed.
        () = signals.next() => Ok(()),
    }
}

fn announce(setup: &Setup, appliance: &Appliance) -> Announcement {
    tracing::info!(
        http = %appliance.http,
        metrics = appliance.metrics.map(|address| address.to_string()),
        data_dir = %setup.data_dir.display(),
        version = env!("CARGO_PKG_VERSION"),
        "ready in {} ms",
        appliance.began().elapsed().as_millis()
    );
    let found =
        Whereabouts { pid: std::process::id(), http: appliance.http, metrics: appliance.metrics };
    Announcement::new(setup.data_dir.join("serve.json"), &found)
}
