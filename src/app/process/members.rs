//! The processes of the installation: this one sends its heartbeat and reads those of the others.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use time::OffsetDateTime;
use tokio::sync::{Semaphore, watch};

use super::ProcessService;
use crate::app::Error;
use crate::{
    domain::{NodeId, partitions},
    store::{
        self, StatementGroup,
        nodes::{self, Node, Role},
    },
};

/// What is known of the others.
pub(in crate::app) struct Members {
    started_at: OffsetDateTime,
    addresses: Mutex<Addresses>,
    /// Who looks for one that is not known.
    looking: Semaphore,
    led: watch::Sender<Vec<u16>>,
}

/// Where the others can be reached, and when that was last looked up.
#[derive(Default)]
struct Addresses {
    known: HashMap<NodeId, String>,
    looked: Option<Instant>,
}

/// How long a look is enough for all who ask for a process that is not known.
const LOOK_UP_INTERVAL: Duration = Duration::from_millis(200);

impl Members {
    fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::app) fn new(started_at: OffsetDateTime) -> Members {
        let (led, _) = watch::channel(Vec::new());
        Members { started_at, addresses: Mutex::default(), looking: Semaphore::new(1), led }
    }
}

impl ProcessService {
    /// Writes this process's heartbeat and reads those of the others. A command has none.
    ///
    /// # Errors
    /// Failures of the database; what was known stays.
    pub async fn heartbeat(&self) -> Result<(), Error> {
        let Some(settings) = &self.core.settings().node else { return Ok(()) };
        let members = &self.state.members;
        let led = members.led.borrow().clone();
        let node = Node {
            id: self.core.node(),
            role: settings.role,
            host: settings.host.clone(),
            pid: i32::try_from(std::process::id()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            address: settings.address.clone(),
            partitions: led.iter().filter_map(|led| i16::try_from(*led).ok()).collect(),
            draining: self.is_draining(),
            drain_asked: None,
            figures: self.figures(),
            started_at: members.started_at,
        };
        let client =
            self.noticing_database(self.core.store().client_for(StatementGroup::Nodes)).await?;
        let asked = Instant::now();
        let wish = self.noticing_database(nodes::record_heartbeat(&client, &node)).await?;
        self.record_database(Ok(asked.elapsed()));
        if let Some(draining) = wish {
            self.set_draining(draining);
            nodes::drain_applied(&client, self.core.node(), draining).await?;
            // The process that asked for it reads this row.
            nodes::record_heartbeat(&client, &Node { draining, ..node }).await?;
        }
        let asked = Instant::now();
        let living = nodes::live(&client).await?;
        if settings.role == Role::Worker {
            let workers: Vec<NodeId> = living
                .iter()
                .filter(|node| node.role == Role::Worker)
                .map(|node| node.id)
                .collect();
            let mine = partitions::led_by(self.core.node(), &workers, settings.partitions);
            members.led.send_if_modified(|led| {
                let moved = *led != mine;
                if moved {
                    tracing::info!(workers = workers.len(), queues = ?mine, "leads other queues");
                    *led = mine;
                }
                moved
            });
        }
        self.learn(asked, living);
        Ok(())
    }

    /// Remembers for monitoring that the database could not be reached.
    async fn noticing_database<T>(
        &self,
        work: impl Future<Output = Result<T, store::Error>>,
    ) -> Result<T, Error> {
        let result = work.await;
        if let Err(error) = &result {
            self.record_database(Err(error.to_string()));
        }
        Ok(result?)
    }

    fn learn(&self, asked: Instant, living: Vec<Node>) {
        if let Some(relay) = self.core.presence().relay() {
            let others = living.iter().filter(|node| node.role != Role::Worker);
            let others = others.map(|node| node.id).filter(|id| *id != self.core.node());
            relay.set_gateways(others.collect());
        }
        let own = self.core.settings().node.as_ref().and_then(|node| node.address.as_ref());
        let known = living
            .into_iter()
            .filter(|node| node.id != self.core.node())
            .filter_map(|node| Some((node.id, node.address?)))
            // What was at our address before us is gone, whatever is still told of it.
            .filter(|(_, address)| Some(address) != own)
            .collect();
        *self.state.members.addresses() = Addresses { known, looked: Some(asked) };
    }

    /// Removes this process from the members of the installation.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn deregister(&self) -> Result<(), Error> {
        let client = self.core.store().client_for(StatementGroup::Nodes).await?;
        Ok(nodes::deregister(&client, self.core.node()).await?)
    }

    /// Where another process of the installation can be reached.
    pub fn address_of(&self, node: NodeId) -> Option<String> {
        self.state.members.addresses().known.get(&node).cloned()
    }

    /// The same; looks again for one that is not known, because it may be younger than the last look.
    pub async fn find_address(&self, node: NodeId) -> Option<String> {
        let members = &self.state.members;
        let asked = Instant::now();
        if let Some(known) = self.address_of(node) {
            return Some(known);
        }
        // One looks for all: when a process has died, all its clients ask for it.
        let _turn = members.looking.acquire().await.ok()?;
        let looked = members.addresses().looked;
        if looked.is_none_or(|looked| looked < asked) {
            if let Some(looked) = looked {
                tokio::time::sleep_until((looked + LOOK_UP_INTERVAL).into()).await;
            }
            let began = Instant::now();
            let client = self.core.store().client_for(StatementGroup::Nodes).await.ok()?;
            self.learn(began, nodes::live(&client).await.ok()?);
        }
        self.address_of(node)
    }

    /// The processes that live, oldest first.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn living_nodes(&self) -> Result<Vec<Node>, Error> {
        Ok(nodes::live(&self.core.store().client_for(StatementGroup::Nodes).await?).await?)
    }

    /// Which queues this worker is to lead, as that changes.
    pub fn led_queues(&self) -> watch::Receiver<Vec<u16>> {
        self.state.members.led.subscribe()
    }
}
