//! Limits how many tokens that are not valid are looked up for one address. A token that was valid within the last
//! hour is not limited, so that somebody behind the same address keeps its access.

use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::domain::{BoundedMap, WhenFull};

/// A token as it is stored.
pub(super) type Hash = [u8; 32];

/// Look-ups in vain of an address at once; see also [`LookUps::PER_SECOND`].
const BURST: f64 = 50.0;
/// How long an address that has used its look-ups is remembered: then it has all of them again.
const FORGET_AFTER: Duration = Duration::from_secs(5);
const MAX_ADDRESSES: usize = 20_000;
/// How long a token counts as one that was valid lately.
const RECENT_TTL: Duration = Duration::from_secs(3600);
const MAX_RECENT: usize = 100_000;

pub(super) struct LookUps {
    addresses: Mutex<BoundedMap<IpAddr, Bucket>>,
    recent: Mutex<BoundedMap<Hash, ()>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn left(&self, now: Instant) -> f64 {
        let gained =
            now.saturating_duration_since(self.at).as_secs_f64() * f64::from(LookUps::PER_SECOND);
        (self.left + gained).min(BURST)
    }
}

impl Default for LookUps {
    fn default() -> Self {
        LookUps {
            addresses: Mutex::new(BoundedMap::new(MAX_ADDRESSES, WhenFull::DropOldest)),
            recent: Mutex::new(BoundedMap::new(MAX_RECENT, WhenFull::DropOldest)),
        }
    }
}

fn locked<T>(map: &Mutex<T>) -> MutexGuard<'_, T> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LookUps {
    /// Look-ups in vain of an address per second.
    pub(super) const PER_SECOND: u32 = 10;

    /// Whether this token may be looked up now; otherwise how long to wait.
    pub(super) fn admit(&self, from: IpAddr, hash: &Hash, now: Instant) -> Result<(), Duration> {
        let left = locked(&self.addresses).get(&from, now).map_or(BURST, |bucket| bucket.left(now));
        if left >= 1.0 || locked(&self.recent).get(hash, now).is_some() {
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - left) / f64::from(LookUps::PER_SECOND)))
    }

    /// A look-up in vain.
    pub(super) fn failed(&self, from: IpAddr, hash: &Hash, now: Instant) {
        let mut recent = locked(&self.recent);
        if recent.get(hash, now).is_some() {
            // Ends at once.
            recent.insert(*hash, (), Some(now), now);
        }
        drop(recent);
        let mut addresses = locked(&self.addresses);
        let left = addresses.get(&from, now).map_or(BURST, |bucket| bucket.left(now));
        let bucket = Bucket { left: (left - 1.0).max(0.0), at: now };
        addresses.insert(from, bucket, Some(now + FORGET_AFTER), now);
    }

    /// A valid token.
    pub(super) fn succeeded(&self, hash: Hash, now: Instant) {
        locked(&self.recent).insert(hash, (), Some(now + RECENT_TTL), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([203, 0, 113, last])
    }

    #[test]
    fn an_address_has_a_few_look_ups_in_vain_a_second() {
        let (look_ups, begun) = (LookUps::default(), Instant::now());
        let tried = |second: u64| {
            let now = begun + Duration::from_secs(second);
            let tries = (0..1000).filter(|_| {
                let admitted = look_ups.admit(address(1), &[1; 32], now).is_ok();
                if admitted {
                    look_ups.failed(address(1), &[1; 32], now);
                }
                admitted
            });
            tries.count()
        };
        assert_eq!((tried(0), tried(1), tried(2)), (50, 10, 10));
        assert!(look_ups.admit(address(2), &[1; 32], begun).is_ok(), "another address");
        assert_eq!(tried(60), 50);
    }

    #[test]
    fn a_token_that_was_valid_lately_is_looked_up_beside_a_flood() {
        let (look_ups, now) = (LookUps::default(), Instant::now());
        look_ups.succeeded([9; 32], now);
        for _ in 0..100 {
            look_ups.failed(address(1), &[1; 32], now);
        }
        assert!(look_ups.admit(address(1), &[1; 32], now).is_err());
        assert!(look_ups.admit(address(1), &[9; 32], now).is_ok());
        // Revoked since: it is limited as any other.
        look_ups.failed(address(1), &[9; 32], now);
        assert!(look_ups.admit(address(1), &[9; 32], now).is_err());
    }
}
