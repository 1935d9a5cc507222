//! How much is taken on: of one user, of all together, and while deliveries pile up.
//!
//! Counted in this process when everything is embedded, in Redis otherwise ([`shared`]). Refusing
//! counts nothing, and what was counted for a request that turns out to be a repeat is given back.

mod shared;

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use self::shared::Shared;
use super::{App, Error, live::Current};
use crate::{
    cache::{Redis, redis::Admission},
    domain::{
        Party, Priority,
        depth::{Depth, Level},
        limits::Limits,
        rate::{Rate, Window},
    },
    store::{Group, messages},
};

/// Users whose windows are kept; past that the idle ones are forgotten first.
const USERS: usize = 100_000;
/// Locks, so that senders do not stand in each other's way.
const SHARDS: usize = 16;

type Windows = [Window; 2];

/// What passed lately, by user and in all, and how deep deliveries have piled up.
pub(super) struct Limiter {
    live: Current,
    zero: Instant,
    shards: Vec<Mutex<HashMap<Party, Windows>>>,
    hasher: RandomState,
    system: Mutex<Window>,
    depth: Mutex<(Depth, Instant)>,
    level: AtomicU8,
    shared: Option<Shared>,
}

/// A user is over a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    /// When the next message passes.
    pub retry_after: Duration,
    /// How many may pass.
    pub most: u32,
    /// In which time: `minute` or `hour`.
    pub per: &'static str,
}

impl From<Limited> for Error {
    fn from(limited: Limited) -> Self {
        let Limited { retry_after, most, per } = limited;
        Error::RateLimited { retry_after, most, per }
    }
}

