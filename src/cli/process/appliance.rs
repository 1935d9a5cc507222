//! The whole appliance in this process: its parts are started in the order in which they need each other, and
//! stopped in reverse.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{net::TcpListener, sync::mpsc};

use super::{
    backends,
    database::{self, OpenDatabase},
    gateways, keys,
    task_group::TaskGroup,
};
use crate::{
    app::{App, Backends, Role, traces::Traces},
    cache::Cache,
    cli::{
        io::exit::{ExitStatus, Failure},
        privilege,
        setup::Setup,
    },
    config::Config,
    server::{
        Readiness,
        admin_access::{AdminAccess, Surface},
        connection_limits::ConnectionLimits,
        cors::Cors,
        hub::{Hub, HubOptions},
        listen::{self, ListenOptions},
        liveness::LivenessProbe,
        peer::TrustedProxies,
        pipeline::{self, RequestPipeline},
        realtime_check::RealtimeCheck,
        tls::Tls,
    },
    store::embedded::Purpose,
    telemetry::{
        metrics::Recorder,
        notify,
        traces::{self, TraceExporter, TraceResource},
    },
    worker,
};

/// An id this far ahead of the clock was made by a wrong clock.
const CLOCK_SKEW_WARNING: Duration = Duration::from_secs(5);
/// Between two compactions of the histograms.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// For each group of tasks at a shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

pub(crate) struct Appliance {
    pub(crate) app: App,
    /// Address of the API and the hub.
    pub(crate) http: SocketAddr,
    /// Address of health and metrics.
    pub(crate) metrics: Option<SocketAddr>,
    /// Address of the admin API, if it has a listener of its own.
    pub(crate) admin: Option<SocketAddr>,
    runtime: Runtime,
    readiness: Readiness,
    frontend: TaskGroup,
    stop_timeout: Duration,
    started: Instant,
    pulse: LivenessProbe,
    tls: Option<Tls>,
}

/// The use cases and the background work of a process, without its listeners.
pub(crate) struct Runtime {
    pub(crate) app: App,
    store: OpenDatabase,
    /// The consumer of the broker.
    consuming: TaskGroup,
    pub(crate) work: TaskGroup,
    writers: TaskGroup,
    /// Connections to the broker and Redis.
    connections: TaskGroup,
    /// The exporter of traces.
    traces: TaskGroup,
}

impl Runtime {
    /// Starts over an open database, and closes it if that fails. `address` is where
    /// other gateways reach this one.
    pub(crate) async fn start(
        setup: &Setup,
        mut store: OpenDatabase,
        role: Role,
        address: Option<String>,
    ) -> Result<Runtime, Failure> {
        let replicas = store.replicas.take();
        let (consuming, work) = (TaskGroup::default(), TaskGroup::default());
        let (writers, connections, traces) =
            (TaskGroup::default(), TaskGroup::default(), TaskGroup::default());
        let config = &setup.loaded.config;
        let start = async {
            prepare(&store).await?;
            let mut settings = database::settings(config, Some(role))?;
            settings.keys = keys::open(setup, &store).await?;
            if let Some(node) = &mut settings.node {
                node.address = address;
            }
            let backends =
                backends::backends(config, &settings, &store.store, &connections).await?;
            if let Some(relay) = backends.presence.relay() {
                settings.cache = Cache::Redis(relay.redis().clone());
            }
            settings.traces = start_tracing(config, &backends, role, &traces)?;
            let (database, writers) = (store.store.clone(), &writers);
            let app =
                App::start_with(settings, database, backends, &writers.tracker, &writers.stop);
            let ahead = app.process.begin_ids().await?;
            if ahead > CLOCK_SKEW_WARNING {
                tracing::warn!(
                    seconds = ahead.as_secs(),
                    "the newest stored id is ahead of this machine's clock: new ids start after it; \
                     check the clocks: esh3ar doctor"
                );
            }
            // Before anything needs the other processes.
            app.process.heartbeat().await?;
            app.identity.clear_plain_secrets().await?;
            let consumer = match (backends::broker(config)?, role) {
                (Some(broker), Role::Worker) => Some(backends::consumer(&app, &broker, &consuming)),
                _ => None,
            };
            // A worker answers no lists.
            if let Some(replicas) = replicas.filter(|_| role != Role::Worker) {
                replicas.start(&work.tracker, &work.stop);
            }
            worker::start(&app, role, consumer.as_ref(), &work.tracker, &work.stop);
            Ok(app)
        };
        match start.await {
            Ok(app) => Ok(Runtime { app, store, consuming, work, writers, connections, traces }),
            Err(failure) => {
                let _ = store.close().await;
                Err(failure)
            }
        }
    }

