//! Which connections a listener keeps, and which it ends to let others in. It knows neither sockets nor the
//! clock.
//!
//! Every connection is accepted. It counts for its address until a request of it has shown a valid token, then for
//! the party of that token. Where a limit is reached, an earlier connection is evicted:
//!
//! - before authentication that of the address with the most connections that has waited longest, so that a client
//!   that sends its request at once is served, however many silent connections there are;
//! - after authentication that of the party with the most connections that has been idle longest. One with a
//!   request in flight is never evicted then. If there is none, the new one goes on counting for its address.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::domain::Party;

/// Connections that the authenticated cannot take: of these newcomers and health checks are served.
const RESERVED_UNAUTHENTICATED: usize = 64;
/// So much younger a request in flight makes a connection without authentication. Requests without a token are
/// answered sooner; one that takes longer waits for its client.
const IN_FLIGHT_ALLOWANCE: Duration = Duration::from_secs(2);

/// What a connection is called.
pub type ConnectionId = u64;

/// How many connections there may be at once.
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
    /// At most `total`. Half of them is open to connections without authentication, of these `per_address` to one
    /// address. One party may have `per_party`, and never more than half; so much balancers have together.
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

    /// At most `total`, where nobody authenticates.
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

/// For whom a connection counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionOwner {
    /// An address (see [`super::peer::block`]): nobody has authenticated.
    Address(IpAddr),
    /// The party whose token was shown first.
    Party(Party),
    /// A balancer that sends the requests of many clients over one connection.
    Shared,
}

/// Which limit a connection was evicted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionLimit {
    /// That of one address without authentication.
    Address,
    /// That of all without authentication.
    Unauthenticated,
    /// That of one party.
    Party,
    /// That of balancers.
    Shared,
    /// That of all who have authenticated.
    Authenticated,
    /// That of all together, or of the process's files.
    Total,
}

impl ConnectionLimit {
    /// Its name in metrics.
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

/// A connection that has to go. It counts no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evicted {
    /// Which.
    pub id: ConnectionId,
    /// For which limit.
    pub limit: ConnectionLimit,
}

/// What came of an authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionAdmission {
    /// The connection counts for its party now, in place of another if one was evicted.
    Admitted(Option<Evicted>),
    /// There is no room: it goes on counting for its address.
    Refused,
}

/// The connections of a listener.
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
    /// Its age when it comes to evicting; `None` when it must not be.
    fn age(&self) -> Option<Instant> {
        match (&self.owner, self.in_flight) {
            (_, false) => Some(self.since),
            (ConnectionOwner::Address(_), true) => Some(self.since + IN_FLIGHT_ALLOWANCE),
            (ConnectionOwner::Party(_) | ConnectionOwner::Shared, true) => None,
        }
    }
}

/// A connection that may be evicted; the least of several is the oldest.
type Candidate = (Instant, ConnectionId);

/// Connections before authentication, or those after it.
#[derive(Debug, Default)]
struct Side {
    count: usize,
    groups: HashMap<ConnectionOwner, Group>,
    /// The first candidate of each group; the greatest is that of the largest group, and of several the oldest.
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
        // A balancer's connections are those of many, of whom each has less than one.
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

    /// The oldest that may be evicted of one owner.
    fn oldest_of(&self, owner: &ConnectionOwner) -> Option<ConnectionId> {
        self.groups.get(owner)?.candidates.first().map(|(_, id)| *id)
    }

    /// The oldest that may be evicted of the owner with the most.
    fn oldest_of_most(&self) -> Option<ConnectionId> {
        self.ranks.last().map(|(_, Reverse((_, id)))| *id)
    }
}

impl ConnectionTable {
    /// An empty one.
    pub fn new(limits: ConnectionLimits) -> ConnectionTable {
        ConnectionTable {
            limits,
            unauthenticated: Side::default(),
            authenticated: Side::default(),
            connections: HashMap::new(),
        }
    }

    /// A connection has been accepted. Which one has to go for it.
    pub fn insert(&mut self, id: ConnectionId, from: IpAddr, now: Instant) -> Option<Evicted> {
        self.remove(id);
        self.add(
            id,
            Connection { owner: ConnectionOwner::Address(from), in_flight: false, since: now },
        )
    }

    /// The address of a connection has become known. Which one has to go for it.
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

    /// Adds a connection without authentication, and makes room for it before.
    fn add(&mut self, id: ConnectionId, connection: Connection) -> Option<Evicted> {
        let ConnectionOwner::Address(_) = connection.owner else { return None };
        let side = &self.unauthenticated;
        let evicted = if side.of(&connection.owner) >= self.limits.per_address {
            side.oldest_of(&connection.owner).map(|id| (id, ConnectionLimit::Address))
        } else if side.count >= self.limits.unauthenticated {
            side.oldest_of_most().map(|id| (id, ConnectionLimit::Unauthenticated))
        } else if self.connections.len() >= self.limits.total {
            // There is one: the authenticated never have all.
            side.oldest_of_most().map(|id| (id, ConnectionLimit::Total))
        } else {
            None
        };
        let evicted = evicted.map(|(id, limit)| self.evict(id, limit));
        self.unauthenticated.add(id, &connection);
        self.connections.insert(id, connection);
        evicted
    }

    /// A request of this connection has shown who sends it. The first one decides.
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

    /// From now on the connection has a request in flight, or none any more.
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

    /// Makes room by one without authentication, if there is one.
    pub fn make_room(&mut self) -> Option<Evicted> {
        let id = self.unauthenticated.oldest_of_most()?;
        Some(self.evict(id, ConnectionLimit::Total))
    }

    fn evict(&mut self, id: ConnectionId, limit: ConnectionLimit) -> Evicted {
        self.remove(id);
        Evicted { id, limit }
    }

    /// A connection has ended.
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

    /// How many there are without authentication, of parties, and shared.
    pub fn counts(&self) -> [usize; 3] {
        let shared = self.authenticated.of(&ConnectionOwner::Shared);
        [self.unauthenticated.count, self.authenticated.count - shared, shared]
    }
}

#[cfg(test)]
mod tests;
