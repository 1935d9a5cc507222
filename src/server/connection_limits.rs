//! Limits of connections by address and party, and which connection is evicted when one is reached. Knows
//! neither sockets nor the clock.
//!
//! Every connection is accepted. It counts for its address until one of its requests has a valid token, then
//! for the party of the token. When a limit is reached, an earlier connection is evicted:
//!
//! - before authentication: of the address with the most connections, the one that has waited longest. So a
//!   client that sends its request at once is served, however many silent connections there are;
//! - after authentication: of the party with the most connections, the one that has been idle longest. A
//!   connection with a request in flight is not evicted. If there is no other, the new one keeps counting for
//!   its address.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::domain::Party;

/// Connections that are reserved for unauthenticated clients and health checks.
const RESERVED_UNAUTHENTICATED: usize = 64;
/// An unauthenticated connection with a request in flight counts as this much younger. Requests without a token
/// are answered sooner; one that takes longer waits for its client.
const IN_FLIGHT_ALLOWANCE: Duration = Duration::from_secs(2);

pub type ConnectionId = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    total: usize,
    unauthenticated: usize,
    per_address: usize,
    authenticated: usize,
    per_party: usize,
    shared: usize,
}

impl ConnectionLimits {
    /// At most `total`. Half of them may be unauthenticated, `per_address` of one address. One party may have
    /// `per_party`, but no more than half; so may load balancers together.
    pub fn new(total: usize, per_address: usize, per_party: usize) -> ConnectionLimits {
        let total = total.max(1);
        let half = total.div_ceil(2);
        ConnectionLimits {
            total,
            unauthenticated: half,
            per_address: per_address.clamp(1, half),
            authenticated: total - RESERVED_UNAUTHENTICATED.min(total.div_ceil(4)),
            per_party: per_party.clamp(1, half),
            shared: half,
        }
    }

    /// At most `total`, without authentication.
    pub fn anonymous(total: usize) -> ConnectionLimits {
        let total = total.max(1);
        let (unauthenticated, per_address) = (total, total);
        ConnectionLimits {
            total,
            unauthenticated,
            per_address,
            authenticated: 0,
            per_party: 0,
            shared: 0,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionOwner {
    /// An address (see [`super::peer::block`]), before authentication.
    Address(IpAddr),
    /// The party of the first token.
    Party(Party),
    /// A load balancer that sends requests of many clients over one connection.
    Shared,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionLimit {
    /// Unauthenticated connections of one address.
    Address,
    /// All unauthenticated connections.
    Unauthenticated,
    /// Connections of one party.
    Party,
    Shared,
    /// All authenticated connections.
    Authenticated,
    /// All connections, or the file descriptors of the process.
    Total,
}

impl ConnectionLimit {
    /// Used in metrics.
    pub fn name(self) -> &'static str {
        match self {
            ConnectionLimit::Address => "address",
            ConnectionLimit::Unauthenticated => "unauthenticated",
            ConnectionLimit::Party => "party",
            ConnectionLimit::Shared => "shared",
            ConnectionLimit::Authenticated => "authenticated",
            ConnectionLimit::Total => "total",
        }
    }
}

/// A connection that has to be closed. It does not count any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evicted {
    pub id: ConnectionId,
    pub limit: ConnectionLimit,
}

/// The outcome of an authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionAdmission {
    /// The connection counts for its party now. Another one may have been evicted for it.
    Admitted(Option<Evicted>),
    /// No room: the connection keeps counting for its address.
    Refused,
}

#[derive(Debug)]
pub struct ConnectionTable {
    limits: ConnectionLimits,
    unauthenticated: Side,
    authenticated: Side,
    connections: HashMap<ConnectionId, Connection>,
}

#[derive(Debug)]
struct Connection {
    owner: ConnectionOwner,
    in_flight: bool,
    since: Instant,
}

impl Connection {
    /// Since when it counts for eviction; `None` if it must not be evicted.
    fn age(&self) -> Option<Instant> {
        match (&self.owner, self.in_flight) {
            (_, false) => Some(self.since),
            (ConnectionOwner::Address(_), true) => Some(self.since + IN_FLIGHT_ALLOWANCE),
            (ConnectionOwner::Party(_) | ConnectionOwner::Shared, true) => None,
        }
    }
}

/// A connection that may be evicted. The smallest is the oldest.
type Candidate = (Instant, ConnectionId);

/// Either all unauthenticated or all authenticated connections.
#[derive(Debug, Default)]
struct Side {
    count: usize,
    groups: HashMap<ConnectionOwner, Group>,
    /// The first candidate of each group. The greatest belongs to the largest group; of several, it is the
    /// oldest.
    ranks: BTreeSet<Rank>,
}

type Rank = (usize, Reverse<Candidate>);

#[derive(Debug, Default)]
struct Group {
    count: usize,
    candidates: BTreeSet<Candidate>,
}

impl Group {
    fn rank(&self, owner: &ConnectionOwner) -> Option<Rank> {
        // Each client behind a load balancer has less than one connection.
        let weight = if *owner == ConnectionOwner::Shared { 0 } else { self.count };
        self.candidates.first().map(|first| (weight, Reverse(*first)))
    }
}

impl Side {
    fn change(&mut self, owner: &ConnectionOwner, change: impl FnOnce(&mut Group)) {
        let group = self.groups.entry(owner.clone()).or_default();
        let (rank, count) = (group.rank(owner), group.count);
        change(group);
        self.count = self.count - count + group.count;
        let now = group.rank(owner);
        if group.count == 0 {
            self.groups.remove(owner);
        }
        if now != rank {
            if let Some(rank) = rank {
                self.ranks.remove(&rank);
            }
            self.ranks.extend(now);
        }
    }

