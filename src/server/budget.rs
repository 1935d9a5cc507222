//! How much of requests' bodies is held at once: by one party, and by all.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use super::{peer, principal::Principal, route::USUAL};
use crate::domain::Party;

/// The most bytes of one party's bodies at once: a batch of the largest size, and as much again of others.
pub const PARTY: usize = 32 * 1024 * 1024;
/// The most bytes of all large bodies at once. What a usual request has is not counted: whoever sends large bodies
/// slowly must not keep others from sending messages.
const EVERYBODY: usize = 128 * 1024 * 1024;

/// Whose bodies they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Owner {
    /// Of the owner of a token.
    Party(Party),
    /// Of strangers at one address.
    Block(IpAddr),
    /// Of a command on the server.
    Operator,
}

#[derive(Debug, Default)]
struct Held {
    large: usize,
    of: HashMap<Owner, usize>,
}

/// The budget of a gateway. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    held: Arc<Mutex<Held>>,
}

/// Whose budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// That of the party.
    Party,
    /// That of all large ones.
    Everybody,
}

/// What one request holds of the budget; given back when it is dropped.
#[derive(Debug)]
pub struct Reserved {
    budget: Budget,
    owner: Owner,
    bytes: usize,
}

impl Budget {
    /// Nothing yet, for a request of this principal.
    pub fn of(&self, principal: &Principal) -> Reserved {
        let owner = match principal {
            Principal::User(caller) => Owner::Party(caller.party()),
            Principal::Anyone { peer } => Owner::Block(peer::block(*peer)),
            Principal::Operator(_) => Owner::Operator,
        };
        Reserved { budget: self.clone(), owner, bytes: 0 }
    }
}

impl Reserved {
    /// Takes this many bytes more.
    ///
    /// # Errors
    /// There are not as many left.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Full> {
        if bytes == 0 {
            return Ok(());
        }
        let large = self.bytes.saturating_add(bytes).saturating_sub(USUAL).min(bytes);
        let mut held = self.budget.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.large.saturating_add(large) > EVERYBODY {
            return Err(Full::Everybody);
        }
        let own = held.of.get(&self.owner).copied().unwrap_or_default();
        if own.saturating_add(bytes) > PARTY {
            return Err(Full::Party);
        }
        held.large += large;
        held.of.insert(self.owner.clone(), own + bytes);
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut held = self.budget.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.large = held.large.saturating_sub(self.bytes.saturating_sub(USUAL));
        let left = held.of.get(&self.owner).copied().unwrap_or_default().saturating_sub(self.bytes);
        if left == 0 {
            held.of.remove(&self.owner);
        } else {
            held.of.insert(self.owner.clone(), left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::UserId;

    fn reserved(budget: &Budget, user: u128) -> Reserved {
        let owner = Owner::Party(Party::Business(UserId(uuid::Uuid::from_u128(user))));
        Reserved { budget: budget.clone(), owner, bytes: 0 }
    }

    #[test]
    fn a_party_has_its_share_and_all_have_theirs() {
        let budget = Budget::default();
        let mut first = reserved(&budget, 1);
        first.grow(0).unwrap();
        first.grow(USUAL / 2).unwrap();
        first.grow(PARTY - USUAL / 2).unwrap();
        assert_eq!(reserved(&budget, 1).grow(1), Err(Full::Party));
        let mut others: Vec<Reserved> = (2..5).map(|user| reserved(&budget, user)).collect();
        others.iter_mut().for_each(|other| other.grow(PARTY).unwrap());
        let mut last = reserved(&budget, 9);
        assert_eq!(last.grow(PARTY), Err(Full::Everybody));
        reserved(&budget, 10).grow(USUAL).unwrap();
        drop(first);
        last.grow(PARTY).unwrap();
        drop((last, others));
        reserved(&budget, 11).grow(0).unwrap();
        assert_eq!(budget.held.lock().unwrap().large, 0);
        assert!(budget.held.lock().unwrap().of.is_empty(), "nothing is kept of who holds nothing");
    }

    #[test]
    fn strangers_have_a_share_each_and_not_one_for_all() {
        let budget = Budget::default();
        let of = |peer: &str| budget.of(&Principal::Anyone { peer: peer.parse().unwrap() });
        let (mut one, mut same) = (of("2001:db8::1"), of("2001:db8::2"));
        one.grow(PARTY).unwrap();
        assert_eq!(same.grow(1), Err(Full::Party), "one network is one stranger");
        of("203.0.113.9").grow(PARTY).unwrap();
    }
}
