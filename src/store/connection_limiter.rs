//! Limits how many connections each party uses at once; the rest is reserved for storing and delivering
//! messages.
//!
//! A connection for lists or administration, for reading pending messages, or for authentication counts
//! against its class. All classes together cannot take the whole pool. Within a class a party has a limit;
//! its further requests queue behind its own and take nothing from others.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Error, StatementGroup};
use crate::domain::Party;

/// Smaller pools belong to commands and tests, and have no limits.
const MIN_LIMITED_POOL: usize = 8;
/// How long a caller waits for a permit.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for pending messages: after a reconnect, a party with thousands of sockets reads for all of them,
/// and a long wait is no fault of the database.
const PENDING_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(20);
/// Queued reads per party; one more is refused at once. Reads of pending messages are not counted: the number
/// of sockets bounds them.
const MAX_QUEUED_PER_PARTY: usize = 256;
/// Queued token look-ups per address: thousands of phones may reconnect through one carrier's address.
const MAX_QUEUED_PER_ADDRESS: usize = 2000;

/// The class of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ConnectionClass {
    /// Lists, conversations, administration and background work.
    Reads,
    /// Messages pending for connected recipients.
    Pending,
    /// Authentication. The party is unknown then; the limit is per address.
    Access,
}

impl ConnectionClass {
    /// `None` for groups without a limit: storing, delivering, heartbeats.
    fn of(group: StatementGroup) -> Option<ConnectionClass> {
        match group {
            StatementGroup::Sends
            | StatementGroup::Chat
            | StatementGroup::Statuses
            | StatementGroup::WakeUps
            | StatementGroup::Sweeps
            | StatementGroup::Nodes
            | StatementGroup::Audit => None,
            StatementGroup::Pending => Some(ConnectionClass::Pending),
            StatementGroup::Access => Some(ConnectionClass::Access),
            StatementGroup::Lists
            | StatementGroup::Conversations
            | StatementGroup::Jobs
            | StatementGroup::Upkeep
            | StatementGroup::Other => Some(ConnectionClass::Reads),
        }
    }
}

/// The limits of one pool.
#[derive(Clone)]
pub(super) struct ConnectionLimiter {
    inner: Arc<Inner>,
}

struct Inner {
    reads: Arc<Semaphore>,
    pending: Arc<Semaphore>,
    access: Arc<Semaphore>,
    reads_of_party: usize,
    pending_of_party: usize,
    access_of_address: usize,
    /// Parties that hold or wait for a permit, by hash.
    parties: Mutex<HashMap<(ConnectionClass, u64), PartySlots>>,
    hasher: RandomState,
}

/// The permits of one party.
struct PartySlots {
    free: Arc<Semaphore>,
    /// Holders and waiters.
    users: usize,
}

/// A permit to use a connection of a class; released when dropped.
#[derive(Default)]
pub(super) struct ConnectionPermit {
    // Dropped first: the party's next request then finds the connection.
    _of_kind: Option<OwnedSemaphorePermit>,
    _of_party: Option<PartyPermit>,
}

pub(super) struct PartyPermit {
    _turn: OwnedSemaphorePermit,
    _user: PartyUse,
}

/// Counts one holder or waiter of a party.
struct PartyUse {
    inner: Arc<Inner>,
    key: (ConnectionClass, u64),
}

impl ConnectionLimiter {
    /// The limits of a pool: five sixteenths each for reads and for pending messages, an eighth plus one for
    /// authentication; the rest is reserved. A party may have a third of the reads and half of the pending
    /// ones.
    pub(super) fn of_pool(size: usize) -> ConnectionLimiter {
        let size = size.min(Semaphore::MAX_PERMITS);
        let of_kind = size / 16 * 5 + size % 16 * 5 / 16;
        let [of_kind, access, reads_of_party, pending_of_party, access_of_address] =
            if size < MIN_LIMITED_POOL {
                [size; 5]
            } else {
                let access = size / 8 + 1;
                [of_kind, access, of_kind.div_ceil(3), of_kind.div_ceil(2), access.div_ceil(2)]
            };
        ConnectionLimiter {
            inner: Arc::new(Inner {
                reads: Arc::new(Semaphore::new(of_kind)),
                pending: Arc::new(Semaphore::new(of_kind)),
                access: Arc::new(Semaphore::new(access)),
                reads_of_party,
                pending_of_party,
                access_of_address,
                parties: Mutex::default(),
                hasher: RandomState::new(),
            }),
        }
    }

