//! `worker`: delivers what gateways accept, until it is stopped.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use super::{
    appliance::{Runtime, bind, spawn_upkeep},
    backends, database,
    reloader::Reloader,
    signals::{ReloadSignal, StopSignals},
    state_file::StateFile,
    watchdog::Watchdog,
};
use crate::{
    app::Role,
    cli::{
        io::exit::{ExitStatus, Failure},
        privilege::OpenFiles,
        setup::Setup,
        spec::{CommandFuture, LogLevel, Privilege, Runnable, Spec},
    },
    server::{Readiness, liveness::LivenessProbe},
    store::embedded::Purpose,
    telemetry::{metrics, notify},
};

pub(crate) struct Worker;

impl Runnable for Worker {
    fn spec(&self) -> Spec {
        Spec {
            name: "worker",
            privilege: Privilege::Service,
            log: LogLevel::Configured,
            ..Spec::LOCAL
        }
    }

    fn run(self: Box<Self>, setup: &Setup, _files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(run(setup))
    }
}

async fn run(setup: &Setup) -> Result<(), Failure> {
    let config = &setup.loaded.config;
    if backends::broker(config)?.is_none() {
        let what = "queue.url is not set: a worker gets its work from RabbitMQ";
        let hint =
            "set queue.url, or run only esh3ar serve, which delivers by itself without a broker";
        return Err(Failure::new(ExitStatus::Config, what).hint(hint));
    }
    let started = Instant::now();
    let mut signals = StopSignals::listen()?;
    let mut reload_signal = ReloadSignal::listen()?;
    let recorder =
        metrics::install().map_err(|error| Failure::new(ExitStatus::Failed, error.to_string()))?;
    let metrics_listener = match config.metrics.listen {
        Some(address) => Some(bind(address, "metrics.listen").await?),
        None => None,
    };
    let start = async {
        let store = database::open_database(setup, Purpose::Serve).await?;
        Runtime::start(setup, store, Role::Worker, None).await
    };
    let runtime = tokio::select! {
        started = Box::pin(start) => started?,
        () = signals.next() => return Ok(()),
    };
    let readiness: Readiness = Arc::new(AtomicBool::new(true));
    let address = metrics_listener.as_ref().map(|(_, address)| address.to_string());
    // Of the metrics listener: a worker accepts no other connections.
    let pulse = metrics_listener.is_some().then(LivenessProbe::default);
    if let (Some((listener, _)), Some(pulse)) = (metrics_listener, &pulse) {
        runtime.serve_metrics(
            listener,
            &readiness,
            &recorder,
            config.http.stop_timeout,
            pulse.clone(),
        );
    }
    spawn_upkeep(&runtime.work, recorder);
    tracing::info!(
        metrics = address.as_deref(),
        version = env!("CARGO_PKG_VERSION"),
        "worker ready in {} ms",
        started.elapsed().as_millis()
    );
    let found = serde_json::json!({ "pid": std::process::id(), "metrics": address });
    let mut state_file = StateFile::new(setup.data_dir.join("worker.json"), &found);
    let mut reloader = Reloader::new(setup);
    notify::ready("delivering");
    let mut watchdog = Watchdog::new();
    loop {
        tokio::select! {
            () = signals.next() => break,
            () = reload_signal.next() => {
                reloader.reload(&runtime.app, None, &mut state_file, "delivering");
            }
            () = watchdog.tick() => watchdog.report(pulse.as_ref()).await,
        }
    }
    drop(state_file);
    tracing::info!("stopping; a second signal stops immediately");
    notify::stopping();
    readiness.store(false, Ordering::Release);
    tokio::select! {
        stopped = Box::pin(runtime.stop()) => stopped,
        // Nothing is lost: other workers take over unfinished work.
        () = signals.next() => Ok(()),
    }
}
