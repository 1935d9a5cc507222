//! When an unacknowledged delivery is tried again, and when it is given up.

use std::time::Duration;

/// The policy for deliveries that were written to a live connection and not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How long an acknowledgement is awaited on a live connection.
    pub acknowledge_timeout: Duration,
    /// The wait before the first retry; each further one doubles it.
    pub base: Duration,
    /// How many retries before the message is given up (system.md: six, after 1, 2, 4, 8, 16, 32 s).
    pub attempts: u16,
}

/// What follows from an attempt that was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterMiss {
    /// Try again.
    Retry {
        /// The retry count from now on.
        retry_count: u16,
        /// How long to wait first.
        after: Duration,
    },
    /// All retries are used up: the message fails and becomes a dead letter.
    GiveUp,
}

impl RetryPolicy {
    /// The wait before retry number `n`, counted from 0. Saturates instead of overflowing.
    pub fn delay(&self, n: u16) -> Duration {
        let factor = 1u32.checked_shl(u32::from(n)).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor)
    }

    /// Judges one missed acknowledgement of a message that had been retried `retry_count` times.
    pub fn after_miss(&self, retry_count: u16) -> AfterMiss {
        if retry_count >= self.attempts {
            AfterMiss::GiveUp
        } else {
            AfterMiss::Retry { retry_count: retry_count + 1, after: self.delay(retry_count) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        acknowledge_timeout: Duration::from_secs(5),
        base: Duration::from_secs(1),
        attempts: 6,
    };

    #[test]
    fn the_schedule_is_the_specified_one() {
        let waits: Vec<u64> = (0..6).map(|n| POLICY.delay(n).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32]);
    }

    // **Feature: enhanced-messaging-system, Property 4: Retry Count Monotonicity**
    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]
        #[test]
        fn retry_count_only_rises_and_stops_at_the_limit(start in 0u16..12, attempts in 0u16..7) {
            let policy = RetryPolicy { attempts, ..POLICY };
            let mut count = start;
            for _ in 0..20 {
                match policy.after_miss(count) {
                    AfterMiss::Retry { retry_count, .. } => {
                        proptest::prop_assert_eq!(retry_count, count + 1);
                        proptest::prop_assert!(retry_count <= attempts);
                        count = retry_count;
                    }
                    AfterMiss::GiveUp => {
                        proptest::prop_assert!(count >= attempts);
                        return Ok(());
                    }
                }
            }
            proptest::prop_assert!(false, "never gave up");
        }
    }
}