    /// The key of a party.
    pub(super) fn key(&self, party: &Party) -> u64 {
        self.inner.hasher.hash_one(party)
    }

    /// The key of an address.
    pub(super) fn key_of_address(&self, address: IpAddr) -> u64 {
        self.inner.hasher.hash_one(address)
    }

    /// Waits for a permit of a party; groups without a limit need none.
    ///
    /// # Errors
    /// [`Error::Busy`] when the party's queue is full, or no permit was released in time.
    pub(super) async fn of_party(
        &self,
        group: StatementGroup,
        party: u64,
    ) -> Result<Option<PartyPermit>, Error> {
        let Some(kind) = ConnectionClass::of(group) else { return Ok(None) };
        let (most, waiting, timeout) = match kind {
            ConnectionClass::Reads => {
                (self.inner.reads_of_party, MAX_QUEUED_PER_PARTY, ACQUIRE_TIMEOUT)
            }
            ConnectionClass::Pending => {
                (self.inner.pending_of_party, usize::MAX, PENDING_ACQUIRE_TIMEOUT)
            }
            ConnectionClass::Access => {
                (self.inner.access_of_address, MAX_QUEUED_PER_ADDRESS, ACQUIRE_TIMEOUT)
            }
        };
        let (user, free) = {
            let mut parties = self.inner.parties();
            let key = (kind, party);
            let turns = parties
                .entry(key)
                .or_insert_with(|| PartySlots { free: Arc::new(Semaphore::new(most)), users: 0 });
            if turns.users >= most.saturating_add(waiting) {
                metrics::counter!("esh3ar_database_reads_refused_total").increment(1);
                return Err(Error::Busy);
            }
            turns.users += 1;
            (PartyUse { inner: Arc::clone(&self.inner), key }, Arc::clone(&turns.free))
        };
        let turn = within(timeout, free.acquire_owned()).await?;
        Ok(Some(PartyPermit { _turn: turn, _user: user }))
    }

    /// Waits for a permit of the class.
    ///
    /// # Errors
    /// [`Error::Busy`] when no permit was released in time.
    pub(super) async fn place(
        &self,
        group: StatementGroup,
        of_party: Option<PartyPermit>,
    ) -> Result<ConnectionPermit, Error> {
        let of_kind = match ConnectionClass::of(group) {
            None => None,
            Some(ConnectionClass::Reads) => Some(&self.inner.reads),
            Some(ConnectionClass::Pending) => Some(&self.inner.pending),
            Some(ConnectionClass::Access) => Some(&self.inner.access),
        };
        let of_kind = match of_kind {
            None => None,
            Some(free) => Some(within(ACQUIRE_TIMEOUT, Arc::clone(free).acquire_owned()).await?),
        };
        Ok(ConnectionPermit { _of_kind: of_kind, _of_party: of_party })
    }
}

async fn within<T, E>(
    timeout: Duration,
    permit: impl Future<Output = Result<T, E>>,
) -> Result<T, Error> {
    match tokio::time::timeout(timeout, permit).await {
        Ok(Ok(permit)) => Ok(permit),
        // The database is up; others, or the party itself, use all permits.
        _ => Err(Error::Busy),
    }
}

