//! The connections of this process.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use super::{
    outbound::Outbound,
    outbox::{MissedItems, Outbox},
    relay::Relay,
};
use crate::domain::{Party, Permissions, TokenId, UserId, limits::Limits};

/// One lock each, to reduce contention.
const SHARDS: usize = 64;

type Shard = HashMap<Party, Vec<Entry>>;

struct Entry {
    id: u64,
    /// Authenticates the connection.
    token: TokenId,
    outbox: Arc<Outbox>,
    /// A close notice was sent.
    closing: bool,
}

impl Entry {
    fn push(&self, outbound: Outbound) {
        self.outbox.push(outbound);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.outbox.close();
    }
}

/// The maximum of connections for one party.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartyLimits {
    /// A phone: its devices, and their earlier half-open connections.
    pub mobile: usize,
    /// A business user: its agents.
    pub business: usize,
}

impl From<Limits> for PartyLimits {
    fn from(limits: Limits) -> PartyLimits {
        PartyLimits {
            mobile: limits.connections_per_user,
            business: limits.connections_per_business_user,
        }
    }
}

impl From<usize> for PartyLimits {
    fn from(each: usize) -> PartyLimits {
        PartyLimits { mobile: each, business: each }
    }
}

/// Every connection of this process, by party. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    next_id: AtomicU64,
    count: AtomicUsize,
    per_mobile: AtomicUsize,
    per_business: AtomicUsize,
}

impl Inner {
    fn limit(&self, party: &Party) -> &AtomicUsize {
        match party {
            Party::Mobile(_) => &self.per_mobile,
            Party::Business(_) => &self.per_business,
        }
    }
}

/// One registered connection; dropping this removes it.
pub struct Registration {
    registry: Registry,
    /// Writes the removal to Redis.
    relay: Option<Relay>,
    party: Party,
    id: u64,
    outbox: Arc<Outbox>,
    first: bool,
}

impl Registry {
    pub fn new(limits: impl Into<PartyLimits>) -> Registry {
        let PartyLimits { mobile, business } = limits.into();
        Registry {
            inner: Arc::new(Inner {
                shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
                hasher: RandomState::new(),
                next_id: AtomicU64::new(1),
                count: AtomicUsize::new(0),
                per_mobile: AtomicUsize::new(mobile.max(1)),
                per_business: AtomicUsize::new(business.max(1)),
            }),
        }
    }

    /// Changes the limits. Connections over the limit are closed when the party's next one registers.
    pub fn allow(&self, limits: impl Into<PartyLimits>) {
        let PartyLimits { mobile, business } = limits.into();
        self.inner.per_mobile.store(mobile.max(1), Ordering::Relaxed);
        self.inner.per_business.store(business.max(1), Ordering::Relaxed);
    }

    fn shard(&self, party: &Party) -> MutexGuard<'_, Shard> {
        // The modulo keeps it below the number of shards.
        let index = (self.inner.hasher.hash_one(party) % SHARDS as u64) as usize;
        // After a panic the map is consistent: no change of it takes two steps.
        self.inner.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a connection. Past the limit of the party its oldest connection is closed: the half-open
    /// sockets of a phone must never lock it out.
    pub fn register(&self, party: Party, token: TokenId) -> Registration {
        let outbox = Arc::new(Outbox::default());
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let mut shard = self.shard(&party);
        let entries = shard.entry(party.clone()).or_default();
        let first = entries.is_empty();
        while entries.len() >= self.inner.limit(&party).load(Ordering::Relaxed) {
            let oldest = entries.remove(0);
            self.inner.count.fetch_sub(1, Ordering::Relaxed);
            oldest.push(Outbound::Close {
                allow_reconnect: false,
                reason: Some("Too many connections of this user."),
            });
        }
        let entry = Entry { id, token, outbox: Arc::clone(&outbox), closing: false };
        entries.push(entry);
        self.inner.count.fetch_add(1, Ordering::Relaxed);
        drop(shard);
        Registration { registry: self.clone(), relay: None, party, id, outbox, first }
    }

    /// Sends to every connection of a party. Returns how many there are; 0 means that it is offline.
    pub fn send(&self, party: &Party, outbound: &Outbound) -> usize {
        let shard = self.shard(party);
        let Some(entries) = shard.get(party) else { return 0 };
        for entry in entries {
            entry.push(outbound.clone());
        }
        entries.len()
    }

