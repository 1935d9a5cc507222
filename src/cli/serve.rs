//! `serve`: the appliance until it is told to stop.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    Setup,
    appliance::Appliance,
    exit::{Failure, Kind},
};
use crate::telemetry::{metrics, notify};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Address of the API and the hub (http.listen)
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

impl ServeArgs {
    pub(super) fn flags(&self, flags: &mut Vec<(&'static str, String, &'static str)>) {
        if let Some(listen) = self.listen {
            flags.push(("http.listen", listen.to_string(), "--listen"));
        }
    }
}

/// Where a running appliance can be found; written beside its data for commands and scripts.
#[derive(Serialize)]
struct Whereabouts {
    pid: u32,
    http: SocketAddr,
    metrics: Option<SocketAddr>,
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

pub(super) async fn run(setup: &Setup) -> Result<(), Failure> {
    let mut signals = StopSignals::listen()?;
    let recorder =
        metrics::install().map_err(|error| Failure::new(Kind::Failed, error.to_string()))?;
    let mut appliance = tokio::select! {
        started = Box::pin(Appliance::start(setup, recorder)) => started?,
        () = signals.next() => return Ok(()),
    };
    let whereabouts = announce(setup, &appliance);
    notify::ready();
    let died = tokio::select! {
        () = signals.next() => None,
        how = appliance.database_died() => Some(how),
    };
    if let Some(path) = whereabouts {
        let _ = std::fs::remove_file(path);
    }
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

fn announce(setup: &Setup, appliance: &Appliance) -> Option<PathBuf> {
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
    let path = setup.data_dir.join("serve.json");
    let half = setup.data_dir.join("serve.json.new");
    let text = serde_json::to_string(&found).unwrap_or_default();
    let written = std::fs::write(&half, text).and_then(|()| std::fs::rename(&half, &path));
    written.ok().map(|()| path)
}