impl Inner {
    fn parties(&self) -> MutexGuard<'_, HashMap<(ConnectionClass, u64), PartySlots>> {
        self.parties.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PartyUse {
    fn drop(&mut self) {
        let mut parties = self.inner.parties();
        let Some(turns) = parties.get_mut(&self.key) else { return };
        turns.users = turns.users.saturating_sub(1);
        if turns.users == 0 {
            parties.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn now<T>(future: impl Future<Output = Result<T, Error>>) -> Option<T> {
        // Outside tokio's cooperative budget, which would report a free permit as pending.
        let future = tokio::task::unconstrained(future);
        future.now_or_never().map(|found| found.expect("nothing fails here"))
    }

    /// A permit that is available now.
    fn place(
        shares: &ConnectionLimiter,
        group: StatementGroup,
        party: Option<u64>,
    ) -> Option<ConnectionPermit> {
        let of_party = match party {
            None => None,
            Some(party) => now(shares.of_party(group, party))?,
        };
        now(shares.place(group, of_party))
    }

    #[tokio::test]
    async fn all_kinds_together_leave_connections_for_storing() {
        for size in 8..=64 {
            let shares = ConnectionLimiter::of_pool(size);
            let taken: Vec<ConnectionPermit> = [
                StatementGroup::Lists,
                StatementGroup::Other,
                StatementGroup::Pending,
                StatementGroup::Access,
            ]
            .into_iter()
            .flat_map(|group| std::iter::repeat_n(group, size))
            .filter_map(|group| place(&shares, group, None))
            .collect();
            assert!(taken.len() + 2 <= size, "{} of {size}", taken.len());
            assert!(taken.len() * 2 >= size, "{} of {size}", taken.len());
            assert!(place(&shares, StatementGroup::Sends, None).is_some());
            drop(taken);
            assert!(place(&shares, StatementGroup::Lists, None).is_some());
        }
    }

    #[tokio::test]
    async fn a_party_has_a_part_of_its_kind_and_leaves_the_rest_to_others() {
        let shares = ConnectionLimiter::of_pool(16);
        let of = |group, party| {
            let places = (0..16).map(|_| place(&shares, group, Some(party)));
            places.flatten().collect::<Vec<ConnectionPermit>>()
        };
        // For authentication the limit is per address.
        for (group, part) in [
            (StatementGroup::Lists, 2),
            (StatementGroup::Conversations, 2),
            (StatementGroup::Pending, 3),
            (StatementGroup::Access, 2),
        ] {
            let busy = of(group, 1);
            assert_eq!(busy.len(), part, "{group:?}");
            assert!(place(&shares, group, Some(2)).is_some());
        }
        assert!(shares.inner.parties().is_empty(), "nobody is remembered who does not read");
    }

    #[tokio::test]
    async fn a_small_pool_is_shared_by_all() {
        for size in 1..8 {
            let shares = ConnectionLimiter::of_pool(size);
            let all = (0..size).map(|_| place(&shares, StatementGroup::Lists, Some(1)));
            assert_eq!(all.flatten().collect::<Vec<ConnectionPermit>>().len(), size);
        }
    }

    #[tokio::test]
    async fn so_many_reads_of_a_party_wait_and_one_more_is_refused() {
        let shares = ConnectionLimiter::of_pool(16);
        let mut reads: Vec<_> = (0..2 + MAX_QUEUED_PER_PARTY)
            .map(|_| Box::pin(shares.of_party(StatementGroup::Lists, 1)))
            .collect();
        let running: Vec<_> = reads.iter_mut().filter_map(|read| read.now_or_never()).collect();
        assert_eq!(running.len(), 2);
        assert!(matches!(shares.of_party(StatementGroup::Lists, 1).await, Err(Error::Busy)));
        assert!(shares.of_party(StatementGroup::Lists, 2).await.is_ok());
        drop(running);
        let running = reads.iter_mut().skip(2).filter_map(|read| read.now_or_never()).count();
        assert!(running >= 2, "those that waited longest");
    }
}