    fn add(&mut self, id: ConnectionId, connection: &Connection) {
        self.change(&connection.owner, |group| {
            group.count += 1;
            group.candidates.extend(connection.age().map(|age| (age, id)));
        });
    }

    fn remove(&mut self, id: ConnectionId, connection: &Connection) {
        self.change(&connection.owner, |group| {
            group.count -= 1;
            if let Some(age) = connection.age() {
                group.candidates.remove(&(age, id));
            }
        });
    }

    fn of(&self, owner: &ConnectionOwner) -> usize {
        self.groups.get(owner).map_or(0, |group| group.count)
    }

    /// The oldest candidate of one owner.
    fn oldest_of(&self, owner: &ConnectionOwner) -> Option<ConnectionId> {
        self.groups.get(owner)?.candidates.first().map(|(_, id)| *id)
    }

    /// The oldest candidate of the owner with the most connections.
    fn oldest_of_most(&self) -> Option<ConnectionId> {
        self.ranks.last().map(|(_, Reverse((_, id)))| *id)
    }
}

impl ConnectionTable {
    pub fn new(limits: ConnectionLimits) -> ConnectionTable {
        ConnectionTable {
            limits,
            unauthenticated: Side::default(),
            authenticated: Side::default(),
            connections: HashMap::new(),
        }
    }

    /// Enters an accepted connection. Returns the one that is evicted for it.
    pub fn insert(&mut self, id: ConnectionId, from: IpAddr, now: Instant) -> Option<Evicted> {
        self.remove(id);
        self.add(
            id,
            Connection { owner: ConnectionOwner::Address(from), in_flight: false, since: now },
        )
    }

    /// Sets the real address of a connection. Returns the one that is evicted for it.
    pub fn rename(&mut self, id: ConnectionId, from: IpAddr) -> Option<Evicted> {
        let owner = ConnectionOwner::Address(from);
        let renamed = |connection: &Connection| {
            connection.owner != owner && matches!(connection.owner, ConnectionOwner::Address(_))
        };
        if !self.connections.get(&id).is_some_and(renamed) {
            return None;
        }
        let connection = self.remove(id)?;
        self.add(id, Connection { owner, ..connection })
    }

