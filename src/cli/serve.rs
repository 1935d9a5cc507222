//! `serve`: the appliance until it is told to stop.

use std::{net::SocketAddr, path::Path};

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    Setup,
    appliance::Appliance,
    exit::{ExitStatus, Failure},
    privilege::OpenFiles,
    reload::StateFile,
    service::{ReloadSignal, Reloader, Watchdog},
    spec::{CommandFuture, ConfigOverride, LogLevel, Privilege, Runnable, Spec},
};
use crate::telemetry::{metrics, notify};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Address of the API and the hub (http.listen)
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

impl Runnable for ServeArgs {
    fn spec(&self) -> Spec {
        Spec {
            name: "serve",
            privilege: Privilege::Service,
            log: LogLevel::Configured,
            ..Spec::LOCAL
        }
    }

    fn config_overrides(&self, overrides: &mut Vec<ConfigOverride>) {
        if let Some(listen) = self.listen {
            overrides.push(("http.listen", listen.to_string(), "--listen"));
        }
    }

    fn run(self: Box<Self>, setup: &Setup, _files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(run(setup))
    }
}

/// Where a running appliance can be found; written beside its data for commands and scripts.
#[derive(Serialize, Deserialize)]
pub(super) struct RunningServer {
    pub(super) pid: u32,
    pub(super) http: SocketAddr,
    pub(super) metrics: Option<SocketAddr>,
}

/// Where the appliance of a folder can be found, if it runs.
pub(super) fn running_server(data_dir: &Path) -> Option<RunningServer> {
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
        let failed = |error: std::io::Error| Failure::new(ExitStatus::Failed, error.to_string());
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
        let failed = |error: std::io::Error| Failure::new(ExitStatus::Failed, error.to_string());
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
    let mut reload_signal = ReloadSignal::listen()?;
    let recorder =
        metrics::install().map_err(|error| Failure::new(ExitStatus::Failed, error.to_string()))?;
    let mut appliance = tokio::select! {
        started = Box::pin(Appliance::start(setup, recorder)) => started?,
        () = signals.next() => return Ok(()),
    };
    let mut state_file = announce(setup, &appliance);
    let mut reloader = Reloader::new(setup);
    let status = format!("serving on {}", appliance.http);
    notify::ready(&status);
    let mut watchdog = Watchdog::new();
    let died = loop {
        let app = appliance.app.clone();
        tokio::select! {
            () = signals.next() => break None,
            draining = drains.next() => app.drain(draining),
            () = reload_signal.next() => {
                reloader.reload(&app, appliance.tls(), &mut state_file, &status);
            }
            () = watchdog.tick() => watchdog.report(Some(appliance.pulse())).await,
            how = appliance.database_died() => break Some(how),
        }
    };
    drop(state_file);
    if let Some(how) = died {
        let what = format!("the private Postgres ended by itself: {how}");
        tracing::error!("{what}");
        return Err(Failure::new(ExitStatus::Unavailable, what)
            .hint("see postgres.log in the data folder, then start esh3ar again"));
    }
    tracing::info!("stopping; a second signal stops at once");
    tokio::select! {
        stopped = Box::pin(appliance.stop()) => stopped,
        // Nothing is lost by this: what was answered is committed.
        () = signals.next() => Ok(()),
    }
}

fn announce(setup: &Setup, appliance: &Appliance) -> StateFile {
    tracing::info!(
        http = %appliance.http,
        metrics = appliance.metrics.map(|address| address.to_string()),
        data_dir = %setup.data_dir.display(),
        version = env!("CARGO_PKG_VERSION"),
        "ready in {} ms",
        appliance.started_at().elapsed().as_millis()
    );
    let found =
        RunningServer { pid: std::process::id(), http: appliance.http, metrics: appliance.metrics };
    StateFile::new(setup.data_dir.join("serve.json"), &found)
}
