//! The limits on codes that are sent, and the guard against sends that are never verified.
//!
//! Sends are counted in periods of ten minutes. A limit of an hour counts every period that has a part in the
//! last 60 minutes: no hour, whenever it begins, has more sends than the limit.

use time::{Duration, OffsetDateTime, Time};

/// Wrong guesses at the codes of a phone in a day.
pub const MAX_FAILURES_PER_DAY: u32 = 10;
/// The length of a period.
const PERIOD: Duration = Duration::minutes(10);
const HOUR: Duration = Duration::hours(1);
const DAY: Duration = Duration::days(1);
/// How long counts are needed.
pub const COUNTS_TTL: Duration = Duration::hours(26);
/// From so many sends an hour to a country on, [`MIN_VERIFIED_PERCENT`] of them must be verified.
const GUARDED_SENDS: u32 = 50;
const MIN_VERIFIED_PERCENT: u64 = 20;
/// How long nothing is sent to a country then.
const PAUSE: Duration = Duration::hours(1);

/// What a count is of. The order is that in which rows are locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i16)]
pub enum CountScope {
    /// The whole number.
    Phone = 0,
    /// The number without its last four digits.
    Prefix = 1,
    /// The client's address.
    Address = 2,
    /// The number's country.
    Country = 3,
    /// All sends.
    Total = 4,
}

impl CountScope {
    /// All of them, in their order.
    pub const ALL: [CountScope; 5] = [
        CountScope::Phone,
        CountScope::Prefix,
        CountScope::Address,
        CountScope::Country,
        CountScope::Total,
    ];

    /// Reads the stored number.
    pub fn from_number(number: i16) -> Option<CountScope> {
        CountScope::ALL.into_iter().find(|scope| *scope as i16 == number)
    }

    /// The name in answers to operators and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            CountScope::Phone => "phone",
            CountScope::Prefix => "prefix",
            CountScope::Address => "address",
            CountScope::Country => "country",
            CountScope::Total => "budget",
        }
    }
}

/// The counts of one period.
#[derive(Clone, Copy, Debug)]
pub struct PeriodCount {
    /// What was counted.
    pub scope: CountScope,
    /// Its beginning.
    pub period: OffsetDateTime,
    /// Codes that were sent.
    pub sends: u32,
    /// Codes that were verified.
    pub verified: u32,
    /// Wrong guesses.
    pub failures: u32,
}

/// How much may be sent.
#[derive(Clone, Copy, Debug)]
pub struct SendLimits {
    /// Sends a day in all.
    pub daily_budget: u32,
    /// Sends an hour that one client address asked for.
    pub per_address_hour: u32,
    /// Sends an hour to one phone.
    pub per_phone_hour: u32,
    /// Sends a day to one phone.
    pub per_phone_day: u32,
    /// Sends an hour to numbers that differ in the last four digits only.
    pub per_prefix_hour: u32,
    /// Sends an hour to one country.
    pub per_country_hour: u32,
}

/// Whether a code may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendVerdict {
    /// It may be sent.
    Allowed,
    /// A limit is reached.
    Refused {
        /// What the limit is of.
        scope: CountScope,
        /// When the next one may be sent.
        until: OffsetDateTime,
    },
    /// Too few of the country's codes are verified: from now on nothing is sent to it until then.
    Pause {
        /// The end of the pause.
        until: OffsetDateTime,
    },
}

/// The period that a time is in.
pub fn period_of(at: OffsetDateTime) -> OffsetDateTime {
    let seconds = at.unix_timestamp();
    let begin = seconds - seconds.rem_euclid(PERIOD.whole_seconds());
    OffsetDateTime::from_unix_timestamp(begin).unwrap_or(at)
}

/// The oldest period that any limit counts.
pub fn oldest_counted(now: OffsetDateTime) -> OffsetDateTime {
    now - DAY - PERIOD
}

/// The part of a number that its prefix limit counts: all but the last four digits.
pub fn prefix_of(number: &str) -> &str {
    number.get(..number.len().saturating_sub(4)).unwrap_or_default()
}

