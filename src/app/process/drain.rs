//! Emptying this process for maintenance: connections are sent elsewhere in waves, so that not all of
//! them come back in the same moment.

use std::sync::atomic::Ordering;

use super::ProcessService;
use crate::app::{By, Error};
use crate::{
    domain::{NodeId, audit::AuditAction},
    store::{
        audit,
        nodes::{self, Node, Role},
    },
};

/// Connections asked to leave in a second, at least.
const MIN_WAVE_SIZE: usize = 50;
/// Whatever their number, they are asked within about this many seconds.
const MAX_WAVES: usize = 30;

impl ProcessService {
    /// Asks a process of the installation to be emptied, or to take connections again: it does so when it
    /// next says that it lives, within two seconds. Gives it as it is, and as which it has been asked to be.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] for a worker, which has no connections; failures of the
    /// database.
    pub async fn request_drain(&self, by: &By, id: NodeId, draining: bool) -> Result<Node, Error> {
        let living = self.living_nodes().await?;
        let found = living.into_iter().find(|node| node.id == id);
        let entry = self.core.entry(by, AuditAction::NodeDrain).of(id).with("draining", draining);
        let node = match found {
            Some(node) if node.role == Role::Worker => Err(Error::Conflict(
                "a worker has no connections to be sent elsewhere: stop it, others take over its work"
                    .to_owned(),
            )),
            found => found.ok_or(Error::NotFound("process")),
        };
        let node = match node {
            Ok(node) => node,
            refused => return self.core.record_end(entry, refused).await,
        };
        let mut client = self.core.store().client().await?;
        let transaction = audit::begin(&mut client).await?;
        if !nodes::request_drain(&transaction, id, draining).await? {
            drop(transaction);
            drop(client);
            return self.core.record_end(entry, Err(Error::NotFound("process"))).await;
        }
        let entry = entry.with("host", node.host.as_str());
        audit::commit(transaction, &[entry]).await?;
        if id == self.core.node() {
            // It need not wait to be told.
            self.heartbeat().await?;
        }
        let asked = self.living_nodes().await?.into_iter().find(|node| node.id == id);
        // It has stopped meanwhile, and did nothing.
        Ok(asked.unwrap_or(Node { drain_asked: Some(draining), ..node }))
    }

    /// Begins or ends the emptying of this process.
    pub fn set_draining(&self, draining: bool) {
        self.state.draining.store(draining, Ordering::Release);
        tracing::info!(
            draining,
            connections = self.core.presence().local().connections(),
            "draining changed"
        );
    }

    /// Whether this process is being emptied: it takes no connections then, and answers requests.
    pub fn is_draining(&self) -> bool {
        self.state.draining.load(Ordering::Acquire)
    }

    /// Asks the next wave of connections to leave. `largest` is how many there were in the beginning;
    /// gives that of now, to be brought along the next time.
    pub fn drain_wave(&self, largest: usize) -> usize {
        if !self.is_draining() {
            return 0;
        }
        let largest = largest.max(self.core.presence().local().connections());
        self.core.presence().local().close_some(MIN_WAVE_SIZE.max(largest.div_ceil(MAX_WAVES)));
        largest
    }
}

/// How a process is named to people and in URLs.
pub fn name(id: NodeId) -> String {
    id.to_string()
}

pub fn parse_name(text: &str) -> Option<NodeId> {
    text.parse().ok()
}