    /// Finishes and writes what is in flight, deregisters the process, and closes the database last.
    pub(crate) async fn stop(self) -> Result<(), Failure> {
        if tokio::time::timeout(SHUTDOWN_GRACE, self.app.admin.finish_erasures()).await.is_err() {
            tracing::warn!(
                "an erasure was interrupted by the shutdown; running it again resumes it"
            );
        }
        self.consuming.end(SHUTDOWN_GRACE, "the broker's consumer").await;
        self.work.end(SHUTDOWN_GRACE, "workers").await;
        self.writers.end(SHUTDOWN_GRACE, "writers").await;
        self.connections.end(SHUTDOWN_GRACE, "connections to the broker and Redis").await;
        // It ends by itself within two seconds.
        self.traces.end(SHUTDOWN_GRACE, "traces").await;
        if let Err(error) = self.app.process.record_stopped().await {
            tracing::warn!(%error, "the shutdown could not be recorded");
        }
        if let Err(error) = self.app.process.deregister().await {
            tracing::warn!(%error, "the process could not be deregistered");
        }
        drop(self.app);
        self.store.close().await
    }

    /// Serves health and metrics until the end of a shutdown, so that it can be observed.
    pub(crate) fn serve_metrics(
        &self,
        listener: TcpListener,
        readiness: &Readiness,
        recorder: &Recorder,
        grace: Duration,
        pulse: LivenessProbe,
    ) {
        let (app, readiness, recorder) =
            (self.app.clone(), Arc::clone(readiness), recorder.clone());
        let service = move |request, _| {
            let render = recorder.clone();
            let render = Arc::new(move || render.render());
            pipeline::machine_page(app.clone(), Arc::clone(&readiness), render, request)
        };
        let header_timeout = Duration::from_secs(10);
        let listening = ListenOptions {
            name: "metrics",
            limits: ConnectionLimits::anonymous(100),
            header_timeout,
            write_timeout: Duration::from_secs(30),
            tls: None,
            proxies: TrustedProxies::default(),
            grace,
            liveness: pulse,
        };
        let stop = self.work.stop.clone();
        self.work.tracker.spawn(listen::serve(listener, listening, service, stop));
    }
}