    /// Enters an unauthenticated connection, and makes room for it first.
    fn add(&mut self, id: ConnectionId, connection: Connection) -> Option<Evicted> {
        let ConnectionOwner::Address(_) = connection.owner else { return None };
        let side = &self.unauthenticated;
        let evicted = if side.of(&connection.owner) >= self.limits.per_address {
            side.oldest_of(&connection.owner).map(|id| (id, ConnectionLimit::Address))
        } else if side.count >= self.limits.unauthenticated {
            side.oldest_of_most().map(|id| (id, ConnectionLimit::Unauthenticated))
        } else if self.connections.len() >= self.limits.total {
            // There is one: authenticated connections never take all.
            side.oldest_of_most().map(|id| (id, ConnectionLimit::Total))
        } else {
            None
        };
        let evicted = evicted.map(|(id, limit)| self.evict(id, limit));
        self.unauthenticated.add(id, &connection);
        self.connections.insert(id, connection);
        evicted
    }

    /// Authenticates a connection. The first request with a token decides.
    pub fn authenticate(
        &mut self,
        id: ConnectionId,
        owner: ConnectionOwner,
        now: Instant,
    ) -> ConnectionAdmission {
        match self.connections.get(&id) {
            None => return ConnectionAdmission::Refused,
            Some(connection) if !matches!(connection.owner, ConnectionOwner::Address(_)) => {
                return ConnectionAdmission::Admitted(None);
            }
            Some(_) => {}
        }
        let side = &self.authenticated;
        let (most, limit) = match owner {
            ConnectionOwner::Shared => (self.limits.shared, ConnectionLimit::Shared),
            _ => (self.limits.per_party, ConnectionLimit::Party),
        };
        let (full, evicted) = if side.of(&owner) >= most {
            (true, side.oldest_of(&owner).map(|id| (id, limit)))
        } else if side.count >= self.limits.authenticated {
            (true, side.oldest_of_most().map(|id| (id, ConnectionLimit::Authenticated)))
        } else {
            (false, None)
        };
        if full && evicted.is_none() {
            return ConnectionAdmission::Refused;
        }
        let evicted = evicted.map(|(id, limit)| self.evict(id, limit));
        if let Some(connection) = self.remove(id) {
            let since = if connection.in_flight { connection.since } else { now };
            let connection = Connection { owner, since, ..connection };
            self.authenticated.add(id, &connection);
            self.connections.insert(id, connection);
        }
        ConnectionAdmission::Admitted(evicted)
    }

    pub fn set_in_flight(&mut self, id: ConnectionId, in_flight: bool, now: Instant) {
        let Some(connection) = self.remove(id) else { return };
        let connection = Connection { in_flight, since: now, ..connection };
        match connection.owner {
            ConnectionOwner::Address(_) => self.unauthenticated.add(id, &connection),
            ConnectionOwner::Party(_) | ConnectionOwner::Shared => {
                self.authenticated.add(id, &connection)
            }
        }
        self.connections.insert(id, connection);
    }

    /// Evicts an unauthenticated connection, if there is one.
    pub fn make_room(&mut self) -> Option<Evicted> {
        let id = self.unauthenticated.oldest_of_most()?;
        Some(self.evict(id, ConnectionLimit::Total))
    }

    fn evict(&mut self, id: ConnectionId, limit: ConnectionLimit) -> Evicted {
        self.remove(id);
        Evicted { id, limit }
    }

    pub fn end(&mut self, id: ConnectionId) {
        self.remove(id);
    }

    fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = self.connections.remove(&id)?;
        match connection.owner {
            ConnectionOwner::Address(_) => self.unauthenticated.remove(id, &connection),
            ConnectionOwner::Party(_) | ConnectionOwner::Shared => {
                self.authenticated.remove(id, &connection)
            }
        }
        Some(connection)
    }

    /// Unauthenticated, authenticated and shared connections.
    pub fn counts(&self) -> [usize; 3] {
        let shared = self.authenticated.of(&ConnectionOwner::Shared);
        [self.unauthenticated.count, self.authenticated.count - shared, shared]
    }
}

#[cfg(test)]
mod tests;
