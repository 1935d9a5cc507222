//! The connections that a client can name: negotiated ones that wait for their transport, and living
//! ones that are posted to, asked for output, or come back to.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{
    connection::Client,
    newcomers::Newcomer,
    services::Service,
    wire::{Inbox, Mailbox, Socket},
};
use crate::domain::Party;

/// How long a negotiated connection waits for its transport (reference: the official server's
/// disconnect timeout).
const ATTACH_TIMEOUT: Duration = Duration::from_secs(15);
/// Negotiated connections that may wait at once; past that negotiation is refused.
const WAITING: usize = 50_000;

/// How often negotiated connections whose transport did not come are forgotten.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// What a token's random part says.
pub type Key = [u8; 16];

/// A connection that was negotiated and has no transport yet.
#[derive(Debug)]
pub struct Negotiated {
    /// Whose it is.
    pub party: Party,
    /// What it talks to.
    pub service: Service,
    /// Its public name.
    pub connection_id: String,
    /// Whether it may outlive its transport.
    pub stateful: bool,
    /// Its way in.
    pub newcomer: Newcomer,
}

/// A client that came back with a new socket.
pub struct Return {
    /// The socket.
    pub socket: Box<Socket>,
    /// Who it is, by the token shown this time, and from where.
    pub client: Client,
}

/// How a living connection is reached.
#[derive(Clone)]
pub enum Link {
    /// By its socket alone.
    Socket,
    /// By its socket; and by another, when that is lost.
    Returning(mpsc::Sender<Return>),
    /// By events, and posts.
    Events(Inbox),
    /// By requests, and posts.
    Polls(Inbox, Arc<Mailbox>),
}

enum Slot {
    Waiting { negotiated: Negotiated, until: Instant },
    Living { party: Party, service: Service, link: Link },
}

/// What a key stands for.
pub enum Found {
    /// A connection that waits for its transport.
    Waiting,
    /// A living connection.
    Living(Link),
}

/// The connections of this process that have a key. Cheap to clone.
#[derive(Clone, Default)]
pub struct Table {
    slots: Arc<Mutex<HashMap<Key, Slot>>>,
    tidied: Arc<Mutex<Option<Instant>>>,
}

/// The place of a living connection; dropping it forgets the connection.
pub struct Place {
    table: Table,
    key: Key,
}

impl Place {
    /// The connection is reached in another way than was said.
    pub fn relink(&self, to: Link) {
        if let Some(Slot::Living { link, .. }) = self.table.slots().get_mut(&self.key) {
            *link = to;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.slots().remove(&self.key);
    }
}

impl Table {
    fn slots(&self) -> MutexGuard<'_, HashMap<Key, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a negotiated connection until its transport comes. Whether there was room.
    pub fn negotiate(&self, key: Key, negotiated: Negotiated, now: Instant) -> bool {
        let mut slots = self.slots();
        let waiting = |slot: &Slot| matches!(slot, Slot::Waiting { .. });
        // Living connections are limited elsewhere; looking at all of them would take too long.
        if slots.len() >= WAITING {
            slots.retain(|_, slot| !matches!(slot, Slot::Waiting { until, .. } if *until <= now));
            if slots.values().filter(|slot| waiting(slot)).count() >= WAITING {
                return false;
            }
        }
        slots.insert(key, Slot::Waiting { negotiated, until: now + ATTACH_TIMEOUT });
        true
    }

    /// What a key stands for, for this party on this service; nothing else is told to anybody else.
    pub fn find(&self, key: &Key, party: &Party, service: Service, now: Instant) -> Option<Found> {
        match self.slots().get(key)? {
            Slot::Waiting { negotiated, until } => {
                let fits = negotiated.party == *party && negotiated.service == service;
                (fits && *until > now).then_some(Found::Waiting)
            }
            Slot::Living { party: of, service: at, link } => {
                (of == party && *at == service).then(|| Found::Living(link.clone()))
            }
        }
    }

    /// Gives a waiting connection its transport. Of two that try, one succeeds.
    pub fn attach(&self, key: Key, link: Link, now: Instant) -> Option<(Negotiated, Place)> {
        let mut slots = self.slots();
        let Some(Slot::Waiting { until, .. }) = slots.get(&key) else { return None };
        if *until <= now {
            slots.remove(&key);
            return None;
        }
        let Some(Slot::Waiting { negotiated, .. }) = slots.remove(&key) else { return None };
        let (party, service) = (negotiated.party.clone(), negotiated.service);
        slots.insert(key, Slot::Living { party, service, link });
        Some((negotiated, Place { table: self.clone(), key }))
    }

    /// Forgets a connection: from here on nobody finds it.
    pub fn forget(&self, key: &Key) {
        self.slots().remove(key);
    }

    /// Forgets negotiated connections whose transport did not come, now and then.
    pub fn tidy(&self, now: Instant) {
        let mut tidied = self.tidied.lock().unwrap_or_else(PoisonError::into_inner);
        if tidied.is_none_or(|at| now >= at + TIDY_EVERY) {
            *tidied = Some(now);
            drop(tidied);
            self.forget_overdue(now);
        }
    }

    fn forget_overdue(&self, now: Instant) {
        let mut slots = self.slots();
        slots.retain(|_, slot| !matches!(slot, Slot::Waiting { until, .. } if *until <= now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::Phone, server::hub::newcomers::Newcomers};

    fn party(number: &str) -> Party {
        Party::Mobile(Phone::from_stored(number))
    }

    fn negotiated() -> Negotiated {
        let newcomer = Newcomers::default().enter(party("+967771234567")).unwrap();
        Negotiated {
            party: party("+967771234567"),
            service: Service::Messages,
            connection_id: "id".to_owned(),
            stateful: false,
            newcomer,
        }
    }

    #[test]
    fn a_connection_is_only_its_owners_on_its_hub_and_only_in_time() {
        let (table, now) = (Table::default(), Instant::now());
        assert!(table.negotiate([1; 16], negotiated(), now));
        let (owner, other) = (party("+967771234567"), party("+967771234568"));
        let find = |party, service, now| table.find(&[1; 16], party, service, now);
        assert!(matches!(find(&owner, Service::Messages, now), Some(Found::Waiting)));
        assert!(find(&other, Service::Messages, now).is_none());
        assert!(find(&owner, Service::Diagnostics, now).is_none());
        assert!(find(&owner, Service::Messages, now + ATTACH_TIMEOUT).is_none());
        assert!(table.attach([1; 16], Link::Socket, now + ATTACH_TIMEOUT).is_none());
        assert!(table.slots().is_empty());
    }

    #[test]
    fn one_transport_attaches_and_the_end_forgets_the_key() {
        let (table, now) = (Table::default(), Instant::now());
        assert!(table.negotiate([1; 16], negotiated(), now));
        let (_, place) = table.attach([1; 16], Link::Socket, now).unwrap();
        assert!(table.attach([1; 16], Link::Socket, now).is_none());
        let owner = party("+967771234567");
        let found = table.find(&[1; 16], &owner, Service::Messages, now + ATTACH_TIMEOUT * 9);
        assert!(matches!(found, Some(Found::Living(Link::Socket))));
        assert!(table.negotiate([2; 16], negotiated(), now));
        table.tidy(now);
        assert_eq!(table.slots().len(), 2);
        table.tidy(now + ATTACH_TIMEOUT);
        assert_eq!(table.slots().len(), 1, "whose transport came stays");
        drop(place);
        assert!(table.slots().is_empty());
    }
}
