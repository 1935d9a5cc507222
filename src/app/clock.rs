//! The time, as it is stored: UTC with microseconds.
//!
//! Whoever decides by the time asks the appliance's clock, so that a test can let six retries or
//! seven days pass without waiting for them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use time::OffsetDateTime;

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

#[cfg(test)]
mod tests {
    use super::*;

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
