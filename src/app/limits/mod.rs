//! How much is taken on: of one party by class, of all together, and while deliveries pile up.
//!
//! Counted in this process when everything is embedded, in Redis otherwise ([`shared`]). Refusing
//! counts nothing, and what was counted for a request that turns out to be a repeat is given back.

mod counts;
mod shared;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use self::{counts::Counts, shared::Shared};
use super::{Caller, Core, Error, runtime_settings::Reloadable};
use crate::{
    domain::{
        Party, Priority,
        backpressure::{Backpressure, BackpressureLevel},
        limits::{Limits, NamedRate, RateClass},
        rate::SlidingWindow,
    },
    redis::{RateAdmission, Redis},
};

/// What passed lately, by class and party and in all, and the backpressure.
pub(super) struct Limiter {
    settings: Reloadable,
    zero: Instant,
    /// In the order of [`RateClass::ALL`].
    counts: [Counts; RateClass::ALL.len()],
    system: Mutex<SlidingWindow>,
    backpressure: Mutex<(Backpressure, Instant)>,
    level: AtomicU8,
    shared: Option<Shared>,
}

/// A party is over a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    /// When the next one passes.
    pub retry_after: Duration,
    pub most: u32,
    /// Of what, in words.
    pub what: &'static str,
    /// In which time: `minute` or `hour`.
    pub per: &'static str,
}

fn limited(class: RateClass, named: NamedRate, retry_after: Duration) -> Limited {
    let (rate, per) = named;
    Limited { retry_after, most: rate.most, what: class.counted(), per }
}

impl From<Limited> for Error {
    fn from(limited: Limited) -> Self {
        let Limited { retry_after, most, what, per } = limited;
        Error::RateLimited { retry_after, most, what, per }
    }
}

/// A lock that a panic cannot spoil: every step under it leaves whole values.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts a refusal, and gives it on.
fn refused(class: RateClass, limited: Limited) -> Limited {
    metrics::counter!("esh3ar_rate_limited_total", "class" => class.name()).increment(1);
    limited
}

impl Limiter {
    pub(super) fn new(settings: Reloadable, redis: Option<Redis>) -> Limiter {
        let zero = Instant::now();
        let backpressure = Backpressure::new(settings.get().limits.queue_depth);
        Limiter {
            settings,
            zero,
            counts: RateClass::ALL.map(Counts::new),
            system: Mutex::default(),
            backpressure: Mutex::new((backpressure, zero)),
            level: AtomicU8::new(0),
            shared: redis.map(Shared::new),
        }
    }

    pub(super) fn limits(&self) -> Limits {
        self.settings.get().limits
    }

    fn now(&self) -> Duration {
        self.zero.elapsed()
    }

    fn counts(&self, class: RateClass) -> &Counts {
        &self.counts[class as usize]
    }

    /// Counts up to `wanted` messages, as many as the user has room for. Fails when that is none, or
    /// when all users together send too much.
    pub(super) async fn admit(&self, user: &Party, wanted: u32) -> Result<u32, Error> {
        let admitted = self.admit_party(RateClass::Messages, user, wanted).await;
        let admitted = admitted.map_err(|limited| refused(RateClass::Messages, limited))?;
        if let Err(retry_after) = self.admit_system(admitted).await {
            // The system has not counted them: only the user gets them back.
            self.give_back_to(RateClass::Messages, user, admitted).await;
            return Err(Error::Overloaded { retry_after });
        }
        Ok(admitted)
    }

    /// Counts one thing of a class.
    pub(super) async fn admit_one(&self, class: RateClass, party: &Party) -> Result<(), Limited> {
        match self.admit_party(class, party, 1).await {
            Ok(_) => Ok(()),
            Err(limited) => Err(refused(class, limited)),
        }
    }

    /// Counts one thing of a class in this process alone.
    pub(super) fn admit_here(&self, class: RateClass, party: &Party) -> Result<(), Limited> {
        let rates = self.limits().rates(class, party);
        if rates.iter().all(|(rate, _)| rate.most == 0) {
            return Ok(());
        }
        let admitted = self.counts(class).admit(party, 1, &rates, self.now());
        admitted.map(drop).map_err(|limited| refused(class, limited))
    }

    /// Gives back what [`Limiter::admit_here`] counted.
    pub(super) fn give_back_here(&self, class: RateClass, party: &Party) {
        self.counts(class).give_back(party, 1);
    }

    async fn admit_party(
        &self,
        class: RateClass,
        party: &Party,
        wanted: u32,
    ) -> Result<u32, Limited> {
        let rates = self.limits().rates(class, party);
        if wanted == 0 || rates.iter().all(|(rate, _)| rate.most == 0) {
            return Ok(wanted);
        }
        if let Some(shared) = &self.shared {
            match shared.admit_party(class, party, wanted, &rates).await {
                Ok(RateAdmission::Passed(passed)) => return Ok(passed),
                Ok(RateAdmission::Wait { rate, retry_after }) => {
                    let named = rates.get(rate).copied().unwrap_or(rates[0]);
                    return Err(limited(class, named, retry_after));
                }
                // Counted here, then.
                Err(_) => {}
            }
        }
        self.counts(class).admit(party, wanted, &rates, self.now())
    }

