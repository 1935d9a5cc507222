//! The time, as it is stored: UTC with microseconds.
//!
//! Decisions by time ask the appliance's clock, so that a test can let six retries or
//! seven days pass without waiting for them.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use time::OffsetDateTime;
use uuid::{ContextV7, Timestamp, Uuid};

/// Where the time comes from. Cheap to clone; clones of a moved clock move together.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's.
    #[default]
    System,
    /// A clock that stands still until it is moved: microseconds since 1970.
    Moved(Arc<AtomicI64>),
}

impl Clock {
    /// A clock that stands at a time.
    pub fn standing_at(time: OffsetDateTime) -> Clock {
        let micros = i64::try_from(time.unix_timestamp_nanos() / 1000).unwrap_or_default();
        Clock::Moved(Arc::new(AtomicI64::new(micros)))
    }

    /// Moves a clock that stands; the machine's is not ours to move.
    pub fn advance(&self, by: Duration) {
        if let Clock::Moved(micros) = self {
            let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
            micros.fetch_add(by, Ordering::AcqRel);
        }
    }

    /// Now, cut to the microseconds that the database keeps, so that an answer shows the same time
    /// as a later read.
    pub fn now(&self) -> OffsetDateTime {
        match self {
            Clock::System => {
                let now = OffsetDateTime::now_utc();
                now.replace_microsecond(now.microsecond()).unwrap_or(now)
            }
            Clock::Moved(micros) => {
                let nanos = i128::from(micros.load(Ordering::Acquire)) * 1000;
                OffsetDateTime::from_unix_timestamp_nanos(nanos)
                    .unwrap_or(OffsetDateTime::UNIX_EPOCH)
            }
        }
    }
}

struct NewIds {
    /// How far they lie ahead of the machine's clock, in milliseconds.
    ahead: AtomicU64,
    /// Keeps their order within a millisecond, and while the clock goes back.
    last: Mutex<ContextV7>,
}

/// The ids of this process: one order for all of them.
static IDS: NewIds = NewIds::new();

/// An id for something new: after every one that this process has made before, and after those that
/// [`begin_ids_after`] was told of.
pub fn new_id() -> Uuid {
    IDS.next()
}

/// Lets the ids of this process begin after one that is there, if that lies ahead of the clock: it was made
/// while a clock was wrong, or this one is. Returns by how much.
pub(super) fn begin_ids_after(newest: Uuid) -> Duration {
    IDS.begin_after(newest)
}

impl NewIds {
    const fn new() -> NewIds {
        NewIds { ahead: AtomicU64::new(0), last: Mutex::new(ContextV7::new()) }
    }

    fn next(&self) -> Uuid {
        let ahead = self.ahead.load(Ordering::Acquire);
        self.at(Clock::System.now() + Duration::from_millis(ahead))
    }

    fn at(&self, time: OffsetDateTime) -> Uuid {
        let seconds = u64::try_from(time.unix_timestamp()).unwrap_or_default();
        Uuid::new_v7(Timestamp::from_unix(&self.last, seconds, time.nanosecond()))
    }

    fn begin_after(&self, newest: Uuid) -> Duration {
        // The first 48 bits are milliseconds.
        let made = newest.as_u128() >> 80;
        let now = u128::try_from(Clock::System.now().unix_timestamp_nanos()).unwrap_or_default();
        let ahead = (made + 1).saturating_sub(now / 1_000_000);
        let ahead = u64::try_from(ahead).unwrap_or_default();
        self.ahead.fetch_max(ahead, Ordering::AcqRel);
        Duration::from_millis(ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_begin_after_the_newest_that_is_there() {
        let ids = NewIds::new();
        let before = [ids.next(), ids.next()];
        assert!(before[0] < before[1]);
        assert!(ids.begin_after(before[0]) < Duration::from_secs(1));
        let hour = Duration::from_secs(3600);
        let newest = NewIds::new().at(Clock::System.now() + hour);
        let ahead = ids.begin_after(newest);
        assert!(ahead > hour - Duration::from_secs(60) && ahead <= hour + Duration::from_secs(1));
        let mut last = newest;
        for _ in 0..1000 {
            let next = ids.next();
            assert!(next > last && next.get_version_num() == 7, "{next} after {last}");
            last = next;
        }
        // One that lies before that changes nothing.
        ids.begin_after(before[1]);
        assert!(ids.next() > last);
    }

    #[test]
    fn a_moved_clock_stands_until_it_is_moved_and_clones_move_together() {
        let start = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let clock = Clock::standing_at(start);
        let other = clock.clone();
        assert_eq!(clock.now(), start);
        other.advance(Duration::from_micros(1_500));
        assert_eq!(clock.now(), start + Duration::from_micros(1_500));
    }
}
