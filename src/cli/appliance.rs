//! The whole appliance in this process: started in the order in which its parts need each other,
//! stopped in the reverse.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Setup, cluster,
    exit::{Failure, Kind},
    opened::{self, OpenedStore},
    privilege,
};
use crate::{
    app::{App, Role, Ways, traces::Traces},
    cache::Cache,
    config::Config,
    server::{
        Readiness,
        connection_limits::ConnectionLimits,
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
        traces::{self, Collector, Teller},
    },
    worker,
};

/// An id that lies this far ahead of the clock was not made by one that is right.
const SKEW_TOLD: Duration = Duration::from_secs(5);
/// How often histograms are kept small.
const UPKEEP: Duration = Duration::from_secs(5);
/// How long the last writes of a stop may take.
const LAST_WRITES: Duration = Duration::from_secs(10);

/// The running appliance.
pub struct Appliance {
    /// Its use cases.
    pub app: App,
    /// Where the API and the hub listen.
    pub http: SocketAddr,
    /// Where the page for machines listens.
    pub metrics: Option<SocketAddr>,
    works: Works,
    readiness: Readiness,
    front: Part,
    stop_timeout: Duration,
    began: Instant,
    pulse: LivenessProbe,
    tls: Option<Tls>,
}

/// Tasks that are stopped together.
#[derive(Clone, Default)]
pub(super) struct Part {
    pub(super) stop: CancellationToken,
    pub(super) tracker: TaskTracker,
}

impl Part {
    pub(super) async fn end(&self, patience: Duration, what: &str) {
        self.stop.cancel();
        self.tracker.close();
        if tokio::time::timeout(patience, self.tracker.wait()).await.is_err() {
            tracing::warn!(left = self.tracker.len(), what, "a part did not end in time");
        }
    }
}

/// The use cases and what works by itself: all of a process but its borders.
pub(super) struct Works {
    pub(super) app: App,
    store: OpenedStore,
    /// Comes from the broker.
    taking: Part,
    pub(super) work: Part,
    writers: Part,
    /// To the other processes.
    ways: Part,
    /// To the collector of traces.
    traces: Part,
}

impl Works {
    /// Starts them over an open database, which is closed again if they cannot be. `address` is where
    /// other gateways reach this one.
    pub(super) async fn start(
        setup: &Setup,
        mut store: OpenedStore,
        role: Role,
        address: Option<String>,
    ) -> Result<Works, Failure> {
        let replicas = store.replicas.take();
        let (taking, work) = (Part::default(), Part::default());
        let (writers, ways, traces) = (Part::default(), Part::default(), Part::default());
        let config = &setup.loaded.config;
        let begun = async {
            prepare(&store).await?;
            let mut settings = opened::settings(config, Some(role))?;
            if let Some(node) = &mut settings.node {
                node.address = address;
            }
            let to_others = cluster::ways(config, &settings, &ways).await?;
            if let Some(relay) = to_others.presence.relay() {
                settings.cache = Cache::Redis(relay.redis().clone());
            }
            settings.traces = follow(config, &to_others, role, &traces)?;
            let (database, writers) = (store.store.clone(), &writers);
            let app =
                App::start_with(settings, database, to_others, &writers.tracker, &writers.stop);
            let ahead = app.begin_ids().await?;
            if ahead > SKEW_TOLD {
                tracing::warn!(
                    seconds = ahead.as_secs(),
                    "the newest that is stored was made by a clock that is ahead of this machine's: new \
                     ids begin after it; see that the clocks are right: esh3ar doctor"
                );
            }
            // Before anybody asks for the others.
            app.greet().await?;
            let consumer = match (cluster::broker(config)?, role) {
                (Some(broker), Role::Worker) => Some(cluster::consumer(&app, &broker, &taking)),
                _ => None,
            };
            // A worker gives no lists.
            if let Some(replicas) = replicas.filter(|_| role != Role::Worker) {
                replicas.start(&work.tracker, &work.stop);
            }
            worker::start(&app, role, consumer.as_ref(), &work.tracker, &work.stop);
            Ok(app)
        };
        match begun.await {
            Ok(app) => Ok(Works { app, store, taking, work, writers, ways, traces }),
            Err(failure) => {
                let _ = store.close().await;
                Err(failure)
            }
        }
    }

    /// What is in hand is finished and written, the others are told, the database is closed last.
    pub(super) async fn stop(self) -> Result<(), Failure> {
        if tokio::time::timeout(LAST_WRITES, self.app.last_erasures()).await.is_err() {
            tracing::warn!("an erasure was cut off by the stop; the same again goes on");
        }
        self.taking.end(LAST_WRITES, "the broker's work").await;
        self.work.end(LAST_WRITES, "workers").await;
        self.writers.end(LAST_WRITES, "writers").await;
        self.ways.end(LAST_WRITES, "ways to other processes").await;
        // It ends by itself in two seconds.
        self.traces.end(LAST_WRITES, "traces").await;
        if let Err(error) = self.app.note_stopped().await {
            tracing::warn!(%error, "the stop could not be noted");
        }
        if let Err(error) = self.app.take_leave().await {
            tracing::warn!(%error, "the others could not be told");
        }
        drop(self.app);
        self.store.close().await
    }

