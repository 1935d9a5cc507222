//! Who a token belongs to: the only place that authenticates.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ring::digest::{SHA256, digest};

use super::IdentityService;
use crate::app::{Caller, Error, identity::access::Identity};
use crate::{
    domain::{BoundedMap, Party, Permissions, TokenId, UserId, WhenFull},
    store::{self, StatementGroup, tokens::TokenOwner},
};

/// How long a look-up is believed. A revoked token opens nothing any more after this long.
const LOOK_UP_TTL: Duration = Duration::from_secs(1);
/// How many look-ups are remembered; when more different tokens than that are shown in a second, some are
/// looked up each time.
const MAX_LOOK_UPS: usize = 50_000;
/// No token of ours is longer; what is longer is not even hashed.
const MAX_TOKEN_LEN: usize = 200;

type Hash = [u8; 32];

/// Look-ups of the last second: a sender of a thousand messages a second is looked up once.
pub(super) struct KnownTokens {
    known: Mutex<BoundedMap<Hash, Caller>>,
    /// Apart, so that a flood of tokens that nobody has does not push out those that somebody has.
    unknown: Mutex<BoundedMap<Hash, ()>>,
}

impl Default for KnownTokens {
    fn default() -> Self {
        KnownTokens {
            known: Mutex::new(BoundedMap::new(MAX_LOOK_UPS, WhenFull::DropOldest)),
            unknown: Mutex::new(BoundedMap::new(MAX_LOOK_UPS, WhenFull::DropOldest)),
        }
    }
}

fn locked<T>(map: &Mutex<T>) -> MutexGuard<'_, T> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

impl KnownTokens {
    fn get(&self, hash: &Hash, now: Instant) -> Option<Option<Caller>> {
        let known = locked(&self.known).get(hash, now).cloned();
        known.map(Some).or_else(|| locked(&self.unknown).get(hash, now).map(|()| None))
    }

    fn put(&self, hash: Hash, now: Instant, caller: Option<Caller>) {
        let until = Some(now + LOOK_UP_TTL);
        match caller {
            Some(caller) => locked(&self.known).insert(hash, caller, until, now),
            None => locked(&self.unknown).insert(hash, (), until, now),
        };
    }

    /// Believes no longer what was looked up about these.
    pub(in crate::app) fn forget(&self, tokens: &HashSet<TokenId>) {
        locked(&self.known).retain(|_, caller| !tokens.contains(&caller.token));
    }

    /// Applies what these business users may do now.
    pub(in crate::app) fn set_permissions(&self, changed: &HashMap<UserId, Permissions>) {
        locked(&self.known).retain(|_, caller| {
            let Party::Business(user) = caller.party() else { return true };
            changed.get(&user).is_none_or(|now| !caller.clone().set_permissions(*now))
        });
    }
}

/// The form in which a token is stored.
pub(in crate::app) fn hash(token: &str) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

impl IdentityService {
    /// Finds out who shows this token. `from` is the part of the client's address by which it is limited: tokens that
    /// are not known here are looked up a few at a time of one address.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] for a token that is unknown, expired or revoked, or whose owner is
    /// disabled; [`Error::Unavailable`] when that cannot be found out; [`Error::Overloaded`] when too many look-ups of
    /// the address wait.
    pub async fn authenticate(&self, token: &str, from: IpAddr) -> Result<Caller, Error> {
        if token.is_empty() || token.len() > MAX_TOKEN_LEN {
            return Err(Error::Unauthenticated);
        }
        let hash = hash(token);
        let now = Instant::now();
        // By their hashes: how long that takes tells nothing of the token.
        if !self.probe_token().is_empty() && hash == self::hash(self.probe_token()) {
            return Ok(Caller::probe());
        }
        if let Some(caller) = self.state.known_tokens.get(&hash, now) {
            let valid =
                caller.filter(|c| c.expires_at.is_none_or(|at| at > self.core.clock().now()));
            return valid.ok_or(Error::Unauthenticated);
        }
        let client = self.core.store().of_address(from).client_for(StatementGroup::Access).await?;
        let caller =
            store::tokens::find(&client, &hash, self.core.clock().now()).await?.map(|valid| {
                Caller {
                    token: valid.id,
                    expires_at: valid.expires_at,
                    identity: match valid.owner {
                        TokenOwner::Business { id, name, permissions } => {
                            Identity::Business { id, name: name.into(), permissions }
                        }
                        TokenOwner::Mobile { phone } => Identity::Mobile { phone },
                    },
                }
            });
        self.state.known_tokens.put(hash, now, caller.clone());
        caller.ok_or(Error::Unauthenticated)
    }
}
