//! What every wing uses: the configuration, the database, who is connected, the queue, the audit log.

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    By, Error, audit_log,
    batch_writer::{BatchTask, BatchWriter},
    clock::Clock,
    database_outages::DatabaseOutages,
    failpoints::Failpoints,
    runtime_settings::{Reloadable, RuntimeSettings},
    traces::Traces,
};
use crate::{
    cache::Cache,
    domain::{
        NodeId, Party,
        audit::{AuditAction, AuditEntry},
        phone::Region,
    },
    presence::{Delivery, Presence, Registry},
    queue::{LocalQueue, Queue},
    secrets::KeyStore,
    store::{Client, StatementGroup, Store, nodes::Role},
};

/// Shares of the delivering work in one process. Two cores are kept busy by four.
const SHARES: usize = 4;
/// Wake-ups a share holds; what does not fit is found by the sweeper.
const QUEUE_CAPACITY: usize = 25_000;

/// What the use cases need to know of the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// By which national phone numbers are read.
    pub default_region: Option<Region>,
    /// What may change while the process runs.
    pub runtime: RuntimeSettings,
    /// Where pages are kept that are read often.
    pub cache: Cache,
    /// Where tests let the process die.
    pub failpoints: Failpoints,
    /// Which messages are traced.
    pub traces: Traces,
    /// Where the time comes from.
    pub clock: Clock,
    /// The keys that seal secrets; `None` without a key file, and for commands.
    pub keys: Option<KeyStore>,
    /// Whether one-time codes may be shown on the terminal of this process.
    pub shows_codes: bool,
    /// What this process is in the installation. A command is no member: what it sends is left to those
    /// that deliver.
    pub node: Option<NodeSettings>,
}

/// What this process is, for the others.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    pub role: Role,
    pub host: String,
    /// Where other gateways reach it, such as `http://10.0.0.5:5000`.
    pub address: Option<String>,
    /// Into how many queues the wake-ups are spread; 0 without a broker.
    pub partitions: u16,
}

/// How messages get from the process that accepts them to the one that has their recipient.
pub struct Backends {
    /// The name of this process among the others.
    pub node: NodeId,
    pub presence: Presence,
    /// The wake-ups between accepting and delivering.
    pub queue: Queue<Arc<Delivery>>,
}

impl Backends {
    /// Everything in this process.
    pub fn embedded(settings: &Settings) -> Backends {
        Backends {
            node: new_node(),
            presence: Presence::Solo(Registry::new(settings.runtime.limits)),
            queue: Queue::Local(LocalQueue::new(SHARES, QUEUE_CAPACITY)),
        }
    }
}

/// A name that no other process has.
pub fn new_node() -> NodeId {
    uuid::Uuid::new_v4().as_u64_pair().1.to_be_bytes().into()
}

/// What all wings share. Cheap to clone.
#[derive(Clone)]
pub struct Core {
    state: Arc<State>,
}

struct State {
    settings: Settings,
    node: NodeId,
    store: Store,
    presence: Presence,
    diagnostic_connections: Registry,
    queue: Queue<Arc<Delivery>>,
    runtime: Reloadable,
    audit: audit_log::AuditWriter,
    outages: DatabaseOutages,
}

/// The writer of the audit log.
pub struct CoreTasks {
    audit: BatchTask<audit_log::EntryBatch>,
    core: Core,
}

impl CoreTasks {
    /// Starts it. It ends when `stop` is cancelled and everything handed to it is written.
    pub(super) fn spawn(self, tracker: &TaskTracker, stop: &CancellationToken) {
        let batch = audit_log::EntryBatch::new(self.core.store().clone());
        tracker.spawn(self.audit.run(self.core.outages().clone(), batch, stop.clone()));
    }
}

impl Core {
    pub(super) fn new(settings: Settings, store: Store, backends: Backends) -> (Core, CoreTasks) {
        let (audit, task) = BatchWriter::new();
        let Backends { node, presence, queue } = backends;
        let state = State {
            node,
            store,
            presence,
            diagnostic_connections: Registry::new(settings.runtime.limits),
            queue,
            runtime: Reloadable::new(settings.runtime.clone()),
            audit,
            outages: DatabaseOutages::new(settings.clock.clone()),
            settings,
        };
        let core = Core { state: Arc::new(state) };
        (core.clone(), CoreTasks { audit: task, core })
    }

    /// The configuration as the process began with it; see [`Core::runtime_settings`].
    pub fn settings(&self) -> &Settings {
        &self.state.settings
    }

    /// What is in effect now of the settings that may change. To be asked once for a batch.
    pub fn runtime_settings(&self) -> Arc<RuntimeSettings> {
        self.state.runtime.get()
    }

    pub(super) fn reloadable(&self) -> &Reloadable {
        &self.state.runtime
    }

    /// The name of this process among those of a cluster.
    pub fn node(&self) -> NodeId {
        self.state.node
    }

    pub fn presence(&self) -> &Presence {
        &self.state.presence
    }

    /// Connections to the diagnostic hub: nothing is delivered to them.
    pub fn diagnostic_connections(&self) -> &Registry {
        &self.state.diagnostic_connections
    }

    /// The wake-ups between accepting and delivering.
    pub fn queue(&self) -> &Queue<Arc<Delivery>> {
        &self.state.queue
    }

    /// Passes a place at which a test may let the process die.
    pub fn failpoint(&self, name: &'static str) {
        self.state.settings.failpoints.pass(name);
    }

    /// Where pages are kept that are read often.
    pub fn cache(&self) -> &Cache {
        &self.state.settings.cache
    }

    pub fn clock(&self) -> &Clock {
        &self.state.settings.clock
    }

    pub fn keys(&self) -> Option<&KeyStore> {
        self.state.settings.keys.as_ref()
    }

    pub(super) fn store(&self) -> &Store {
        &self.state.store
    }

    pub(super) fn outages(&self) -> &DatabaseOutages {
        &self.state.outages
    }

    /// What is being done, to be completed and recorded.
    pub(super) fn entry(&self, by: &By, action: AuditAction) -> AuditEntry {
        by.entry(action, self.clock().now())
    }

    /// Records what changes nothing else, and waits until that is durable: what was read may be handed
    /// out only then.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when too much waits; failures of the database.
    pub(super) async fn record(&self, entry: AuditEntry) -> Result<(), Error> {
        self.state.audit.write(entry).await
    }

    /// Records how something ended that was asked for: as it is if it was done, else that it was not
    /// found or was refused.
    ///
    /// # Errors
    /// Those of what was done, and of [`Core::record`].
    pub(super) async fn record_end<T>(
        &self,
        entry: AuditEntry,
        done: Result<T, Error>,
    ) -> Result<T, Error> {
        let Some(outcome) = audit_log::outcome_of(&done) else { return done };
        let recorded = self.record(entry.ended(outcome)).await;
        // Its own failure tells more than that of the record.
        let done = done?;
        recorded.map(|()| done)
    }

    /// A connection for what a party does with its conversations.
    pub(super) async fn conversations_client(&self, party: &Party) -> Result<Client, Error> {
        Ok(self.store().of(party).client_for(StatementGroup::Conversations).await?)
    }
}
