//! The use cases: what the appliance does, one verb a function.
//!
//! This room decides who may do what and puts the rooms below together. It knows no HTTP, no hub
//! and no command line; those bring a [`Caller`] and values, and map [`Error`] once at their border.

pub mod access;
pub mod accounts;
pub mod audit;
pub mod auth;
mod batch_writer;
pub mod books;
mod business_phones;
mod chat_intake;
pub mod clock;
mod connections;
pub mod conversations;
pub mod dead_letters;
mod deletions;
pub mod delivery;
pub mod drain;
pub mod error;
pub mod explain;
pub mod failpoints;
mod figures;
pub mod health;
pub mod import;
pub mod intake;
pub mod jobs;
pub mod ledger;
mod life;
pub mod limits;
pub mod live;
pub mod messages;
pub mod nodes;
mod notices;
pub mod numbers;
pub mod off_loop;
pub mod pages;
mod participants;
mod pending;
pub mod personal;
mod phones;
pub mod probes;
pub mod retention;
pub mod stats;
pub mod supervision;
mod suspects;
pub mod tokens;
pub mod traces;
mod trail;
mod typing;
mod unreached;
mod watchers;

use std::sync::{Arc, atomic::AtomicBool};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use access::Caller;
pub use audit::By;
pub use clock::Clock;
pub use connections::new_node;
pub use error::Error;
pub use live::RuntimeSettings;

pub use crate::store::nodes::Role;

use crate::{
    cache::Cache,
    domain::{NodeId, phone::Region},
    presence::{Delivery, Presence, Registry},
    queue::{LocalQueue, Queue},
    store::Store,
};

/// What the use cases need to know of the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// By which national phone numbers are read.
    pub default_region: Option<Region>,
    /// What may change while the process runs.
    pub live: RuntimeSettings,
    /// Where pages are kept that are read often.
    pub cache: Cache,
    /// Where tests let the process die.
    pub failpoints: failpoints::Failpoints,
    /// Which messages are followed.
    pub traces: traces::Traces,
    /// Where the time comes from.
    pub clock: Clock,
    /// What this process is among those of the installation. A command is nothing: what it sends is
    /// left to those that deliver.
    pub node: Option<nodes::NodeSettings>,
}

/// Shares of the delivering work in one process. Two cores are kept busy by four.
const SHARES: usize = 4;
/// Wake-ups a share holds; what does not fit is found by the sweeper.
const WAKE_UPS: usize = 25_000;

/// How messages get from the process that accepts them to the one that has their recipient.
pub struct Backends {
    /// The name of this process among the others.
    pub node: NodeId,
    /// Who is connected where.
    pub presence: Presence,
    /// Who is woken.
    pub queue: Queue<Arc<Delivery>>,
}

impl Backends {
    /// Everything in this process.
    pub fn embedded(settings: &Settings) -> Backends {
        Backends {
            node: new_node(),
            presence: Presence::Solo(Registry::new(settings.live.limits)),
            queue: Queue::Local(LocalQueue::new(SHARES, WAKE_UPS)),
        }
    }
}

/// The appliance. Cheap to clone.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    node: NodeId,
    store: Store,
    presence: Presence,
    diagnostic_connections: Registry,
    queue: Queue<Arc<Delivery>>,
    intake: intake::Intake,
    chat_intake: chat_intake::ChatIntake,
    ledger: ledger::Ledger,
    audit: audit::AuditLog,
    known_tokens: auth::KnownTokens,
    known_phones: phones::KnownPhones,
    participants: participants::Participants,
    business_phones: business_phones::BusinessPhones,
    trail: trail::Trail,
    limiter: limits::Limiter,
    members: nodes::Members,
    counters: figures::Counters,
    pending_resyncs: unreached::PendingResyncs,
    state: jobs::JobState,
    signals: typing::Signals,
    erasures: personal::Erasures,
    deletions: deletions::Deletions,
    probes: probes::Probes,
    suspects: suspects::KnownSuspects,
    draining: AtomicBool,
    live: live::Reloadable,
    recent_views: watchers::RecentViews,
}

impl App {
    /// Puts together an appliance that is all in this process; see [`App::start_with`].
    pub fn start(
        settings: Settings,
        store: Store,
        tracker: &TaskTracker,
        stop: &CancellationToken,
    ) -> App {
        let ways = Backends::embedded(&settings);
        App::start_with(settings, store, ways, tracker, stop)
    }

    /// Puts the appliance together and starts its writers, which end when `stop` is cancelled
    /// and everything handed to them is written; `tracker` waits for that.
    pub fn start_with(
        settings: Settings,
        store: Store,
        ways: Backends,
        tracker: &TaskTracker,
        stop: &CancellationToken,
    ) -> App {
        let (intake, intake_work) = batch_writer::BatchWriter::new();
        let (chat_intake, chat_work) = batch_writer::BatchWriter::new();
        let (ledger, ledger_work) = ledger::Ledger::new();
        let (audit, audit_work) = batch_writer::BatchWriter::new();
        let live = live::Reloadable::new(settings.live.clone());
        let app = App {
            inner: Arc::new(Inner {
                trail: trail::Trail::new(settings.clock.now()),
                members: nodes::Members::new(settings.clock.now()),
                counters: figures::Counters::new(),
                pending_resyncs: unreached::PendingResyncs::default(),
                limiter: limits::Limiter::new(
                    live.clone(),
                    ways.presence.relay().map(|relay| relay.redis().clone()),
                ),
                state: jobs::JobState::default(),
                signals: typing::Signals::new(),
                erasures: personal::Erasures::default(),
                deletions: deletions::Deletions::default(),
                probes: probes::Probes::new(),
                suspects: suspects::KnownSuspects::default(),
                draining: AtomicBool::new(false),
                live,
                presence: ways.presence,
                diagnostic_connections: Registry::new(settings.live.limits),
                queue: ways.queue,
                settings,
                node: ways.node,
                store,
                intake,
                chat_intake,
                ledger,
                audit,
                known_tokens: auth::KnownTokens::default(),
                known_phones: phones::KnownPhones::default(),
                participants: participants::Participants::default(),
                business_phones: business_phones::BusinessPhones::default(),
                recent_views: watchers::RecentViews::default(),
            }),
        };
        tracker.spawn(intake_work.run(app.clone(), stop.clone()));
        tracker.spawn(chat_work.run(app.clone(), stop.clone()));
        tracker.spawn(ledger_work.run(app.clone(), stop.clone()));
        tracker.spawn(audit_work.run(app.clone(), stop.clone()));
        app
    }

    /// The configuration of the use cases, as the process began with it; see [`App::live`].
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// The name of this process among those of a cluster.
    pub fn node(&self) -> NodeId {
        self.inner.node
    }

    /// Who is connected.
    pub fn presence(&self) -> &Presence {
        &self.inner.presence
    }

    /// Who is connected here without being delivered to.
    pub fn diagnostic_connections(&self) -> &Registry {
        &self.inner.diagnostic_connections
    }

    /// The wake-ups between accepting and delivering.
    pub fn queue(&self) -> &Queue<Arc<Delivery>> {
        &self.inner.queue
    }

    /// Passes a place at which a test may let the process die.
    pub fn failpoint(&self, name: &'static str) {
        self.inner.settings.failpoints.pass(name);
    }

    /// Where pages are kept that are read often.
    pub fn cache(&self) -> &Cache {
        &self.inner.settings.cache
    }

    /// The appliance's clock.
    pub fn clock(&self) -> &Clock {
        &self.inner.settings.clock
    }

    pub(in crate::app) fn store(&self) -> &Store {
        &self.inner.store
    }
}
