//! Refused calls of the admin API, for the audit log: bounded by party and address, so that nobody fills it.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::IdentityService;
use crate::{
    app::{By, Caller},
    domain::{
        BoundedMap, Party, WhenFull,
        audit::{AuditAction, AuditOutcome},
    },
};

const WINDOW: Duration = Duration::from_secs(60);
/// Entries a minute of a party from one address, of a party, and of all together.
const MAX_FROM_ADDRESS: u32 = 5;
const MAX_OF_PARTY: u32 = 10;
const MAX_OF_ALL: u32 = 100;
const MAX_KEYS: usize = 10_000;

/// Why a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// The caller is no administrator.
    Forbidden,
    /// Its address may not call the admin API.
    Network,
    /// The token of an administrator expired or was revoked, or its owner is disabled.
    Ended,
}

impl RefusalReason {
    /// The stable name, in the audit log and in the metric.
    pub const fn name(self) -> &'static str {
        match self {
            RefusalReason::Forbidden => "forbidden",
            RefusalReason::Network => "network_not_allowed",
            RefusalReason::Ended => "token_ended",
        }
    }
}

/// A refused call.
#[derive(Clone, Copy, Debug)]
pub struct RefusedCall<'a> {
    pub caller: &'a Caller,
    pub refusal: RefusalReason,
    /// Method and path of the row, without what the client wrote in it.
    pub method: &'a str,
    pub route: &'static str,
    pub request: Option<&'a str>,
    pub peer: IpAddr,
}

type Key = (Option<Party>, Option<IpAddr>);

#[derive(Clone, Copy, Default)]
struct Count {
    recorded: u32,
    omitted: u32,
}

pub(super) struct Refusals {
    counts: Mutex<BoundedMap<Key, (Instant, Count)>>,
}

impl Default for Refusals {
    fn default() -> Self {
        Refusals { counts: Mutex::new(BoundedMap::new(MAX_KEYS, WhenFull::DropOldest)) }
    }
}

impl Refusals {
    /// How many refusals of this party and address were not recorded since the last entry; `None` if this one is
    /// not to be recorded either.
    fn admit(&self, party: &Party, peer: IpAddr, now: Instant) -> Option<u32> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let keys: [(Key, u32); 3] = [
            ((None, None), MAX_OF_ALL),
            ((Some(party.clone()), None), MAX_OF_PARTY),
            ((Some(party.clone()), Some(peer)), MAX_FROM_ADDRESS),
        ];
        let mut found = Vec::with_capacity(keys.len());
        for (key, most) in keys {
            let stored = counts.get(&key, now).copied();
            let (since, mut count) = stored.unwrap_or((now, Count::default()));
            let since = if now.saturating_duration_since(since) >= WINDOW {
                count.recorded = 0;
                now
            } else {
                since
            };
            found.push((key, most, since, count));
        }
        let admitted = found.iter().all(|(_, most, _, count)| count.recorded < *most);
        let omitted = found.last().map_or(0, |(.., count)| count.omitted);
        for (key, _, since, mut count) in found {
            if admitted {
                count = Count { recorded: count.recorded + 1, omitted: 0 };
            } else {
                count.omitted = count.omitted.saturating_add(1);
            }
            // Kept longer than its window, for the number that is told with the next entry.
            counts.insert(key, (since, count), Some(now + 60 * WINDOW), now);
        }
        admitted.then_some(omitted)
    }
}

impl IdentityService {
    /// Records that a call of the admin API was refused, within the bounds. The call is refused even if that
    /// fails.
    pub async fn record_refusal(&self, call: RefusedCall<'_>) {
        let RefusedCall { caller, refusal, method, route, request, peer } = call;
        let Some(omitted) = self.state.refusals.admit(&caller.party(), peer, Instant::now()) else {
            return;
        };
        let by = By::new(caller.actor()).in_request(request, Some(peer));
        let mut entry = self
            .core
            .entry(&by, AuditAction::AdminRefused)
            .with("code", refusal.name())
            .with("method", method)
            .with("route", route)
            .ended(AuditOutcome::Refused);
        if omitted > 0 {
            entry = entry.with("omitted", usize::try_from(omitted).unwrap_or_default());
        }
        if let Err(error) = self.core.record(entry).await {
            tracing::warn!(%error, "a refused call of the admin API could not be recorded");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Phone, UserId};

    fn user(n: u128) -> Party {
        Party::Business(UserId(uuid::Uuid::from_u128(n)))
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([203, 0, 113, last])
    }

    #[test]
    fn entries_are_bounded_by_party_and_address_and_the_rest_is_counted() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let recorded = |party: &Party, last: u8, now: Instant| {
            (0..100).filter(|_| refusals.admit(party, address(last), now).is_some()).count()
        };
        assert_eq!(recorded(&user(1), 1, now), 5);
        assert_eq!(recorded(&user(1), 2, now), 5, "another address");
        assert_eq!(recorded(&user(1), 3, now), 0, "the party has no more");
        let phone = Party::Mobile(Phone::from_stored("+967771234567"));
        assert_eq!(recorded(&phone, 1, now), 5, "another party");
        let later = now + WINDOW;
        assert_eq!(refusals.admit(&user(1), address(1), later), Some(95), "what was not recorded");
        assert_eq!(refusals.admit(&user(1), address(1), later), Some(0));
    }

    #[test]
    fn entries_of_all_parties_together_are_bounded() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let recorded =
            (0..1000).filter(|n| refusals.admit(&user(*n), address(1), now).is_some()).count();
        assert_eq!(recorded, 100);
    }
}
