//! The connections that a token can name: negotiated ones that wait for their transport, and attached ones that
//! receive posts, polls or reconnects.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use crate::{
    domain::Party,
    server::hub::{
        connection::{HandshakePermit, Reconnect},
        hubs::service::Service,
        protocol::token::ConnectionKey,
        transport::{PollBuffer, PostQueue},
    },
};

/// Reference: the official server's disconnect timeout.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(15);
/// Past this many, negotiation is refused.
const MAX_NEGOTIATED: usize = 50_000;

/// How often expired negotiations are removed.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(5);

/// A negotiated connection without a transport.
#[derive(Debug)]
pub struct PendingConnection {
    pub party: Party,
    pub service: Service,
    /// The public id.
    pub connection_id: String,
    /// Stateful reconnect was negotiated.
    pub stateful: bool,
    pub handshake_permit: HandshakePermit,
}

/// How requests reach an attached connection.
#[derive(Clone)]
pub enum TransportHandle {
    /// No request does.
    WebSocket,
    /// By a new WebSocket.
    ResumableWebSocket(mpsc::Sender<Reconnect>),
    /// By posts.
    ServerSentEvents(PostQueue),
    /// By posts and polls.
    LongPolling(PostQueue, Arc<PollBuffer>),
}

enum Slot {
    Negotiated { pending: PendingConnection, until: Instant },
    Attached { party: Party, service: Service, handle: TransportHandle },
}

/// The state of the connection with a key.
pub enum Lookup {
    /// It waits for its transport.
    Negotiated,
    Attached(TransportHandle),
}

/// The connections of this process that have a key. Cheap to clone.
#[derive(Clone, Default)]
pub struct HubConnections {
    slots: Arc<Mutex<HashMap<ConnectionKey, Slot>>>,
    cleaned_up: Arc<Mutex<Option<Instant>>>,
}

/// The entry of an attached connection; dropping it removes the entry.
pub struct TableEntry {
    table: HubConnections,
    key: ConnectionKey,
}

impl TableEntry {
    /// Corrects the transport that was assumed at first.
    pub fn set_transport(&self, to: TransportHandle) {
        if let Some(Slot::Attached { handle, .. }) = self.table.slots().get_mut(&self.key) {
            *handle = to;
        }
    }
}

impl Drop for TableEntry {
    fn drop(&mut self) {
        self.table.slots().remove(&self.key);
    }
}

impl HubConnections {
    fn slots(&self) -> MutexGuard<'_, HashMap<ConnectionKey, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a negotiated connection until its transport attaches. Returns whether the table had room.
    pub fn negotiate(&self, key: ConnectionKey, pending: PendingConnection, now: Instant) -> bool {
        let mut slots = self.slots();
        let waiting = |slot: &Slot| matches!(slot, Slot::Negotiated { .. });
        // Attached connections are limited elsewhere; counting all of them would take too long.
        if slots.len() >= MAX_NEGOTIATED {
            slots
                .retain(|_, slot| !matches!(slot, Slot::Negotiated { until, .. } if *until <= now));
            if slots.values().filter(|slot| waiting(slot)).count() >= MAX_NEGOTIATED {
                return false;
            }
        }
        slots.insert(key, Slot::Negotiated { pending, until: now + ATTACH_TIMEOUT });
        true
    }

    /// Finds the connection of this party on this hub; a key reveals nothing to another party.
    pub fn find(
        &self,
        key: &ConnectionKey,
        party: &Party,
        service: Service,
        now: Instant,
    ) -> Option<Lookup> {
        match self.slots().get(key)? {
            Slot::Negotiated { pending, until } => {
                let fits = pending.party == *party && pending.service == service;
                (fits && *until > now).then_some(Lookup::Negotiated)
            }
            Slot::Attached { party: of, service: at, handle } => {
                (of == party && *at == service).then(|| Lookup::Attached(handle.clone()))
            }
        }
    }