    /// What a party is told of which the next thing of a class does not pass; none if it does. Counts nothing.
    pub(super) async fn wait_of(&self, class: RateClass, party: &Party) -> Option<Limited> {
        let rates = self.limits().rates(class, party);
        if rates.iter().all(|(rate, _)| rate.most == 0) {
            return None;
        }
        if let Some(shared) = &self.shared
            && let Ok(wait) = shared.wait_of(class, party, &rates).await
        {
            let (rate, retry_after) = wait?;
            let named = rates.get(rate).copied().unwrap_or(rates[0]);
            return Some(limited(class, named, retry_after));
        }
        self.counts(class).wait(party, &rates, self.now())
    }

    /// What a user is told whose next message did not pass a moment ago.
    pub(super) async fn wait_of_user(&self, user: &Party) -> Limited {
        let wait = self.wait_of(RateClass::Messages, user).await.unwrap_or_else(|| {
            // There is room again meanwhile; it is not for this one.
            let rates = self.limits().rates(RateClass::Messages, user);
            limited(RateClass::Messages, rates[0], Duration::ZERO)
        });
        refused(RateClass::Messages, wait)
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
        self.give_back_to(RateClass::Messages, user, count).await;
        if let Some(shared) = &self.shared
            && shared.give_back_to_system(count, self.limits().system()).await.is_ok()
        {
            return;
        }
        locked(&self.system).give_back(count);
    }

    /// Gives back what was counted of a class and did not pass after all.
    pub(super) async fn give_back_to(&self, class: RateClass, party: &Party, count: u32) {
        if let Some(shared) = &self.shared {
            let rates = self.limits().rates(class, party);
            if shared.give_back_to(class, party, count, &rates).await.is_ok() {
                return;
            }
        }
        self.counts(class).give_back(party, count);
    }

    fn level(&self) -> BackpressureLevel {
        let level = usize::from(self.level.load(Ordering::Relaxed));
        BackpressureLevel::ALL.get(level).copied().unwrap_or_default()
    }

    /// Takes note of how many deliveries are in flight, under a limit that may have changed.
    pub(super) fn observe(&self, limit: u64, found: u64) {
        let mut backpressure = locked(&self.backpressure);
        let before = backpressure.0.level();
        let elapsed = backpressure.1.elapsed();
        backpressure.0.set_limit(limit);
        backpressure.0.observe(found, elapsed);
        backpressure.1 = Instant::now();
        let level = backpressure.0.level();
        drop(backpressure);
        self.level.store(level as u8, Ordering::Relaxed);
        metrics::gauge!("esh3ar_deliveries_in_hand").set(found as f64);
        metrics::gauge!("esh3ar_backpressure_level").set(f64::from(level as u8));
        if level != before {
            tracing::warn!(in_flight = found, backpressure = level.name(), "backpressure changed");
        }
    }

    /// Refuses what is not taken on while deliveries pile up.
    pub(super) fn admit_backpressure(&self, bulk: bool, priority: Priority) -> Result<(), Error> {
        let refused = match self.level() {
            BackpressureLevel::Open | BackpressureLevel::BroadcastsPaused => false,
            BackpressureLevel::BulkRefused => bulk,
            BackpressureLevel::HighOnly => bulk || priority != Priority::High,
        };
        if refused {
            let retry_after = locked(&self.backpressure).0.retry_after();
            return Err(Error::Overloaded { retry_after });
        }
        Ok(())
    }
}

/// Counts what parties do, and refuses what is over a limit. Cheap to clone.
#[derive(Clone)]
pub struct LimitService {
    limiter: Arc<Limiter>,
}

impl LimitService {
    pub(super) fn new(core: &Core) -> LimitService {
        let redis = core.presence().relay().map(|relay| relay.redis().clone());
        LimitService { limiter: Arc::new(Limiter::new(core.reloadable().clone(), redis)) }
    }

    pub(super) fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    /// Counts one message of the caller's, if there is room for it.
    ///
    /// # Errors
    /// [`Error::RateLimited`], [`Error::Overloaded`].
    pub(super) async fn admit_message(
        &self,
        caller: &Caller,
        priority: Priority,
    ) -> Result<(), Error> {
        self.limiter.admit_backpressure(false, priority)?;
        self.limiter.admit(&caller.party(), 1).await.map(|_| ())
    }

    /// Whether the caller may begin a connection to a hub. Counts nothing.
    ///
    /// # Errors
    /// It has begun as many as it may.
    pub async fn check_connect(&self, caller: &Caller) -> Result<(), Limited> {
        if caller.is_probe() {
            return Ok(());
        }
        let wait = self.limiter.wait_of(RateClass::Connects, &caller.party()).await;
        wait.map_or(Ok(()), |limited| Err(refused(RateClass::Connects, limited)))
    }

