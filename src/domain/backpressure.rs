//! What is still taken on when deliveries pile up: watermarks with hysteresis, and when to retry.

use std::time::Duration;

/// What is still taken on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    #[default]
    Open,
    /// Everything, but broadcasts wait.
    BroadcastsPaused,
    /// No bulk sends.
    BulkRefused,
    /// High priority only.
    HighOnly,
}

impl Level {
    /// All of them, in order.
    pub const ALL: [Level; 4] =
        [Level::Open, Level::BroadcastsPaused, Level::BulkRefused, Level::HighOnly];

    /// The name in health pages and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Open => "open",
            Level::BroadcastsPaused => "broadcasts_paused",
            Level::BulkRefused => "bulk_refused",
            Level::HighOnly => "high_only",
        }
    }

    /// Where it is entered, in percent of the limit (delivery.md, How 11).
    const fn entered_at(self) -> u64 {
        match self {
            Level::Open => 0,
            Level::BroadcastsPaused => 60,
            Level::BulkRefused => 80,
            Level::HighOnly => 100,
        }
    }

    /// Where it is left: lower, so that it does not flutter.
    const fn left_below(self) -> u64 {
        self.entered_at().saturating_sub(10)
    }
}

/// How many deliveries were last in flight, and what is refused because of that.
#[derive(Clone, Copy, Debug)]
pub struct Backpressure {
    limit: u64,
    last: u64,
    level: Level,
    /// Messages a second by which it fell lately; negative while it grows.
    falling: f64,
}

/// Bounds of what a refused sender is told: it should neither hammer nor give up.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

impl Backpressure {
    /// Nothing in flight under a limit; 0 means no limit.
    pub fn new(limit: u64) -> Backpressure {
        Backpressure { limit, last: 0, level: Level::Open, falling: 0.0 }
    }

    /// The limit from the next look on; without one nothing is refused.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
        if limit == 0 {
            self.level = Level::Open;
        }
    }

    /// What is still taken on.
    pub fn level(&self) -> Level {
        self.level
    }

    /// How many deliveries were last in flight.
    pub fn last(&self) -> u64 {
        self.last
    }

    fn at(&self, percent: u64) -> u64 {
        self.limit.saturating_mul(percent) / 100
    }

    /// Takes the number of deliveries in flight, `elapsed` after the last time.
    pub fn observe(&mut self, depth: u64, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64().max(0.001);
        let fell = (self.last as f64 - depth as f64) / seconds;
        // Half of what was and half of what is: a second's whim does not decide.
        self.falling = (self.falling + fell) / 2.0;
        self.last = depth;
        if self.limit == 0 {
            return;
        }
        let entered =
            Level::ALL.into_iter().rev().find(|level| depth >= self.at(level.entered_at()));
        let entered = entered.unwrap_or_default();
        if entered > self.level {
            self.level = entered;
        }
        while self.level > Level::Open && depth < self.at(self.level.left_below()) {
            let below = Level::ALL.into_iter().rev().find(|level| *level < self.level);
            self.level = below.unwrap_or_default();
        }
    }

    /// When a refused sender should retry: when the number in flight, falling as it does, will be
    /// where the level is left.
    pub fn retry_after(&self) -> Duration {
        let above = self.last.saturating_sub(self.at(self.level.left_below())) as f64;
        if self.falling < 1.0 {
            // It does not fall: something is wrong, and nobody knows for how long.
            return MAX_RETRY_AFTER / 4;
        }
        Duration::from_secs_f64((above / self.falling).clamp(1.0, 60.0))
            .clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn levels_are_entered_and_left_at_their_marks() {
        let mut depth = Backpressure::new(100_000);
        let expected = [
            (59_999, Level::Open),
            (60_000, Level::BroadcastsPaused),
            (50_000, Level::BroadcastsPaused),
            (49_999, Level::Open),
            (80_000, Level::BulkRefused),
            (70_000, Level::BulkRefused),
            (69_999, Level::BroadcastsPaused),
            (250_000, Level::HighOnly),
            (90_000, Level::HighOnly),
            (89_999, Level::BulkRefused),
            (0, Level::Open),
        ];
        for (seen, level) in expected {
            depth.observe(seen, SECOND);
            assert_eq!(depth.level(), level, "at {seen}");
        }
    }

    #[test]
    fn one_comes_back_when_it_will_be_free() {
        let mut depth = Backpressure::new(100_000);
        depth.observe(200_000, SECOND);
        assert_eq!(depth.retry_after(), Duration::from_secs(15), "it does not fall");
        for seen in (130_000..200_000).rev().step_by(10_000) {
            depth.observe(seen, SECOND);
        }
        // 40,000 above where it is left, falling by about 10,000 a second.
        let wait = depth.retry_after().as_secs();
        assert!((3..=8).contains(&wait), "{wait}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn a_level_is_never_lower_than_its_mark_and_the_answer_is_bounded(
            limit in 1u64..1_000_000, seen in prop::collection::vec(0u64..2_000_000, 1..100)
        ) {
            let mut depth = Backpressure::new(limit);
            for depth_seen in seen {
                depth.observe(depth_seen, SECOND);
                let least = Level::ALL
                    .into_iter().rev()
                    .find(|level| depth_seen >= depth.at(level.entered_at())).unwrap();
                prop_assert!(depth.level() >= least);
                prop_assert!((MIN_RETRY_AFTER..=MAX_RETRY_AFTER).contains(&depth.retry_after()));
            }
        }
    }

    #[test]
    fn no_limit_is_always_open() {
        let mut depth = Backpressure::new(0);
        depth.observe(u64::MAX / 200, SECOND);
        assert_eq!(depth.level(), Level::Open);
    }
}