/// When a sliding window has room for one more; `None`: now.
fn full_until(
    counts: impl Iterator<Item = (OffsetDateTime, u32)>,
    limit: u32,
    window: Duration,
    now: OffsetDateTime,
) -> Option<OffsetDateTime> {
    let ends = |period: OffsetDateTime| period + PERIOD + window;
    let mut counted: Vec<(OffsetDateTime, u32)> =
        counts.filter(|(period, _)| ends(*period) > now).collect();
    counted.sort_unstable();
    let mut total: u64 = counted.iter().map(|(_, count)| u64::from(*count)).sum();
    let mut until = None;
    for (period, count) in counted {
        if total < u64::from(limit) {
            break;
        }
        total -= u64::from(count);
        until = Some(ends(period));
    }
    until
}

/// Whether a code may be sent, by what was counted before. `paused_until` is the end of the country's last
/// pause.
pub fn judge(
    counts: &[PeriodCount],
    limits: &SendLimits,
    paused_until: Option<OffsetDateTime>,
    now: OffsetDateTime,
) -> SendVerdict {
    let of = |scope: CountScope| counts.iter().filter(move |count| count.scope == scope);
    let sends = |scope: CountScope| of(scope).map(|count| (count.period, count.sends));
    let hour = |scope: CountScope, limit: u32| full_until(sends(scope), limit, HOUR, now);
    let midnight = now.replace_time(Time::MIDNIGHT);
    let today: u64 = of(CountScope::Total)
        .filter(|count| count.period >= midnight)
        .map(|count| u64::from(count.sends))
        .sum();
    let budget = (today >= u64::from(limits.daily_budget)).then_some(midnight + DAY);
    let failures = of(CountScope::Phone).map(|count| (count.period, count.failures));
    let refusals = [
        (CountScope::Phone, full_until(failures, MAX_FAILURES_PER_DAY, DAY, now)),
        (CountScope::Phone, hour(CountScope::Phone, limits.per_phone_hour)),
        (CountScope::Phone, full_until(sends(CountScope::Phone), limits.per_phone_day, DAY, now)),
        (CountScope::Prefix, hour(CountScope::Prefix, limits.per_prefix_hour)),
        (CountScope::Address, hour(CountScope::Address, limits.per_address_hour)),
        (CountScope::Country, paused_until.filter(|until| *until > now)),
        (CountScope::Country, hour(CountScope::Country, limits.per_country_hour)),
        (CountScope::Total, budget),
    ];
    let latest = refusals
        .into_iter()
        .filter_map(|(scope, until)| Some((until?, scope)))
        .max_by_key(|(until, _)| *until);
    if let Some((until, scope)) = latest {
        return SendVerdict::Refused { scope, until };
    }
    if is_unverified(of(CountScope::Country), paused_until, now) {
        return SendVerdict::Pause { until: now + PAUSE };
    }
    SendVerdict::Allowed
}

/// Whether a phone has as many wrong guesses as it may have in a day.
pub fn has_failed_enough(counts: &[PeriodCount], now: OffsetDateTime) -> bool {
    let of_phone = counts.iter().filter(|count| count.scope == CountScope::Phone);
    let failures = of_phone.map(|count| (count.period, count.failures));
    full_until(failures, MAX_FAILURES_PER_DAY, DAY, now).is_some()
}

