//! Warnings about refused requests (401 and 403), a few a minute of each address.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::domain::{BoundedMap, WhenFull};

const WINDOW: Duration = Duration::from_secs(60);
/// Lines a minute of one address, and of all together.
const MAX_FROM_ADDRESS: u32 = 5;
const MAX_OF_ALL: u32 = 100;
const MAX_ADDRESSES: usize = 10_000;

#[derive(Clone, Copy)]
struct Count {
    since: Instant,
    logged: u32,
    omitted: u32,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct RefusalLog {
    /// Without an address: of all together.
    counts: Arc<Mutex<BoundedMap<Option<IpAddr>, Count>>>,
}

impl Default for RefusalLog {
    fn default() -> Self {
        let counts = BoundedMap::new(MAX_ADDRESSES, WhenFull::DropOldest);
        RefusalLog { counts: Arc::new(Mutex::new(counts)) }
    }
}

impl RefusalLog {
    /// How many refusals of this address were not logged since its last line; `None` if this one is not to be
    /// logged either.
    pub fn admit(&self, from: IpAddr, now: Instant) -> Option<u32> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut of_all = count(&mut counts, None, now);
        let mut of_address = count(&mut counts, Some(from), now);
        let admitted = of_all.logged < MAX_OF_ALL && of_address.logged < MAX_FROM_ADDRESS;
        let omitted = of_address.omitted;
        if admitted {
            of_all.logged += 1;
            of_address.logged += 1;
            of_address.omitted = 0;
        } else {
            of_address.omitted = of_address.omitted.saturating_add(1);
        }
        // Kept longer than its window, for the number that is told with the next line.
        let until = Some(now + 60 * WINDOW);
        counts.insert(None, of_all, until, now);
        counts.insert(Some(from), of_address, until, now);
        admitted.then_some(omitted)
    }
}

fn count(
    counts: &mut BoundedMap<Option<IpAddr>, Count>,
    key: Option<IpAddr>,
    now: Instant,
) -> Count {
    let stored = counts.get(&key, now).copied();
    let stored = stored.unwrap_or(Count { since: now, logged: 0, omitted: 0 });
    match now.saturating_duration_since(stored.since) >= WINDOW {
        true => Count { since: now, logged: 0, ..stored },
        false => stored,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_few_lines_a_minute_and_then_a_count() {
        let (log, now) = (RefusalLog::default(), Instant::now());
        let lines = |address: [u8; 4], now: Instant| {
            (0..100).filter(|_| log.admit(address.into(), now).is_some()).count()
        };
        assert_eq!(lines([203, 0, 113, 1], now), 5);
        assert_eq!(lines([203, 0, 113, 2], now), 5, "another address");
        assert_eq!(log.admit([203, 0, 113, 1].into(), now + WINDOW), Some(95));
        let many = (0..=255).map(|last| lines([198, 51, 100, last], now + WINDOW)).sum::<usize>();
        assert_eq!(many, 99, "all together");
    }
}