    /// Counts a connection to a hub that begins, or comes back with another socket.
    ///
    /// # Errors
    /// The caller has begun as many as it may.
    pub async fn count_connect(&self, caller: &Caller) -> Result<(), Limited> {
        if caller.is_probe() {
            return Ok(());
        }
        self.limiter.admit_one(RateClass::Connects, &caller.party()).await
    }

    /// Counts a request or a call by what limits it.
    ///
    /// # Errors
    /// [`Error::RateLimited`].
    pub async fn count_call(&self, caller: &Caller, class: RateClass) -> Result<(), Error> {
        Ok(self.limiter.admit_one(class, &caller.party()).await?)
    }

    /// Counts a receipt until it is known that it changes something: a message can be acknowledged and read once.
    /// Counted in this process alone, because each acknowledgement would ask Redis otherwise.
    pub(super) fn count_receipt(&self, party: &Party) -> Result<(), Error> {
        Ok(self.limiter.admit_here(RateClass::Receipts, party)?)
    }

    /// The receipt that was counted has changed something, or could not be stored.
    pub(super) fn refund_receipt(&self, party: &Party) {
        self.limiter.give_back_here(RateClass::Receipts, party);
    }

    /// What is still taken on, and how many deliveries are in flight.
    pub fn backpressure(&self) -> (BackpressureLevel, u64) {
        let backpressure = locked(&self.limiter.backpressure);
        (backpressure.0.level(), backpressure.0.last())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        app::RuntimeSettings, config::ConfigSources, domain::UserId, mail::Mailer, sms::SmsGateways,
    };

    fn limiter(change: impl FnOnce(Limits) -> Limits) -> Limiter {
        let config = crate::config::load(ConfigSources::default()).unwrap().config;
        let limits = change(config.limits);
        let settings = RuntimeSettings {
            retry: config.retry,
            limits,
            access_token_ttl: config.auth.access_token_ttl,
            admin_token_ttl: config.auth.admin_token_ttl,
            retention: config.retention,
            mailer: Mailer::default(),
            sms: SmsGateways::default(),
            alert_interval: config.smtp.alert_interval,
            log_sample: config.log.sample,
            sanitize_existing: config.content.sanitize_existing,
            otp: config.otp,
        };
        Limiter::new(Reloadable::new(settings), None)
    }

    #[tokio::test]
    async fn what_the_system_refuses_makes_no_room_for_others() {
        let limiter =
            limiter(|limits| Limits { messages_per_second: 20, queue_depth: 0, ..limits });
        let user = Party::Business(UserId(uuid::Uuid::nil()));
        let mut passed = 0;
        for _ in 0..90 {
            passed += usize::from(limiter.admit(&user, 1).await.is_ok());
        }
        assert_eq!(passed, 20);
        // And what it refused does not count against the user.
        let admitted = limiter.admit_party(RateClass::Messages, &user, 100).await;
        assert_eq!(admitted, Ok(80));
    }

    #[tokio::test]
    async fn each_class_is_counted_for_itself_and_by_side() {
        let limiter = limiter(|limits| Limits {
            connects_per_user_per_minute: 2,
            connects_per_business_user_per_minute: 4,
            writes_per_user_per_minute: 3,
            conversations_per_user_per_hour: 0,
            ..limits
        });
        let phone = Party::Mobile(crate::domain::Phone::from_stored("+967771234567"));
        let business = Party::Business(UserId(uuid::Uuid::from_u128(7)));
        let passed = async |class, party: &Party| {
            let mut passed = 0;
            for _ in 0..10 {
                passed += usize::from(limiter.admit_one(class, party).await.is_ok());
            }
            passed
        };
        assert_eq!(limiter.wait_of(RateClass::Connects, &phone).await, None);
        assert_eq!(passed(RateClass::Connects, &phone).await, 2);
        assert_eq!(passed(RateClass::Connects, &business).await, 4);
        assert_eq!(passed(RateClass::Writes, &phone).await, 3);
        assert_eq!(passed(RateClass::Conversations, &phone).await, 10);
        let wait = limiter.wait_of(RateClass::Connects, &phone).await.unwrap();
        assert_eq!((wait.most, wait.what, wait.per), (2, "new connections", "minute"));
        // Receipts have the limit of writes and a count of their own.
        for _ in 0..3 {
            limiter.admit_here(RateClass::Receipts, &phone).unwrap();
        }
        assert!(limiter.admit_here(RateClass::Receipts, &phone).is_err());
        limiter.give_back_here(RateClass::Receipts, &phone);
        assert!(limiter.admit_here(RateClass::Receipts, &phone).is_ok());
    }

    #[test]
    fn classes_stand_in_the_order_of_their_numbers() {
        for (at, class) in RateClass::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, at);
        }
    }
}
