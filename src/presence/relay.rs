//! The handle to other processes: requests for [`super::relay_sender`], changes for [`super::presence_sync`].
//!
//! Everything sent through the relay is a hint. Items that do not fit in the queue, or find Redis down, are
//! dropped; the position check of the process that has the connection finds their messages.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{Notify, mpsc, oneshot};

use super::{absence, outbound::Outbound};
use crate::{
    domain::{NodeId, Party},
    redis::{Error, Redis},
};

const QUEUE_CAPACITY: usize = 16_384;
/// Items sent, or changes written, in one round trip.
pub(super) const BATCH_SIZE: usize = 512;
/// Past this many changes, everything is written again instead.
pub(super) const MAX_PENDING_CHANGES: usize = 8192;

/// Whether a party has a connection that was sent an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteOutcome {
    /// At least one process that has the recipient got the item.
    Delivered,
    /// The recipient is connected nowhere.
    Offline,
    /// Redis could not be asked, or lacks the connections of a gateway.
    Unknown,
}

pub(super) type Addressed = (Party, Outbound);

pub(super) enum RelayRequest {
    Send(Addressed),
    Route(Vec<Addressed>, oneshot::Sender<Vec<RouteOutcome>>),
}

impl RelayRequest {
    pub(super) fn addressed(&self) -> &[Addressed] {
        match self {
            RelayRequest::Send(addressed) => std::slice::from_ref(addressed),
            RelayRequest::Route(addressed, _) => addressed,
        }
    }
}

pub(super) enum PresenceChange {
    Connected(Party, u64),
    Disconnected(Party, u64),
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Relay {
    pub(super) inner: Arc<RelayState>,
}

pub(super) struct RelayState {
    redis: Redis,
    requests: mpsc::Sender<RelayRequest>,
    changes: mpsc::Sender<PresenceChange>,
    /// Changes were dropped: everything has to be written again.
    pub(super) overrun: AtomicBool,
    pub(super) gap: Notify,
    /// The other gateways that Postgres knows.
    gateways: RwLock<Arc<[NodeId]>>,
}

/// Where each of some parties is connected, on other processes.
pub(super) struct Whereabouts {
    pub(super) nodes: Vec<Vec<NodeId>>,
    /// Whether a party that was not found is connected nowhere.
    pub(super) absence_believed: bool,
}

impl Relay {
    pub(super) fn new(
        redis: Redis,
    ) -> (Relay, mpsc::Receiver<RelayRequest>, mpsc::Receiver<PresenceChange>) {
        let (requests, requested) = mpsc::channel(QUEUE_CAPACITY);
        let (changes, changed) = mpsc::channel(MAX_PENDING_CHANGES);
        let (overrun, gap) = (AtomicBool::new(false), Notify::new());
        let gateways = RwLock::new(Arc::from([]));
        let inner = Arc::new(RelayState { redis, requests, changes, overrun, gap, gateways });
        (Relay { inner }, requested, changed)
    }

    pub fn redis(&self) -> &Redis {
        &self.inner.redis
    }

    /// Which other gateways there are, as Postgres tells: only together they know who is connected nowhere.
    pub fn set_gateways(&self, gateways: Vec<NodeId>) {
        *self.inner.gateways.write().unwrap_or_else(PoisonError::into_inner) = gateways.into();
    }

    /// Whether a look-up could tell now that a party is connected nowhere.
    pub async fn can_tell_absence(&self) -> bool {
        let gateways = self.gateways();
        if !self.redis().state().up {
            return false;
        }
        let marks = self.redis().marks(&gateways).await;
        marks.is_ok_and(|marks| absence::is_believed(&marks, &marks))
    }

    fn gateways(&self) -> Arc<[NodeId]> {
        Arc::clone(&self.inner.gateways.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks up where parties are connected.
    pub(super) async fn look_up(&self, parties: &[&str]) -> Result<Whereabouts, Error> {
        let found = self.redis().look_up(parties, &self.gateways()).await?;
        let absence_believed = absence::is_believed(&found.before, &found.after);
        if !absence_believed && found.nodes.iter().any(Vec::is_empty) {
            metrics::counter!("esh3ar_relay_doubted_total").increment(1);
        }
        Ok(Whereabouts { nodes: found.nodes, absence_believed })
    }

    /// Waits until frames to this process may have been lost: positions are to be checked then.
    /// Cancel-safe.
    pub async fn wait_for_gap(&self) {
        self.inner.gap.notified().await;
    }

    /// Sends to the party's connections on other processes, without waiting.
    pub(super) fn send(&self, party: &Party, outbound: &Outbound) {
        if !self.redis().state().up {
            return;
        }
        let request = RelayRequest::Send((party.clone(), outbound.clone()));
        if self.inner.requests.try_send(request).is_err() {
            metrics::counter!("esh3ar_relay_dropped_total").increment(1);
        }
    }

    /// Sends to the processes that have the recipients; one outcome for each item.
    pub(super) async fn route(&self, addressed: Vec<Addressed>) -> Vec<RouteOutcome> {
        let count = addressed.len();
        let unknown = || vec![RouteOutcome::Unknown; count];
        let (reply, outcomes) = oneshot::channel();
        let request = RelayRequest::Route(addressed, reply);
        if !self.redis().state().up || self.inner.requests.send(request).await.is_err() {
            return unknown();
        }
        outcomes.await.unwrap_or_else(|_| unknown())
    }

    /// Which of these parties are or may be connected on other processes.
    pub(super) async fn are_elsewhere(&self, parties: &[&Party]) -> Result<Vec<bool>, Error> {
        let names: Vec<String> = parties.iter().map(|party| party.key()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let found = self.look_up(&names).await?;
        let may_be = |nodes: &Vec<NodeId>| !nodes.is_empty() || !found.absence_believed;
        Ok(found.nodes.iter().map(may_be).collect())
    }

    /// Writes a connection to Redis. When this returns, every look-up finds it, unless Redis is down: then
    /// position checks find its messages.
    pub(super) async fn connected(&self, party: &Party, id: u64) {
        if self.redis().register(&[(party.key(), id)]).await.is_err() {
            self.note(PresenceChange::Connected(party.clone(), id));
        }
    }

    pub(super) fn disconnected(&self, party: &Party, id: u64) {
        self.note(PresenceChange::Disconnected(party.clone(), id));
    }

    fn note(&self, change: PresenceChange) {
        if self.inner.changes.try_send(change).is_err() {
            self.inner.overrun.store(true, Ordering::Release);
        }
    }
}