    /// Attaches a transport. When two requests race, one succeeds.
    pub fn attach(
        &self,
        key: ConnectionKey,
        handle: TransportHandle,
        now: Instant,
    ) -> Option<(PendingConnection, TableEntry)> {
        let mut slots = self.slots();
        let Some(Slot::Negotiated { until, .. }) = slots.get(&key) else { return None };
        if *until <= now {
            slots.remove(&key);
            return None;
        }
        let Some(Slot::Negotiated { pending, .. }) = slots.remove(&key) else { return None };
        let (party, service) = (pending.party.clone(), pending.service);
        slots.insert(key, Slot::Attached { party, service, handle });
        Some((pending, TableEntry { table: self.clone(), key }))
    }

    /// From here on no request finds the connection.
    pub fn remove(&self, key: &ConnectionKey) {
        self.slots().remove(key);
    }

    /// Removes expired negotiations, at most once per [`CLEANUP_INTERVAL`].
    pub fn clean_up(&self, now: Instant) {
        let mut cleaned_up = self.cleaned_up.lock().unwrap_or_else(PoisonError::into_inner);
        if cleaned_up.is_none_or(|at| now >= at + CLEANUP_INTERVAL) {
            *cleaned_up = Some(now);
            drop(cleaned_up);
            self.remove_expired(now);
        }
    }

    fn remove_expired(&self, now: Instant) {
        let mut slots = self.slots();
        slots.retain(|_, slot| !matches!(slot, Slot::Negotiated { until, .. } if *until <= now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::Phone, server::hub::connection::HandshakeLimiter};

    fn party(number: &str) -> Party {
        Party::Mobile(Phone::from_stored(number))
    }

    fn pending_connection() -> PendingConnection {
        let handshake_permit = HandshakeLimiter::default().begin(party("+967771234567")).unwrap();
        PendingConnection {
            party: party("+967771234567"),
            service: Service::Messages,
            connection_id: "id".to_owned(),
            stateful: false,
            handshake_permit,
        }
    }

    #[test]
    fn a_connection_is_only_its_owners_on_its_hub_and_only_in_time() {
        let (table, now) = (HubConnections::default(), Instant::now());
        assert!(table.negotiate([1; 16], pending_connection(), now));
        let (owner, other) = (party("+967771234567"), party("+967771234568"));
        let find = |party, service, now| table.find(&[1; 16], party, service, now);
        assert!(matches!(find(&owner, Service::Messages, now), Some(Lookup::Negotiated)));
        assert!(find(&other, Service::Messages, now).is_none());
        assert!(find(&owner, Service::Diagnostics, now).is_none());
        assert!(find(&owner, Service::Messages, now + ATTACH_TIMEOUT).is_none());
        assert!(table.attach([1; 16], TransportHandle::WebSocket, now + ATTACH_TIMEOUT).is_none());
        assert!(table.slots().is_empty());
    }

    #[test]
    fn one_transport_attaches_and_the_end_forgets_the_key() {
        let (table, now) = (HubConnections::default(), Instant::now());
        assert!(table.negotiate([1; 16], pending_connection(), now));
        let (_, entry) = table.attach([1; 16], TransportHandle::WebSocket, now).unwrap();
        assert!(table.attach([1; 16], TransportHandle::WebSocket, now).is_none());
        let owner = party("+967771234567");
        let found = table.find(&[1; 16], &owner, Service::Messages, now + ATTACH_TIMEOUT * 9);
        assert!(matches!(found, Some(Lookup::Attached(TransportHandle::WebSocket))));
        assert!(table.negotiate([2; 16], pending_connection(), now));
        table.clean_up(now);
        assert_eq!(table.slots().len(), 2);
        table.clean_up(now + ATTACH_TIMEOUT);
        assert_eq!(table.slots().len(), 1, "whose transport came stays");
        drop(entry);
        assert!(table.slots().is_empty());
    }
}