    /// Serves the page for machines, until the very end: a stop is what one wants to watch.
    pub(super) fn watch(
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

pub(super) async fn bind(
    address: SocketAddr,
    key: &str,
) -> Result<(TcpListener, SocketAddr), Failure> {
    let failed = |error: std::io::Error| {
        let what = format!("cannot listen on {address}: {error}");
        Failure::new(Kind::Failed, what).hint(format!("choose another {key}, or stop what uses it"))
    };
    let listener = listen::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

impl Appliance {
    /// Starts everything; when this returns, requests are answered.
    ///
    /// # Errors
    /// What cannot be had, and what to do about it.
    pub async fn start(setup: &Setup, recorder: Recorder) -> Result<Appliance, Failure> {
        let began = Instant::now();
        let config = &setup.loaded.config;
        // The addresses first: a taken port should be told before a database is started.
        let (listener, http) = bind(config.http.listen, "http.listen").await?;
        let machines = match config.metrics.listen {
            Some(address) => Some(bind(address, "metrics.listen").await?),
            None => None,
        };
        let tls = match config.http.tls() {
            Some((cert, key)) => Some(Tls::load(cert, key).map_err(|error| {
                Failure::new(Kind::Config, error.to_string())
                    .hint("check http.tls_cert and http.tls_key")
            })?),
            None => None,
        };
        // Reading the phone numbers' rules takes a moment that no first request should wait for.
        let warm = tokio::task::spawn_blocking(|| {
            let _ = crate::domain::Phone::parse("+967771234567", None);
        });
        let store = opened::open_store(setup, Purpose::Serve).await?;
        let _ = warm.await;
        let role = if config.queue.url.is_some() { Role::Gateway } else { Role::Serve };
        let works = Works::start(setup, store, role, config.reachable_at(http)).await?;
        let app = works.app.clone();
        let secret = match app.connection_secret().await {
            Ok(secret) => secret,
            Err(error) => {
                drop(app);
                let _ = works.stop().await;
                return Err(error.into());
            }
        };
        let front = Part::default();
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
        let hub = Hub::new(app.clone(), &options, front.stop.clone(), front.tracker.clone());
        let gate = RequestPipeline::new(app.clone(), hub, Arc::clone(&readiness), proxies);
        let service = move |request, peer| gate.clone().handle(request, peer);
        front.tracker.spawn(listen::serve(listener, listening, service, front.stop.clone()));
        let probe = RealtimeCheck::new(app.clone(), http, tls.is_some());
        probe.check().await;
        front.tracker.spawn(probe.run(front.stop.clone()));
        if let Some(tls) = &tls {
            front.tracker.spawn(tls.clone().watch(front.stop.clone()));
        }
        let metrics = machines.as_ref().map(|(_, address)| *address);
        if let Some((listener, _)) = machines {
            let grace = config.http.stop_timeout;
            works.watch(listener, &readiness, &recorder, grace, LivenessProbe::default());
        }
        keep_up(&works.work, recorder);
        Ok(Appliance {
            app,
            http,
            metrics,
            works,
            readiness,
            front,
            stop_timeout: config.http.stop_timeout,
            began,
            pulse,
            tls,
        })
    }

    /// How long the start took.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// The pulse of the loop that accepts connections.
    pub fn pulse(&self) -> &LivenessProbe {
        &self.pulse
    }

    /// The gateway's own TLS.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Resolves when the private database has ended by itself, with how; never otherwise.
    pub async fn database_died(&mut self) -> String {
        match self.works.store.embedded() {
            Some(embedded) => embedded.died().await,
            None => std::future::pending().await,
        }
    }

    /// Stops in order: no new requests, sockets told to come back, what is in hand finished and
    /// written, the database last.
    ///
    /// # Errors
    /// The database cannot be stopped.
    pub async fn stop(self) -> Result<(), Failure> {
        notify::stopping();
        self.readiness.store(false, Ordering::Release);
        self.front.end(self.stop_timeout, "requests and sockets").await;
        drop(self.app);
        self.works.stop().await
    }
}

/// Follows messages, if the configuration says so.
fn follow(config: &Config, ways: &Ways, role: Role, part: &Part) -> Result<Traces, Failure> {
    let Some(endpoint) = &config.traces.endpoint else { return Ok(Traces::Off) };
    let node = ways.node.to_string();
    let teller = Teller { node, role: role.name(), host: privilege::host() };
    let collector = Collector::new(endpoint, teller).map_err(|error| {
        Failure::new(Kind::Config, error.to_string()).hint("check traces.endpoint")
    })?;
    let (steps, waiting) = mpsc::channel(traces::WAITING);
    part.tracker.spawn(collector.run(waiting, part.stop.clone()));
    Ok(Traces::On { sample: config.traces.sample, steps })
}

async fn prepare(store: &OpenedStore) -> Result<(), Failure> {
    store.prepare_schema(true).await?;
    let faults = store.store.durability_faults().await?;
    if faults.is_empty() {
        return Ok(());
    }
    let what = format!("Postgres could lose answered messages: {}", faults.join(", "));
    Err(Failure::new(Kind::Config, what).hint("set these to on in postgresql.conf"))
}

/// Keeps histograms small.
pub(super) fn keep_up(part: &Part, recorder: Recorder) {
    let stop = part.stop.clone();
    part.tracker.spawn(async move {
        loop {
            recorder.upkeep();
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(UPKEEP) => {}
            }
        }
    });
}
