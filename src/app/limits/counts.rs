//! What passed lately of one class, by party, counted in this process.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Limited, limited};
use crate::domain::{
    Party,
    limits::{NamedRate, RateClass},
    rate::SlidingWindow,
};

/// Parties whose windows are kept; past that the idle ones are forgotten first.
const MAX_PARTIES: usize = 100_000;
/// Locks, so that senders do not stand in each other's way.
const SHARDS: usize = 16;

/// The windows of every party. They are in the order of the class's rates.
pub(in crate::app) struct Counts {
    class: RateClass,
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
}

struct Shard {
    parties: HashMap<Party, Vec<SlidingWindow>>,
    /// How many there have to be before the idle ones are removed again. It is twice what was left the last
    /// time, so that a new party does not pay for all others each time.
    tidy_at: usize,
}

impl Shard {
    fn windows(
        &mut self,
        party: &Party,
        rates: &[NamedRate],
        now: Duration,
    ) -> &mut Vec<SlidingWindow> {
        if self.parties.len() >= self.tidy_at && !self.parties.contains_key(party) {
            self.parties.retain(|_, windows| {
                windows.iter_mut().zip(rates).any(|(window, (rate, _))| !window.is_idle(*rate, now))
            });
            self.tidy_at = (self.parties.len() * 2).max(MAX_PARTIES / SHARDS);
        }
        let windows = self.parties.entry(party.clone()).or_default();
        windows.resize_with(rates.len(), SlidingWindow::default);
        windows
    }
}

/// Of two limits the one that is free last is the one to wait for.
fn wait_of(
    class: RateClass,
    windows: &mut [SlidingWindow],
    rates: &[NamedRate],
    now: Duration,
) -> Option<Limited> {
    let waits = windows.iter_mut().zip(rates).filter_map(|(window, named)| {
        let retry_after = window.wait(named.0, now, 1)?;
        (!retry_after.is_zero()).then(|| limited(class, *named, retry_after))
    });
    waits.max_by_key(|limited| limited.retry_after)
}

impl Counts {
    pub(in crate::app) fn new(class: RateClass) -> Counts {
        let shard = || Mutex::new(Shard { parties: HashMap::new(), tidy_at: MAX_PARTIES / SHARDS });
        Counts { class, shards: (0..SHARDS).map(|_| shard()).collect(), hasher: RandomState::new() }
    }

    fn shard(&self, party: &Party) -> MutexGuard<'_, Shard> {
        let index = (self.hasher.hash_one(party) % SHARDS as u64) as usize;
        // Every step under the lock leaves whole values, so a panic has spoiled nothing.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts up to `wanted`, as many as there is room for. Fails when that is none.
    pub(in crate::app) fn admit(
        &self,
        party: &Party,
        wanted: u32,
        rates: &[NamedRate],
        now: Duration,
    ) -> Result<u32, Limited> {
        let mut shard = self.shard(party);
        let windows = shard.windows(party, rates, now);
        let room = windows.iter_mut().zip(rates).map(|(window, (rate, _))| window.room(*rate, now));
        let room = room.fold(wanted, u32::min);
        if room == 0
            && let Some(limited) = wait_of(self.class, windows, rates, now)
        {
            return Err(limited);
        }
        for (window, (rate, _)) in windows.iter_mut().zip(rates) {
            window.pass(*rate, now, room);
        }
        Ok(room)
    }

    /// How long the next has to wait; none if it passes. Counts nothing.
    pub(in crate::app) fn wait(
        &self,
        party: &Party,
        rates: &[NamedRate],
        now: Duration,
    ) -> Option<Limited> {
        let mut shard = self.shard(party);
        let windows = shard.parties.get_mut(party)?;
        wait_of(self.class, windows, rates, now)
    }

    pub(in crate::app) fn give_back(&self, party: &Party, count: u32) {
        if let Some(windows) = self.shard(party).parties.get_mut(party) {
            windows.iter_mut().for_each(|window| window.give_back(count));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Phone, rate::Rate};

    const MINUTE: Duration = Duration::from_secs(60);

    fn party(n: usize) -> Party {
        Party::Mobile(Phone::from_stored(&format!("+96777{n:07}")))
    }

    #[test]
    fn each_party_has_its_own_room_and_what_is_given_back_is_free() {
        let counts = Counts::new(RateClass::Writes);
        let rates = [(Rate { most: 2, window: MINUTE }, "minute")];
        let now = MINUTE * 100;
        assert_eq!(counts.wait(&party(1), &rates, now), None);
        assert_eq!(counts.admit(&party(1), 5, &rates, now), Ok(2));
        let refused = counts.admit(&party(1), 1, &rates, now).unwrap_err();
        assert_eq!((refused.most, refused.per, refused.what), (2, "minute", "changes"));
        assert!(refused.retry_after > Duration::ZERO && refused.retry_after <= MINUTE * 61 / 60);
        assert_eq!(counts.wait(&party(1), &rates, now), Some(refused));
        assert_eq!(counts.admit(&party(2), 1, &rates, now), Ok(1));
        counts.give_back(&party(1), 1);
        assert_eq!(counts.wait(&party(1), &rates, now), None);
        assert_eq!(counts.admit(&party(1), 1, &rates, now), Ok(1));
    }

    #[test]
    fn idle_parties_are_forgotten_when_there_are_many() {
        let counts = Counts::new(RateClass::Connects);
        let rates = [(Rate { most: 2, window: MINUTE }, "minute")];
        let kept = |counts: &Counts| -> usize {
            counts.shards.iter().map(|shard| shard.lock().unwrap().parties.len()).sum()
        };
        for n in 0..MAX_PARTIES / 2 {
            counts.admit(&party(n), 1, &rates, MINUTE).unwrap();
        }
        // Of the first half nobody is left after an hour.
        for n in MAX_PARTIES / 2..MAX_PARTIES * 2 {
            counts.admit(&party(n), 1, &rates, MINUTE * 60).unwrap();
        }
        assert!(kept(&counts) < MAX_PARTIES * 2, "{}", kept(&counts));
    }
}