    /// Closes up to `most` connections that were not closed before; their clients reconnect elsewhere.
    /// Returns how many.
    pub fn close_some(&self, most: usize) -> usize {
        let mut closed = 0;
        for shard in &self.inner.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for entry in shard.values_mut().flatten().filter(|entry| !entry.closing) {
                if closed == most {
                    return closed;
                }
                entry.push(Outbound::Close { allow_reconnect: true, reason: None });
                entry.closing = true;
                closed += 1;
            }
        }
        closed
    }

    /// Closes the connections of these tokens. Returns how many.
    pub fn close_tokens(&self, tokens: &HashSet<TokenId>) -> usize {
        let mut closed = 0;
        for shard in &self.inner.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for entry in shard.values().flatten().filter(|entry| tokens.contains(&entry.token)) {
                entry.push(Outbound::Close {
                    allow_reconnect: false,
                    reason: Some("The token was revoked."),
                });
                closed += 1;
            }
        }
        closed
    }

    /// Tells every connection of a business user what the user may do now.
    pub fn set_permissions(&self, user: UserId, permissions: Permissions) {
        let party = Party::Business(user);
        for entry in self.shard(&party).get(&party).into_iter().flatten() {
            if entry.outbox.set_permissions(permissions) {
                // Wakes the connection, which may read what it could not read before.
                entry.push(Outbound::Resync(None));
            }
        }
    }

    pub fn send_all(&self, outbound: &Outbound) {
        for shard in &self.inner.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.values().flatten().for_each(|entry| entry.push(outbound.clone()));
        }
    }

    pub fn is_online(&self, party: &Party) -> bool {
        self.shard(party).contains_key(party)
    }

    pub fn connections(&self) -> usize {
        self.inner.count.load(Ordering::Relaxed)
    }

    /// The parties with a connection.
    pub fn parties(&self) -> Vec<Party> {
        let mut parties = Vec::new();
        for shard in &self.inner.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            parties.extend(shard.keys().cloned());
        }
        parties
    }

    /// Every connection: its party and its id.
    pub fn registrations(&self) -> Vec<(Party, u64)> {
        let mut registrations = Vec::with_capacity(self.connections());
        for shard in &self.inner.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let of = |(party, entries): (&Party, &Vec<Entry>)| {
                entries.iter().map(|entry| (party.clone(), entry.id)).collect::<Vec<_>>()
            };
            registrations.extend(shard.iter().flat_map(of));
        }
        registrations
    }
}

impl Registration {
    pub(super) fn with_relay(mut self, relay: &Relay) -> Registration {
        self.relay = Some(relay.clone());
        self
    }

