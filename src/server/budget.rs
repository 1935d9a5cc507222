//! Memory budgets: how many bytes of request bodies, and of responses that are not sent yet, the process holds
//! for one party and for all.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{peer, principal::Principal, size_limits::MAX_JSON_LEN};
use crate::domain::Party;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The limits of a budget, in bytes unless another unit is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetLimits {
    /// Maximum of one party.
    pub party: usize,
    /// Maximum of all parties together.
    pub everybody: usize,
    /// Every party may hold this much, however much the others hold.
    pub assured: usize,
    /// This much of each reservation does not count towards `everybody`.
    pub free: usize,
}

impl BudgetLimits {
    /// For request bodies. A party can send one batch of the largest size, plus as much again. The size of a
    /// usual body does not count towards `everybody`: a client that sends large bodies slowly must not keep
    /// others from sending messages.
    pub const BODIES: BudgetLimits =
        BudgetLimits { party: 32 * MIB, everybody: 128 * MIB, assured: 0, free: MAX_JSON_LEN };
    /// For requests in flight, by number. Each takes some tens of KiB with its headers and its task.
    pub const REQUESTS: BudgetLimits =
        BudgetLimits { party: 1000, everybody: usize::MAX, assured: 0, free: 0 };
    /// For responses that are not sent yet. A party that reads its responses gets at least small pages,
    /// whatever others leave unread.
    pub const ANSWERS: BudgetLimits =
        BudgetLimits { party: 8 * MIB, everybody: 32 * MIB, assured: 64 * KIB, free: KIB };
}

/// Whom a reservation counts for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BudgetOwner {
    /// The owner of a token.
    Party(Party),
    /// Clients without a token at one address.
    Block(IpAddr),
    /// A command on the server.
    Operator,
}

impl From<&Principal> for BudgetOwner {
    fn from(principal: &Principal) -> BudgetOwner {
        match principal {
            Principal::User(caller) => BudgetOwner::Party(caller.party()),
            Principal::Anyone { peer } => BudgetOwner::Block(peer::block(*peer)),
            Principal::Operator(_) => BudgetOwner::Operator,
        }
    }
}

/// Waiting reservations per owner: each is a request that takes memory.
const MAX_WAITING: usize = 64;

