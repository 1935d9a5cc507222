//! Limits that all processes of an installation count together, in Redis.
//!
//! Without Redis each process counts for itself: sending goes on, and a user may send as much through
//! each gateway as it may through all.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    domain::{
        Party,
        limits::{NamedRate, RateClass},
        rate::Rate,
    },
    redis::{Error, RateAdmission, Redis},
};

/// The name under which the whole system's messages are counted.
const SYSTEM: &str = "system";
/// The most places of the system's rate that a process takes before it needs them.
const MAX_AHEAD: u32 = 256;

/// The way to what is counted together.
pub(in crate::app) struct Shared {
    redis: Redis,
    ahead: Mutex<Ahead>,
}

/// Places of the system's rate that were taken and not used yet. They are for the part of a second in
/// which they were taken, and as many as the part before needed: a lone sender takes one at a time,
/// and a crowd does not ask for each.
struct Ahead {
    left: u32,
    used: u32,
    used_before: u32,
    began: Instant,
}

impl Ahead {
    fn roll(&mut self, now: Instant, part: Duration) {
        let elapsed = now.saturating_duration_since(self.began);
        if elapsed >= part {
            self.used_before = if elapsed < part * 2 { self.used } else { 0 };
            (self.left, self.used, self.began) = (0, 0, now);
        }
    }

    /// Uses what is there; gives how many to take otherwise.
    fn take(&mut self, count: u32, now: Instant, part: Duration, most: u32) -> Option<u32> {
        self.roll(now, part);
        self.used = self.used.saturating_add(count);
        if self.left >= count {
            self.left -= count;
            return None;
        }
        Some(count.max(self.used_before.min(most)))
    }
}

impl Shared {
    pub(in crate::app) fn new(redis: Redis) -> Shared {
        let ahead = Ahead { left: 0, used: 0, used_before: 0, began: Instant::now() };
        Shared { redis, ahead: Mutex::new(ahead) }
    }

    pub(in crate::app) async fn admit_party(
        &self,
        class: RateClass,
        party: &Party,
        wanted: u32,
        rates: &[NamedRate],
    ) -> Result<RateAdmission, Error> {
        self.redis.admit(&key(class, party), wanted, false, &plain(rates)).await
    }

    /// Which rate is exhausted and how long the next has to wait; none if it passes.
    pub(in crate::app) async fn wait_of(
        &self,
        class: RateClass,
        party: &Party,
        rates: &[NamedRate],
    ) -> Result<Option<(usize, Duration)>, Error> {
        self.redis.wait_of(&key(class, party), &plain(rates)).await
    }

    /// All or none; otherwise how long to wait.
    pub(in crate::app) async fn admit_system(
        &self,
        count: u32,
        rate: Rate,
    ) -> Result<Result<(), Duration>, Error> {
        let part = Duration::from_micros(u64::try_from(rate.part()).unwrap_or(u64::MAX));
        // No more than a part's share of it: what is not used in time is lost to everybody.
        let most = MAX_AHEAD.min(rate.most / 60);
        let taken = self.ahead().take(count, Instant::now(), part, most);
        let Some(wanted) = taken else { return Ok(Ok(())) };
        let mut admission = self.redis.admit(SYSTEM, wanted, true, &[rate]).await?;
        if wanted > count && matches!(admission, RateAdmission::Wait { .. }) {
            admission = self.redis.admit(SYSTEM, count, true, &[rate]).await?;
        }
        Ok(match admission {
            RateAdmission::Passed(passed) => {
                self.ahead().left += passed.saturating_sub(count);
                Ok(())
            }
            RateAdmission::Wait { retry_after, .. } => Err(retry_after),
        })
    }

    fn ahead(&self) -> std::sync::MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::app) async fn give_back_to_system(
        &self,
        count: u32,
        rate: Rate,
    ) -> Result<(), Error> {
        self.redis.give_back(SYSTEM, count, &[rate]).await
    }

    pub(in crate::app) async fn give_back_to(
        &self,
        class: RateClass,
        party: &Party,
        count: u32,
        rates: &[NamedRate],
    ) -> Result<(), Error> {
        self.redis.give_back(&key(class, party), count, &plain(rates)).await
    }
}

fn plain(rates: &[NamedRate]) -> Vec<Rate> {
    rates.iter().map(|(rate, _)| *rate).collect()
}

/// Under which name a party's class is counted. Messages have none of their own: earlier versions count only
/// those.
fn key(class: RateClass, party: &Party) -> String {
    match class {
        RateClass::Messages => party.key(),
        class => format!("{}:{}", class.name(), party.key()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_sender_takes_one_and_a_crowd_what_it_needed_before() {
        let (zero, part) = (Instant::now(), Duration::from_millis(16));
        let mut ahead = Ahead { left: 0, used: 0, used_before: 0, began: zero };
        assert_eq!(ahead.take(1, zero, part, 200), Some(1));
        (0..99).for_each(|_| assert_eq!(ahead.take(1, zero, part, 200), Some(1)));
        let next = zero + part;
        assert_eq!(ahead.take(1, next, part, 200), Some(100));
        ahead.left = 99;
        (0..99).for_each(|_| assert_eq!(ahead.take(1, next, part, 200), None));
        assert_eq!(ahead.take(1, next, part, 200), Some(100));
        ahead.left = 99;
        // What was not used in its time is gone, and nothing is expected after a pause.
        assert_eq!(ahead.take(1, next + part * 3, part, 200), Some(1));
    }
}
