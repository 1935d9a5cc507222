//! Who a token belongs to: the only place that authenticates.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ring::digest::{SHA256, digest};

use super::{
    IdentityService,
    look_ups::{Hash, LookUps},
    token_form,
};
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

/// Look-ups of the last second: a sender of a thousand messages a second is looked up once.
pub(super) struct KnownTokens {
    known: Mutex<BoundedMap<Hash, Caller>>,
    /// Apart, so that a flood of tokens that nobody has does not push out those that somebody has.
    unknown: Mutex<BoundedMap<Hash, TokenCheck>>,
}

/// What was found out about a token.
#[derive(Clone, Debug)]
pub enum TokenCheck {
    Valid(Caller),
    /// It expired or was revoked, or its owner may not come in. Who it was.
    Ended(Caller),
    Unknown,
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
    fn get(&self, hash: &Hash, now: Instant) -> Option<TokenCheck> {
        let known = locked(&self.known).get(hash, now).cloned();
        known.map(TokenCheck::Valid).or_else(|| locked(&self.unknown).get(hash, now).cloned())
    }

    fn put(&self, hash: Hash, now: Instant, found: TokenCheck) {
        let until = Some(now + LOOK_UP_TTL);
        match found {
            TokenCheck::Valid(caller) => locked(&self.known).insert(hash, caller, until, now),
            found => locked(&self.unknown).insert(hash, found, until, now),
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
    /// Finds out who shows this token; see [`IdentityService::check_token`].
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] for a token that is unknown, expired or revoked, or whose owner is
    /// disabled or blocked; those of [`IdentityService::check_token`].
    pub async fn authenticate(&self, token: &str, from: IpAddr) -> Result<Caller, Error> {
        match self.check_token(token, from).await? {
            TokenCheck::Valid(caller) => Ok(caller),
            TokenCheck::Ended(_) | TokenCheck::Unknown => Err(Error::Unauthenticated),
        }
    }

    /// Finds out whose this token is, and whether it is valid. `from` is the part of the client's address by which it
    /// is limited: tokens that are not known here are looked up a few at a time of one address, and those that are
    /// not valid a few a second.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it cannot be found out; [`Error::Overloaded`] when too many look-ups of
    /// the address wait; [`Error::RateLimited`] when too many tokens of the address were not valid.
    pub async fn check_token(&self, token: &str, from: IpAddr) -> Result<TokenCheck, Error> {
        let checked = self.find_token(token, from).await;
        let reason = match &checked {
            Ok(TokenCheck::Unknown) => Some("unknown"),
            Ok(TokenCheck::Ended(_)) => Some("ended"),
            Err(Error::RateLimited { .. }) => Some("limited"),
            Ok(TokenCheck::Valid(_)) | Err(_) => None,
        };
        if let Some(reason) = reason {
            metrics::counter!("esh3ar_refused_tokens_total", "reason" => reason).increment(1);
        }
        checked
    }

    async fn find_token(&self, token: &str, from: IpAddr) -> Result<TokenCheck, Error> {
        if token.is_empty() || token.len() > MAX_TOKEN_LEN {
            return Ok(TokenCheck::Unknown);
        }
        let hash = hash(token);
        let now = Instant::now();
        // By their hashes: how long that takes tells nothing of the token.
        if !self.probe_token().is_empty() && hash == self::hash(self.probe_token()) {
            return Ok(TokenCheck::Valid(Caller::probe()));
        }
        if !token_form::is_well_formed(token) {
            return Ok(TokenCheck::Unknown);
        }
        if let Some(found) = self.state.known_tokens.get(&hash, now) {
            return Ok(match found {
                TokenCheck::Valid(caller)
                    if caller.expires_at.is_some_and(|at| at <= self.core.clock().now()) =>
                {
                    TokenCheck::Ended(caller)
                }
                found => found,
            });
        }
        self.may_look_up(from, &hash, now)?;
        let client = self.core.store().of_address(from).client_for(StatementGroup::Access).await?;
        // Again: while it waited for the connection, others of the address were looked up in vain.
        self.may_look_up(from, &hash, Instant::now())?;
        let at = self.core.clock().now();
        let found = store::tokens::find(&client, &hash, at).await?;
        drop(client);
        let found = match found {
            None => TokenCheck::Unknown,
            Some(found) => {
                let caller = Caller {
                    token: found.id,
                    expires_at: found.expires_at,
                    identity: match found.owner {
                        TokenOwner::Business { id, name, permissions, content_policy } => {
                            self.state.policies.set(id, content_policy);
                            Identity::Business { id, name: name.into(), permissions }
                        }
                        TokenOwner::Mobile { phone } => Identity::Mobile { phone },
                    },
                };
                if found.valid { TokenCheck::Valid(caller) } else { TokenCheck::Ended(caller) }
            }
        };
        match &found {
            TokenCheck::Valid(caller) => {
                self.state.look_ups.succeeded(hash, now);
                self.state.token_use.note(caller.token, at);
            }
            _ => self.state.look_ups.failed(from, &hash, Instant::now()),
        }
        self.state.known_tokens.put(hash, now, found.clone());
        Ok(found)
    }

    fn may_look_up(&self, from: IpAddr, hash: &Hash, now: Instant) -> Result<(), Error> {
        self.state.look_ups.admit(from, hash, now).map_err(|retry_after| Error::RateLimited {
            retry_after,
            most: LookUps::PER_SECOND,
            what: "invalid tokens",
            per: "second",
        })
    }
}