#[derive(Debug, Default)]
struct OwnerUsage {
    bytes: usize,
    waiting: usize,
    freed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Usage {
    /// Counts towards `everybody`.
    counted: usize,
    of: HashMap<BudgetOwner, OwnerUsage>,
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget {
    bounds: BudgetLimits,
    usage: Arc<Mutex<Usage>>,
    freed: Arc<Notify>,
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetExceeded {
    /// The party's.
    Party,
    Everybody,
}

/// A part of the budget; released on drop.
#[derive(Debug)]
pub struct Reservation {
    budget: Budget,
    owner: BudgetOwner,
    bytes: usize,
}

impl Budget {
    pub fn new(bounds: BudgetLimits) -> Budget {
        Budget { bounds, usage: Arc::default(), freed: Arc::default() }
    }

    /// An empty reservation for this principal.
    pub fn of(&self, principal: &Principal) -> Reservation {
        self.owned_by(principal.into())
    }

    /// An empty reservation for this owner.
    pub fn owned_by(&self, owner: BudgetOwner) -> Reservation {
        Reservation { budget: self.clone(), owner, bytes: 0 }
    }

    /// Reserves `wanted` bytes. If they are not free within `timeout`, reserves `least`. Does not wait if too
    /// many reservations of the owner already do.
    ///
    /// # Errors
    /// `least` bytes are not free either.
    pub async fn reserve(
        &self,
        owner: BudgetOwner,
        wanted: usize,
        least: usize,
        timeout: Duration,
    ) -> Result<Reservation, BudgetExceeded> {
        let mut reserved = self.owned_by(owner);
        // More than a party may hold never becomes free.
        let (wanted, least) = (wanted.min(self.bounds.party), least.min(wanted));
        let Err(mut full) = reserved.grow(wanted) else { return Ok(reserved) };
        // Does not wait for others if the assured part is enough.
        let assured = self.bounds.assured;
        if full == BudgetExceeded::Everybody && assured >= least && reserved.grow(assured).is_ok() {
            return Ok(reserved);
        }
        let Some(_waits) = WaitingSlot::begin(self, &reserved.owner) else {
            reserved.grow(least)?;
            return Ok(reserved);
        };
        let deadline = Instant::now() + timeout;
        loop {
            let freed = match full {
                BudgetExceeded::Party => self.freed_of(&reserved.owner),
                BudgetExceeded::Everybody => Arc::clone(&self.freed),
            };
            // `notify_one` stores a permit if bytes were freed before this waits.
            let waited = tokio::time::timeout_at(deadline, freed.notified()).await;
            match reserved.grow(wanted) {
                Ok(()) => {
                    // The freed bytes may be enough for the next waiting reservation, too.
                    freed.notify_one();
                    return Ok(reserved);
                }
                Err(now) => full = now,
            }
            if waited.is_err() || Instant::now() >= deadline {
                reserved.grow(least)?;
                return Ok(reserved);
            }
        }
    }

    fn freed_of(&self, owner: &BudgetOwner) -> Arc<Notify> {
        let usage = self.usage();
        // Without an entry the owner holds nothing, so there is nothing to wait for.
        usage.of.get(owner).map_or_else(
            || {
                let free = Arc::new(Notify::new());
                free.notify_one();
                free
            },
            |own| Arc::clone(&own.freed),
        )
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reserves this many bytes more.
    ///
    /// # Errors
    /// They are not free.
    pub fn grow(&mut self, bytes: usize) -> Result<(), BudgetExceeded> {
        if bytes == 0 {
            return Ok(());
        }
        let BudgetLimits { party, everybody, assured, .. } = self.budget.bounds;
        let wanted = self.bytes.saturating_add(bytes);
        let more = self.counted(wanted) - self.counted(self.bytes);
        let budget = self.budget.clone();
        let mut usage = budget.usage();
        let own = usage.of.get(&self.owner).map_or(0, |own| own.bytes).saturating_add(bytes);
        if more > 0 && own > assured && usage.counted.saturating_add(more) > everybody {
            return Err(BudgetExceeded::Everybody);
        }
        if own > party {
            return Err(BudgetExceeded::Party);
        }
        self.put(&mut usage, wanted);
        Ok(())
    }

    /// Sets the reservation to exactly this many bytes, even past the limit: the bytes exist already.
    pub fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            let budget = self.budget.clone();
            self.put(&mut budget.usage(), bytes);
        }
    }

    /// How many of these bytes count towards `everybody`.
    fn counted(&self, bytes: usize) -> usize {
        bytes.saturating_sub(self.budget.bounds.free)
    }

    fn put(&mut self, usage: &mut Usage, bytes: usize) {
        usage.counted =
            (usage.counted + self.counted(bytes)).saturating_sub(self.counted(self.bytes));
        let own = usage.of.entry(self.owner.clone()).or_default();
        own.bytes = (own.bytes + bytes).saturating_sub(self.bytes);
        if bytes < self.bytes {
            own.freed.notify_one();
            self.budget.freed.notify_one();
        }
        if own.bytes == 0 && own.waiting == 0 {
            usage.of.remove(&self.owner);
        }
        self.bytes = bytes;
    }
}

/// A waiting reservation.
struct WaitingSlot<'a> {
    budget: &'a Budget,
    owner: BudgetOwner,
}

impl<'a> WaitingSlot<'a> {
    /// `None` when too many reservations of the owner wait.
    fn begin(budget: &'a Budget, owner: &BudgetOwner) -> Option<WaitingSlot<'a>> {
        let mut usage = budget.usage();
        let own = usage.of.entry(owner.clone()).or_default();
        if own.waiting >= MAX_WAITING {
            return None;
        }
        own.waiting += 1;
        Some(WaitingSlot { budget, owner: owner.clone() })
    }
}

impl Drop for WaitingSlot<'_> {
    fn drop(&mut self) {
        let mut usage = self.budget.usage();
        let Some(own) = usage.of.get_mut(&self.owner) else { return };
        own.waiting -= 1;
        if own.waiting == 0 && own.bytes == 0 {
            usage.of.remove(&self.owner);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::UserId;

    const PARTY: usize = BudgetLimits::BODIES.party;

    fn owner(user: u128) -> BudgetOwner {
        BudgetOwner::Party(Party::Business(UserId(uuid::Uuid::from_u128(user))))
    }

    fn reserved(budget: &Budget, user: u128) -> Reservation {
        budget.owned_by(owner(user))
    }

    #[test]
    fn a_party_has_its_share_and_all_have_theirs() {
        let budget = Budget::new(BudgetLimits::BODIES);
        let mut first = reserved(&budget, 1);
        first.grow(0).unwrap();
        first.grow(MAX_JSON_LEN / 2).unwrap();
        first.grow(PARTY - MAX_JSON_LEN / 2).unwrap();
        assert_eq!(reserved(&budget, 1).grow(1), Err(BudgetExceeded::Party));
        let mut others: Vec<Reservation> = (2..5).map(|user| reserved(&budget, user)).collect();
        others.iter_mut().for_each(|other| other.grow(PARTY).unwrap());
        let mut last = reserved(&budget, 9);
        assert_eq!(last.grow(PARTY), Err(BudgetExceeded::Everybody));
        reserved(&budget, 10).grow(MAX_JSON_LEN).unwrap();
        drop(first);
        last.grow(PARTY).unwrap();
        drop((last, others));
        reserved(&budget, 11).grow(0).unwrap();
        assert_eq!(budget.usage().counted, 0);
        assert!(budget.usage().of.is_empty(), "nothing is kept of an owner that holds nothing");
    }

    #[test]
    fn strangers_have_a_share_each_and_not_one_for_all() {
        let budget = Budget::new(BudgetLimits::BODIES);
        let of = |peer: &str| budget.of(&Principal::Anyone { peer: peer.parse().unwrap() });
        let (mut one, mut same) = (of("2001:db8::1"), of("2001:db8::2"));
        one.grow(PARTY).unwrap();
        assert_eq!(same.grow(1), Err(BudgetExceeded::Party), "one network is one stranger");
        of("203.0.113.9").grow(PARTY).unwrap();
    }

    #[test]
    fn what_others_hold_leaves_a_party_what_it_is_assured_of() {
        let bounds = BudgetLimits::ANSWERS;
        let budget = Budget::new(bounds);
        let mut large: Vec<Reservation> = Vec::new();
        for user in 0u128.. {
            let mut one = reserved(&budget, user);
            if one.grow(bounds.party) == Err(BudgetExceeded::Everybody) {
                break;
            }
            large.push(one);
        }
        assert_eq!(large.len(), bounds.everybody / bounds.party);
        let (mut page, mut other) = (reserved(&budget, 100), reserved(&budget, 100));
        assert_eq!(page.grow(MIB), Err(BudgetExceeded::Everybody));
        page.grow(bounds.assured).unwrap();
        assert_eq!(other.grow(2 * KIB), Err(BudgetExceeded::Everybody));
        other.grow(bounds.free).unwrap();
    }

    #[tokio::test]
    async fn a_request_waits_for_room_and_then_takes_less() {
        let budget = Budget::new(BudgetLimits::ANSWERS);
        let party = BudgetLimits::ANSWERS.party;
        let timeout = Duration::from_millis(300);
        let reserve = |wanted, least| budget.reserve(owner(1), wanted, least, timeout);
        let first = reserve(party, party).await.unwrap();
        // The freed bytes are enough for two waiting reservations.
        let waiting = async { tokio::join!(reserve(MIB, KIB), reserve(MIB, KIB)) };
        let freeing = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop(first);
        };
        let ((one, two), ()) = tokio::join!(waiting, freeing);
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_eq!((one.bytes(), two.bytes()), (MIB, MIB));
        let rest = reserve(party - 2 * MIB - KIB, KIB).await.unwrap();
        assert_eq!(reserve(MIB, KIB).await.unwrap().bytes(), KIB);
        let last = reserve(KIB, KIB).await.unwrap();
        assert_eq!(reserve(KIB, KIB).await.unwrap_err(), BudgetExceeded::Party);
        drop((one, two, rest, last));
        assert!(budget.usage().of.is_empty());
    }

    proptest! {
        // Property: after any sequence of operations, the totals equal the sum of the reservations.
        #[test]
        fn the_sums_are_those_of_what_is_held(
            steps in proptest::collection::vec((0u128..4, 0usize..6, 0usize..5 * MIB), 1..60)
        ) {
            let budget = Budget::new(BudgetLimits::ANSWERS);
            let mut usage: Vec<Reservation> = Vec::new();
            for (user, step, bytes) in steps {
                match (step, usage.len()) {
                    (0, 1..) => drop(usage.swap_remove(bytes % usage.len())),
                    (1, count @ 1..) => usage[bytes % count].set(bytes),
                    (2, count @ 1..) => { let _ = usage[bytes % count].grow(bytes); }
                    _ => {
                        let mut one = reserved(&budget, user);
                        if one.grow(bytes).is_ok() { usage.push(one); }
                    }
                }
                let counted: usize = usage.iter().map(|one| one.counted(one.bytes)).sum();
                prop_assert_eq!(budget.usage().counted, counted);
                for user in 0..4 {
                    let own = usage.iter().filter(|one| one.owner == owner(user));
                    let own: usize = own.map(Reservation::bytes).sum();
                    let known = budget.usage().of.get(&owner(user)).map_or(0, |own| own.bytes);
                    prop_assert_eq!(known, own);
                }
            }
        }
    }
}
