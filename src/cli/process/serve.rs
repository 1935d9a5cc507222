//! `serve`: runs the appliance until it is stopped.

use std::net::SocketAddr;

use clap::Args;

use super::{
    appliance::Appliance,
    reloader::Reloader,
    signals::{DrainSignals, ReloadSignal, StopSignals},
    state_file::{RunningServer, StateFile},
    watchdog::Watchdog,
};
use crate::{
    cli::{
        config_loader::ConfigOverride,
        io::exit::{ExitStatus, Failure},
        privilege::OpenFiles,
        setup::Setup,
        spec::{CommandFuture, LogLevel, Privilege, Runnable, Spec},
    },
    telemetry::{metrics, notify},
};

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
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
        draining = drains.next() =>app.process.set_draining(draining), () = reload_signal.next() =>{
        reloader.reload(&app, appliance.tls(), &mut state_file, &status);
                    }
                    () = watchdog.tick() => watchdog.report(Some(appliance.pulse())).await,
                    how = appliance.database_died() => break Some(how),
                }
    };
    drop(state_file);
    if let Some(how) = died {
        let what = format!("the embedded Postgres exited: {how}");
        tracing::error!("{what}");
        return Err(Failure::new(ExitStatus::Unavailable, what)
            .hint("see postgres.log in the data folder, then start esh3ar again"));
    }
    tracing::info!("stopping; a second signal stops immediately");
    tokio::select! {
        stopped = Box::pin(appliance.stop()) => stopped,
        // Nothing is lost: accepted messages are committed.
        () = signals.next() => Ok(()),
    }
}

fn announce(setup: &Setup, appliance: &Appliance) -> StateFile {
    tracing::info!(
        http = %appliance.http,
        metrics = appliance.metrics.map(|address| address.to_string()),
        admin = appliance.admin.map(|address| address.to_string()),
        data_dir = %setup.data_dir.display(),
        version = env!("CARGO_PKG_VERSION"),
        "ready in {} ms",
        appliance.started_at().elapsed().as_millis()
    );
    let found = RunningServer {
        pid: std::process::id(),
        http: appliance.http,
        metrics: appliance.metrics,
        admin: appliance.admin,
    };
    StateFile::new(setup.data_dir.join("serve.json"), &found)
}