/// Whether a country has many sends of which few are verified. What was sent before its last pause ended is not
/// judged again.
fn is_unverified<'a>(
    of_country: impl Iterator<Item = &'a PeriodCount>,
    paused_until: Option<OffsetDateTime>,
    now: OffsetDateTime,
) -> bool {
    let begin = paused_until.map_or(now - HOUR, |until| until.max(now - HOUR));
    let judged = of_country.filter(|count| count.period + PERIOD > begin);
    let (sends, verified) = judged.fold((0, 0), |(sends, verified), count| {
        (sends + u64::from(count.sends), verified + u64::from(count.verified))
    });
    sends >= u64::from(GUARDED_SENDS) && verified * 100 < sends * MIN_VERIFIED_PERCENT
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: SendLimits = SendLimits {
        daily_budget: 5000,
        per_address_hour: 10,
        per_phone_hour: 5,
        per_phone_day: 10,
        per_prefix_hour: 20,
        per_country_hour: 500,
    };

    fn start() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
    }

    fn count(scope: CountScope, at: OffsetDateTime, sends: u32) -> PeriodCount {
        PeriodCount { scope, period: period_of(at), sends, verified: 0, failures: 0 }
    }

    #[test]
    fn each_scope_has_its_limit_and_tells_until_when() {
        for (scope, limit) in [
            (CountScope::Phone, 5),
            (CountScope::Prefix, 20),
            (CountScope::Address, 10),
            (CountScope::Total, 5000),
        ] {
            let now = start();
            let below = [count(scope, now, limit - 1)];
            assert_eq!(judge(&below, &LIMITS, None, now), SendVerdict::Allowed, "{scope:?}");
            let full = [count(scope, now, limit)];
            let SendVerdict::Refused { scope: told, until } = judge(&full, &LIMITS, None, now)
            else {
                panic!("{scope:?} is not refused")
            };
            assert_eq!(told, scope);
            assert_eq!(judge(&full, &LIMITS, None, until), SendVerdict::Allowed, "{scope:?}");
        }
        let mut verified = count(CountScope::Country, start(), 500);
        verified.verified = 400;
        let verdict = judge(&[verified], &LIMITS, None, start());
        assert!(matches!(verdict, SendVerdict::Refused { scope: CountScope::Country, .. }));
    }

    #[test]
    fn ten_failures_of_a_phone_refuse_it_for_a_day() {
        let mut failed = count(CountScope::Phone, start(), 2);
        failed.failures = 9;
        assert!(!has_failed_enough(&[failed], start()));
        failed.failures = 10;
        assert!(has_failed_enough(&[failed], start()));
        assert!(has_failed_enough(&[failed], start() + Duration::hours(24)));
        assert!(!has_failed_enough(&[failed], start() + Duration::hours(25)));
        let verdict = judge(&[failed], &LIMITS, None, start());
        assert!(matches!(verdict, SendVerdict::Refused { scope: CountScope::Phone, .. }));
    }

    #[test]
    fn a_country_with_many_sends_and_few_verified_is_paused_once() {
        let now = start();
        let mut sent = count(CountScope::Country, now, 50);
        sent.verified = 10;
        assert_eq!(judge(&[sent], &LIMITS, None, now), SendVerdict::Allowed);
        sent.verified = 9;
        let until = now + Duration::hours(1);
        assert_eq!(judge(&[sent], &LIMITS, None, now), SendVerdict::Pause { until });
        let refused = SendVerdict::Refused { scope: CountScope::Country, until };
        assert_eq!(judge(&[sent], &LIMITS, Some(until), now), refused);
        assert_eq!(judge(&[sent], &LIMITS, Some(until), until), SendVerdict::Allowed);
    }

    #[test]
    fn the_prefix_is_all_but_four_digits() {
        assert_eq!(prefix_of("+967771234567"), "+96777123");
        assert_eq!(prefix_of("+96"), "");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn no_hour_has_more_than_the_limit(waits in prop::collection::vec(0i64..1500, 1..80)) {
            let (mut now, mut sent) = (start(), Vec::<OffsetDateTime>::new());
            for wait in waits {
                now += Duration::seconds(wait);
                let counts: Vec<PeriodCount> =
                    sent.iter().map(|at| count(CountScope::Address, *at, 1)).collect();
                match judge(&counts, &LIMITS, None, now) {
                    SendVerdict::Allowed => sent.push(now),
                    SendVerdict::Refused { until, .. } => {
                        prop_assert!(until > now && until <= now + HOUR + PERIOD);
                        let later = judge(&counts, &LIMITS, None, until);
                        prop_assert_eq!(later, SendVerdict::Allowed);
                    }
                    SendVerdict::Pause { .. } => prop_assert!(false, "no country was counted"),
                }
                let of_hour = sent.iter().filter(|at| **at > now - HOUR).count();
                prop_assert!(of_hour <= 10, "{}", of_hour);
            }
        }

        #[test]
        fn a_day_has_at_most_its_budget(waits in prop::collection::vec(0i64..4000, 1..120)) {
            let limits = SendLimits { daily_budget: 7, ..LIMITS };
            let (mut now, mut sent) = (start(), Vec::<OffsetDateTime>::new());
            for wait in waits {
                now += Duration::seconds(wait);
                let counts: Vec<PeriodCount> =
                    sent.iter().map(|at| count(CountScope::Total, *at, 1)).collect();
                if judge(&counts, &limits, None, now) == SendVerdict::Allowed {
                    sent.push(now);
                }
                let today = sent.iter().filter(|at| at.date() == now.date()).count();
                prop_assert!(today <= 7, "{}", today);
            }
        }
    }
}