/// A lock that a panic cannot spoil: every step under it leaves whole values.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of two limits the one that is free last is the one to wait for.
fn wait_of(windows: &mut Windows, rates: &[(Rate, &'static str); 2], now: Duration) -> Limited {
    let waits = windows.iter_mut().zip(rates).filter_map(|(window, (rate, per))| {
        let retry_after = window.wait(*rate, now, 1)?;
        Some(Limited { retry_after, most: rate.most, per })
    });
    let unlimited = Limited { retry_after: Duration::ZERO, most: 0, per: "minute" };
    waits.max_by_key(|limited| limited.retry_after).unwrap_or(unlimited)
}

impl Limiter {
    pub(super) fn new(live: Current, redis: Option<Redis>) -> Limiter {
        let zero = Instant::now();
        let depth = Depth::new(live.get().limits.queue_depth);
        Limiter {
            live,
            zero,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            system: Mutex::default(),
            depth: Mutex::new((depth, zero)),
            level: AtomicU8::new(0),
            shared: redis.map(Shared::new),
        }
    }

    fn limits(&self) -> Limits {
        self.live.get().limits
    }

    fn now(&self) -> Duration {
        self.zero.elapsed()
    }

    fn shard(&self, user: &Party) -> MutexGuard<'_, HashMap<Party, Windows>> {
        let index = (self.hasher.hash_one(user) % SHARDS as u64) as usize;
        locked(&self.shards[index])
    }

    /// Counts up to `wanted` messages, as many as the user has room for. Fails when that is none, or
    /// when all users together send too much.
    pub(super) async fn admit(&self, user: &Party, wanted: u32) -> Result<u32, Error> {
        let admitted = self.admit_user(user, wanted).await?;
        if let Err(retry_after) = self.admit_system(admitted).await {
            // The system has not counted them: only the user gets them back.
            self.give_back_to(user, admitted).await;
            return Err(Error::Overloaded { retry_after });
        }
        Ok(admitted)
    }

    async fn admit_user(&self, user: &Party, wanted: u32) -> Result<u32, Limited> {
        let rates = self.limits().rates();
        if wanted == 0 || rates.iter().all(|(rate, _)| rate.most == 0) {
            return Ok(wanted);
        }
        if let Some(shared) = &self.shared {
            let of_all = rates.map(|(rate, _)| rate);
            match shared.admit_user(user, wanted, &of_all).await {
                Ok(Admission::Passed(passed)) => return Ok(passed),
                Ok(Admission::Wait { rate, retry_after }) => {
                    let (rate, per) = rates.get(rate).copied().unwrap_or(rates[0]);
                    return Err(Limited { retry_after, most: rate.most, per });
                }
                // Counted here, then.
                Err(_) => {}
            }
        }
        self.admit_user_here(user, wanted, &rates)
    }

    fn admit_user_here(
        &self,
        user: &Party,
        wanted: u32,
        rates: &[(Rate, &'static str); 2],
    ) -> Result<u32, Limited> {
        let now = self.now();
        let mut shard = self.shard(user);
        if shard.len() >= USERS / SHARDS && !shard.contains_key(user) {
            shard.retain(|_, windows| {
                windows.iter_mut().zip(rates).any(|(w, (rate, _))| !w.is_idle(*rate, now))
            });
        }
        let windows = shard.entry(user.clone()).or_default();
        let mut room = wanted;
        for (window, (rate, _)) in windows.iter_mut().zip(rates) {
            room = room.min(window.room(*rate, now));
        }
        if room == 0 {
            return Err(wait_of(windows, rates, now));
        }
        for (window, (rate, _)) in windows.iter_mut().zip(rates) {
            window.pass(*rate, now, room);
        }
        Ok(room)
    }

    /// What a user is told whose next message does not pass any more.
    pub(super) async fn wait_of_user(&self, user: &Party) -> Limited {
        if self.shared.is_some() {
            match self.admit_user(user, 1).await {
                Err(limited) => return limited,
                // A place has become free meanwhile; it is not for this one.
                Ok(counted) => self.give_back_to(user, counted).await,
            }
        }
        let (rates, now) = (self.limits().rates(), self.now());
        wait_of(self.shard(user).entry(user.clone()).or_default(), &rates, now)
    }

    /// Counts messages of the whole system, all or none.
    async fn admit_system(&self, count: u32) -> Result<(), Duration> {
        let rate = self.limits().system();
        if rate.most == 0 || count == 0 {
            return Ok(());
        }
        if let Some(shared) = &self.shared
            && let Ok(admitted) = shared.admit_system(count, rate).await
        {
            return admitted;
        }
        let now = self.now();
        let mut window = locked(&self.system);
        if window.room(rate, now) >= count {
            window.pass(rate, now, count);
            return Ok(());
        }
        Err(window.wait(rate, now, count).unwrap_or(rate.window))
    }

    /// Gives back what did not pass after all.
    pub(super) async fn give_back(&self, user: &Party, count: u32) {
        if count == 0 {
            return;
        }
        self.give_back_to(user, count).await;
        if let Some(shared) = &self.shared
            && shared.give_back_to_system(count, self.limits().system()).await.is_ok()
        {
            return;
        }
        locked(&self.system).give_back(count);
    }

    async fn give_back_to(&self, user: &Party, count: u32) {
        if let Some(shared) = &self.shared {
            let rates = self.limits().rates().map(|(rate, _)| rate);
            if shared.give_back_to(user, count, &rates).await.is_ok() {
                return;
            }
        }
        if let Some(windows) = self.shard(user).get_mut(user) {
            windows.iter_mut().for_each(|window| window.give_back(count));
        }
    }

    fn level(&self) -> Level {
        let level = usize::from(self.level.load(Ordering::Relaxed));
        Level::ALL.get(level).copied().unwrap_or_default()
    }

    /// Takes note of how many deliveries are in hand, under a limit that may have changed.
    fn see(&self, limit: u64, found: u64) {
        let mut depth = locked(&self.depth);
        let before = depth.0.level();
        let elapsed = depth.1.elapsed();
        depth.0.set_limit(limit);
        depth.0.observe(found, elapsed);
        depth.1 = Instant::now();
        let level = depth.0.level();
        drop(depth);
        self.level.store(level as u8, Ordering::Relaxed);
        metrics::gauge!("esh3ar_deliveries_in_hand").set(found as f64);
        metrics::gauge!("esh3ar_backpressure_level").set(f64::from(level as u8));
        if level != before {
            tracing::warn!(in_hand = found, backpressure = level.name(), "backpressure changed");
        }
    }

    /// Refuses what is not taken on while deliveries pile up.
    pub(super) fn admit_depth(&self, bulk: bool, priority: Priority) -> Result<(), Error> {
        let refused = match self.level() {
            Level::Open | Level::BroadcastsPaused => false,
            Level::BulkRefused => bulk,
            Level::HighOnly => bulk || priority != Priority::High,
        };
        if refused {
            let retry_after = locked(&self.depth).0.come_back();
            return Err(Error::Overloaded { retry_after });
        }
        Ok(())
    }
}

impl App {
    /// Looks how many deliveries are in hand and draws the consequences. Returns when to look again.
    ///
    /// # Errors
    /// Failures of the database; what was last seen stands.
    pub async fn watch_depth(&self) -> Result<Duration, Error> {
        const CALM: Duration = Duration::from_secs(1);
        const WATCHFUL: Duration = Duration::from_millis(250);
        let limiter = &self.inner.limiter;
        let limit = limiter.limits().queue_depth;
        if limit == 0 {
            // There may have been one a moment ago.
            limiter.see(0, 0);
            return Ok(CALM);
        }
        // No further than where the last level is entered: counting on would change nothing.
        let most = i64::try_from(limit.saturating_add(limit / 10)).unwrap_or(i64::MAX);
        let client = self.store().client_for(Group::Upkeep).await?;
        let found = messages::in_hand(&client, most).await?;
        let found = u64::try_from(found).unwrap_or_default() + self.inner.intake.waiting() as u64;
        limiter.see(limit, found);
        Ok(if found > limit / 4 { WATCHFUL } else { CALM })
    }

    /// What is still taken on, and how many deliveries are in hand.
    pub fn backpressure(&self) -> (Level, u64) {
        let depth = locked(&self.inner.limiter.depth);
        (depth.0.level(), depth.0.last())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{app::Live, config::Sources, domain::UserId, mail::Mailer};

    #[tokio::test]
    async fn what_the_system_refuses_makes_no_room_for_others() {
        let config = crate::config::load(Sources::default()).unwrap().config;
        let limits = Limits { messages_per_second: 20, queue_depth: 0, ..config.limits };
        let live = Live {
            retry: config.retry,
            limits,
            access_token_ttl: config.auth.access_token_ttl,
            retention: config.retention,
            mailer: Mailer::default(),
            alert_interval: config.smtp.alert_interval,
            log_sample: config.log.sample,
        };
        let limiter = Limiter::new(Current::new(live), None);
        let user = Party::Business(UserId(uuid::Uuid::nil()));
        let mut passed = 0;
        for _ in 0..90 {
            passed += usize::from(limiter.admit(&user, 1).await.is_ok());
        }
        assert_eq!(passed, 20);
        // And what it refused does not count against the user.
        assert_eq!(limiter.admit_user(&user, 100).await, Ok(80));
    }
}