pub(crate) async fn bind(
    address: SocketAddr,
    key: &str,
) -> Result<(TcpListener, SocketAddr), Failure> {
    let failed = |error: std::io::Error| {
        let what = format!("cannot listen on {address}: {error}");
        Failure::new(ExitStatus::Failed, what)
            .hint(format!("choose another {key}, or stop what uses it"))
    };
    let listener = listen::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

impl Appliance {
    /// Starts everything; when this returns, requests are answered.
    pub(crate) async fn start(setup: &Setup, recorder: Recorder) -> Result<Appliance, Failure> {
        let started = Instant::now();
        let config = &setup.loaded.config;
        // The addresses first: a port in use should fail before a database is started.
        let (listener, http) = bind(config.http.listen, "http.listen").await?;
        let metrics_listener = match config.metrics.listen {
            Some(address) => Some(bind(address, "metrics.listen").await?),
            None => None,
        };
        let admin_listener = match config.admin.listen {
            Some(address) => Some(bind(address, "admin.listen").await?),
            None => None,
        };
        let tls = match config.http.tls() {
            Some((cert, key)) => Some(Tls::load(cert, key).map_err(|error| {
                Failure::new(ExitStatus::Config, error.to_string())
                    .hint("check http.tls_cert and http.tls_key")
            })?),
            None => None,
        };
        // Loading the rules of phone numbers takes a moment; the first request should not wait for it.
        let warm = tokio::task::spawn_blocking(|| {
            let _ = crate::domain::Phone::parse("+967771234567", None);
        });
        let store = database::open_database(setup, Purpose::Serve).await?;
        let _ = warm.await;
        let role = if config.queue.url.is_some() { Role::Gateway } else { Role::Serve };
        let runtime = Runtime::start(setup, store, role, config.reachable_at(http)).await?;
        let app = runtime.app.clone();
        let secret = match app.identity.connection_secret().await {
            Ok(secret) => secret,
            Err(error) => {
                drop(app);
                let _ = runtime.stop().await;
                return Err(error.into());
            }
        };
        let frontend = TaskGroup::default();
        let readiness: Readiness = Arc::new(AtomicBool::new(true));
        let proxies = TrustedProxies::new(&config.http.trusted_proxies);
        let listening = ListenOptions {
            name: "http",
            limits: ConnectionLimits::new(
                config.http.max_connections,
                config.http.max_unauthenticated_per_address,
                config.http.max_connections_per_party,
            ),
            header_timeout: config.http.header_timeout,
            write_timeout: config.http.write_timeout,
            tls: tls.clone(),
            proxies: proxies.clone(),
            grace: config.http.stop_timeout,
            liveness: LivenessProbe::default(),
        };
        let pulse = listening.liveness.clone();
        let options = HubOptions {
            max_connections: config.http.max_connections,
            diagnostics: config.http.diagnostics_hub,
            node: app.node(),
            secret,
        };
        let hub = Hub::new(app.clone(), &options, frontend.stop.clone(), frontend.tracker.clone());
        let surface = if admin_listener.is_some() { Surface::WithoutAdmin } else { Surface::Whole };
        let access = AdminAccess::new(surface, &config.admin.networks);
        let cors = Cors::new(&config.http.cors_origins, tls.is_some());
        let gate =
            RequestPipeline::new(app.clone(), hub, Arc::clone(&readiness), proxies, access, cors);
        let admin = admin_listener.as_ref().map(|(_, address)| *address);
        if let Some((listener, _)) = admin_listener {
            let gate = gate.for_admin();
            let service = move |request, peer| gate.clone().handle(request, peer);
            let listening = ListenOptions {
                name: "admin",
                liveness: LivenessProbe::default(),
                ..listening.clone()
            };
            let stop = frontend.stop.clone();
            frontend.tracker.spawn(listen::serve(listener, listening, service, stop));
        }
        let service = move |request, peer| gate.clone().handle(request, peer);
        frontend.tracker.spawn(listen::serve(listener, listening, service, frontend.stop.clone()));
        let probe = RealtimeCheck::new(app.clone(), http, tls.is_some());
        probe.check().await;
        frontend.tracker.spawn(probe.run(frontend.stop.clone()));
        if let Some(tls) = &tls {
            frontend.tracker.spawn(tls.clone().watch(frontend.stop.clone()));
        }
        let metrics = metrics_listener.as_ref().map(|(_, address)| *address);
        if let Some((listener, _)) = metrics_listener {
            let grace = config.http.stop_timeout;
            runtime.serve_metrics(listener, &readiness, &recorder, grace, LivenessProbe::default());
        }
        spawn_upkeep(&runtime.work, recorder);
        Ok(Appliance {
            app,
            http,
            metrics,
            admin,
            runtime,
            readiness,
            frontend,
            stop_timeout: config.http.stop_timeout,
            started,
            pulse,
            tls,
        })
    }

    /// When the start began.
    pub(crate) fn started_at(&self) -> Instant {
        self.started
    }

    /// Of the loop that accepts connections.
    pub(crate) fn pulse(&self) -> &LivenessProbe {
        &self.pulse
    }

    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Resolves when the embedded database has exited, with its exit status; never otherwise.
    pub(crate) async fn database_died(&mut self) -> String {
        match self.runtime.store.embedded() {
            Some(embedded) => embedded.died().await,
            None => std::future::pending().await,
        }
    }

    /// Stops in order: no new requests, sockets asked to reconnect, what is in flight finished and
    /// written, the database last.
    pub(crate) async fn stop(self) -> Result<(), Failure> {
        notify::stopping();
        self.readiness.store(false, Ordering::Release);
        self.frontend.end(self.stop_timeout, "requests and sockets").await;
        drop(self.app);
        self.runtime.stop().await
    }
}

/// Starts tracing, if it is configured.
fn start_tracing(
    config: &Config,
    backends: &Backends,
    role: Role,
    group: &TaskGroup,
) -> Result<Traces, Failure> {
    let Some(endpoint) = &config.traces.endpoint else { return Ok(Traces::Off) };
    let node = backends.node.to_string();
    let teller = TraceResource { node, role: role.name(), host: privilege::host() };
    let extra_roots = gateways::extra_roots(config)?;
    let collector = TraceExporter::new(endpoint, teller, extra_roots).map_err(|error| {
        Failure::new(ExitStatus::Config, error.to_string()).hint("check traces.endpoint")
    })?;
    let (steps, waiting) = mpsc::channel(traces::QUEUE_CAPACITY);
    group.tracker.spawn(collector.run(waiting, group.stop.clone()));
    Ok(Traces::On { sample: config.traces.sample, steps })
}

async fn prepare(store: &OpenDatabase) -> Result<(), Failure> {
    store.prepare_schema(true).await?;
    let faults = store.store.durability_faults().await?;
    if faults.is_empty() {
        return Ok(());
    }
    let what = format!("Postgres could lose accepted messages: {}", faults.join(", "));
    Err(Failure::new(ExitStatus::Config, what).hint("set these to on in postgresql.conf"))
}

/// Compacts the histograms regularly.
pub(crate) fn spawn_upkeep(group: &TaskGroup, recorder: Recorder) {
    let stop = group.stop.clone();
    group.tracker.spawn(async move {
        loop {
            recorder.upkeep();
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(UPKEEP_INTERVAL) => {}
            }
        }
    });
}