    /// Writes this connection where other processes look it up. When this returns, everything that becomes
    /// durable from now on is sent to it, or found by a position check.
    pub fn announcement(&self) -> impl Future<Output = ()> + Send + use<> {
        let relay = self.relay.clone().map(|relay| (relay, self.party.clone(), self.id));
        async move {
            if let Some((relay, party, id)) = relay {
                relay.connected(&party, id).await;
            }
        }
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether the party had no other connection when this one registered.
    pub fn is_first(&self) -> bool {
        self.first
    }

    pub fn party(&self) -> &Party {
        &self.party
    }

    /// Changes the token that authenticates the connection, after a reconnect.
    pub fn set_token(&self, token: TokenId) {
        let mut shard = self.registry.shard(&self.party);
        let entries = shard.get_mut(&self.party);
        if let Some(entry) = entries.and_then(|all| all.iter_mut().find(|e| e.id == self.id)) {
            entry.token = token;
        }
    }

    /// The next item, a close notice first; `None` when the registration was removed. Cancel-safe.
    pub async fn next(&mut self) -> Option<Outbound> {
        self.outbox.next().await
    }

    /// Waits for the close notice only. Cancel-safe.
    pub async fn close_notice(&mut self) -> Outbound {
        self.outbox.close_notice().await
    }

    /// The next item, if there is one already; close notices come from [`Registration::next`].
    pub fn try_next(&mut self) -> Option<Outbound> {
        self.outbox.try_next()
    }

    /// What the business user may do now; `None` if that has not changed since the connection opened.
    pub fn permissions(&self) -> Option<Permissions> {
        self.outbox.permissions()
    }

    /// The items missed since the last call.
    pub fn take_missed(&self) -> Option<MissedItems> {
        self.outbox.take_missed()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut shard = self.registry.shard(&self.party);
        if let Some(entries) = shard.get_mut(&self.party) {
            // By id: a late removal must not remove a newer connection.
            let before = entries.len();
            entries.retain(|entry| entry.id != self.id);
            if entries.len() < before {
                self.registry.inner.count.fetch_sub(1, Ordering::Relaxed);
            }
            if entries.is_empty() {
                shard.remove(&self.party);
            }
        }
        drop(shard);
        if let Some(relay) = &self.relay {
            relay.disconnected(&self.party, self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Phone;
    use crate::presence::outbox::QUEUE_CAPACITY;

    fn token(n: u128) -> TokenId {
        TokenId(uuid::Uuid::from_u128(n))
    }

    fn phone() -> Party {
        Party::Mobile(Phone::from_stored("+967771234567"))
    }

    #[tokio::test]
    async fn all_connections_of_a_party_are_told_and_leaving_ends_it() {
        let registry = Registry::new(4);
        assert_eq!(registry.send(&phone(), &Outbound::Resync(None)), 0);
        let mut first = registry.register(phone(), token(1));
        let mut second = registry.register(phone(), token(1));
        assert_eq!((first.is_first(), second.is_first()), (true, false));
        assert_eq!(registry.send(&phone(), &Outbound::Resync(None)), 2);
        assert!(matches!(first.next().await, Some(Outbound::Resync(None))));
        assert!(matches!(second.next().await, Some(Outbound::Resync(None))));
        drop(first);
        assert!(registry.is_online(&phone()));
        drop(second);
        assert!(!registry.is_online(&phone()));
        assert_eq!(registry.connections(), 0);
    }

    #[tokio::test]
    async fn a_goodbye_is_heard_before_all_that_waits() {
        let registry = Registry::new(4);
        let mut registration = registry.register(phone(), token(1));
        for _ in 0..QUEUE_CAPACITY * 2 {
            registry.send(&phone(), &Outbound::Resync(None));
        }
        registry.close_tokens(&HashSet::from([token(1)]));
        registry.close_some(9);
        let notice = registration.next().await;
        assert!(matches!(notice, Some(Outbound::Close { allow_reconnect: false, .. })));
        assert!(matches!(
            registration.close_notice().await,
            Outbound::Close { allow_reconnect: false, .. }
        ));
    }

    #[tokio::test]
    async fn a_connection_is_closed_by_the_token_that_let_it_in_last() {
        let registry = Registry::new(4);
        let mut registration = registry.register(phone(), token(1));
        registration.set_token(token(2));
        assert_eq!(registry.close_tokens(&HashSet::from([token(1)])), 0);
        assert_eq!(registry.close_tokens(&HashSet::from([token(2)])), 1);
        assert!(matches!(registration.next().await, Some(Outbound::Close { .. })));
    }

    #[tokio::test]
    async fn the_oldest_connection_gives_way() {
        let registry = Registry::new(1);
        let mut old = registry.register(phone(), token(1));
        let new = registry.register(phone(), token(1));
        assert!(matches!(old.next().await, Some(Outbound::Close { allow_reconnect: false, .. })));
        drop(old);
        assert!(registry.is_online(&phone()), "a late removal must not remove the newer one");
        assert_eq!(registry.connections(), 1);
        drop(new);
        assert_eq!(registry.connections(), 0);
    }

    #[tokio::test]
    async fn a_business_user_has_room_for_a_team() {
        let registry = Registry::new(PartyLimits { mobile: 1, business: 3 });
        let shop = Party::Business(UserId(uuid::Uuid::from_u128(1)));
        let mut agents: Vec<Registration> =
            (0..3).map(|_| registry.register(shop.clone(), token(1))).collect();
        let mut devices: Vec<Registration> =
            (0..2).map(|_| registry.register(phone(), token(1))).collect();
        assert!(agents.iter_mut().all(|registration| registration.try_next().is_none()));
        assert!(matches!(devices[0].next().await, Some(Outbound::Close { .. })));
        let _fourth = registry.register(shop, token(1));
        assert!(matches!(agents[0].next().await, Some(Outbound::Close { .. })));
        assert_eq!(registry.connections(), 4);
    }

    #[tokio::test]
    async fn when_fewer_are_allowed_the_next_one_takes_the_place_of_all_that_are_too_many() {
        let registry = Registry::new(4);
        let mut old: Vec<Registration> =
            (0..4).map(|_| registry.register(phone(), token(1))).collect();
        registry.allow(2);
        assert!(old.iter_mut().all(|registration| registration.try_next().is_none()));
        let _new = registry.register(phone(), token(1));
        assert_eq!(registry.connections(), 2);
        for registration in &mut old[..3] {
            assert!(matches!(registration.next().await, Some(Outbound::Close { .. })));
        }
        assert!(old[3].try_next().is_none());
    }

    #[tokio::test]
    async fn a_token_s_connections_are_closed_for_good() {
        let registry = Registry::new(4);
        let mut revoked = registry.register(phone(), token(1));
        let mut valid = registry.register(phone(), token(2));
        assert_eq!(registry.close_tokens(&HashSet::from([token(1), token(3)])), 1);
        assert!(matches!(
            revoked.next().await,
            Some(Outbound::Close { allow_reconnect: false, .. })
        ));
        assert!(valid.try_next().is_none());
    }

    #[tokio::test]
    async fn what_does_not_fit_is_noticed() {
        let registry = Registry::new(1);
        let registration = registry.register(phone(), token(1));
        (0..QUEUE_CAPACITY).for_each(|_| {
            registry.send(&phone(), &Outbound::Resync(None));
        });
        assert_eq!(registration.take_missed(), None);
        registry.send(&phone(), &Outbound::Resync(None));
        let missed = MissedItems { some: true, ..MissedItems::default() };
        assert_eq!(registration.take_missed(), Some(missed));
        assert_eq!(registration.take_missed(), None);
    }
}
