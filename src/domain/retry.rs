//! When an unacknowledged delivery is retried, and when it fails.

use std::time::Duration;

/// The retry policy of deliveries that were written to a live connection and not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How long a live connection has to acknowledge.
    pub acknowledge_timeout: Duration,
    /// Delay before the first retry; each further one doubles it.
    pub base: Duration,
    /// Retries before the message fails: six by default, after 1, 2, 4, 8, 16, 32 s.
    pub attempts: u16,
}

/// The reaction to a missed acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterMiss {
    /// Try again.
    Retry {
        /// The retry count from now on.
        retry_count: u16,
        /// The delay before it.
        after: Duration,
    },
    /// No retries left: the message fails and becomes a dead letter.
    GiveUp,
}

impl RetryPolicy {
    /// The delay before retry `n`, from 0. Saturates instead of overflowing.
    pub fn delay(&self, n: u16) -> Duration {
        let factor = 1u32.checked_shl(u32::from(n)).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor)
    }

    /// The reaction to a missed acknowledgement of a message with `retry_count` retries.
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
