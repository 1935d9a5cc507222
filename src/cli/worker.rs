//! `worker`: delivers what gateways accept, until it is told to stop.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use super::{
    Setup,
    appliance::{Works, bind, keep_up},
    cluster,
    exit::{Failure, Kind},
    opened,
    privilege::Given,
    reload::Announcement,
    serve::StopSignals,
    service::{Hangups, Reloads, Watchdog},
    spec::{LogLevel, Privilege, Run, Running, Spec},
};
use crate::{
    app::Role,
    server::{Readiness, liveness::LivenessProbe},
    store::embedded::Purpose,
    telemetry::{metrics, notify},
};

/// The command has no arguments.
pub(super) struct Worker;

impl Run for Worker {
    fn spec(&self) -> Spec {
        Spec {
            name: "worker",
            privilege: Privilege::Service,
            log: LogLevel::Configured,
            ..Spec::LOCAL
        }
    }

    fn run(self: Box<Self>, setup: &Setup, _files: Given) -> Running<'_> {
        Box::pin(run(setup))
    }
}

async fn run(setup: &Setup) -> Result<(), Failure> {
    let config = &setup.loaded.config;
    if cluster::broker(config)?.is_none() {
        let what = "a worker takes its work from RabbitMQ, and queue.url is not set";
        let hint =
            "set queue.url, or run esh3ar serve alone: without a broker it delivers by itself";
        return Err(Failure::new(Kind::Config, what).hint(hint));
    }
    let began = Instant::now();
    let mut signals = StopSignals::listen()?;
    let mut hangups = Hangups::listen()?;
    let recorder =
        metrics::install().map_err(|error| Failure::new(Kind::Failed, error.to_string()))?;
    let machines = match config.metrics.listen {
        Some(address) => Some(bind(address, "metrics.listen").await?),
        None => None,
    };
    let start = async {
        let store = opened::open_store(setup, Purpose::Serve).await?;
        Works::start(setup, store, Role::Worker, None).await
    };
    let works = tokio::select! {
        started = Box::pin(start) => started?,
        () = signals.next() => return Ok(()),
    };
    let readiness: Readiness = Arc::new(AtomicBool::new(true));
    let address = machines.as_ref().map(|(_, address)| address.to_string());
    // Of the page for machines, if there is one: a worker accepts nothing else.
    let pulse = machines.is_some().then(LivenessProbe::default);
    if let (Some((listener, _)), Some(pulse)) = (machines, &pulse) {
        works.watch(listener, &readiness, &recorder, config.http.stop_timeout, pulse.clone());
    }
    keep_up(&works.work, recorder);
    tracing::info!(
        metrics = address.as_deref(),
        version = env!("CARGO_PKG_VERSION"),
        "a worker, ready in {} ms",
        began.elapsed().as_millis()
    );
    let found = serde_json::json!({ "pid": std::process::id(), "metrics": address });
    let mut whereabouts = Announcement::new(setup.data_dir.join("worker.json"), &found);
    let mut reloads = Reloads::new(setup);
    notify::ready("delivering");
    let mut watchdog = Watchdog::new();
    loop {
        tokio::select! {
            () = signals.next() => break,
            () = hangups.next() => {
                reloads.reload(&works.app, None, &mut whereabouts, "delivering");
            }
            () = watchdog.due() => watchdog.look(pulse.as_ref()).await,
        }
    }
    drop(whereabouts);
    tracing::info!("stopping; a second signal stops at once");
    notify::stopping();
    readiness.store(false, Ordering::Release);
    tokio::select! {
        stopped = Box::pin(works.stop()) => stopped,
        // Nothing is lost by this: what was not finished is taken by others.
        () = signals.next() => Ok(()),
    }
}
