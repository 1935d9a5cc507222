//! Backpressure: which sends are accepted while deliveries pile up. Watermarks with hysteresis, and a retry
//! delay for refused senders.

use std::time::Duration;

/// Which sends are accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum BackpressureLevel {
    /// Everything.
    #[default]
    Open,
    /// Everything, but broadcasts are paused.
    BroadcastsPaused,
    /// No bulk sends: low priority is refused.
    BulkRefused,
    /// High priority only.
    HighOnly,
}

impl BackpressureLevel {
    /// All of them, in order.
    pub const ALL: [BackpressureLevel; 4] = [
        BackpressureLevel::Open,
        BackpressureLevel::BroadcastsPaused,
        BackpressureLevel::BulkRefused,
        BackpressureLevel::HighOnly,
    ];

    /// The name on health pages and in logs.
    pub const fn name(self) -> &'static str {
        match self {
            BackpressureLevel::Open => "open",
            BackpressureLevel::BroadcastsPaused => "broadcasts_paused",
            BackpressureLevel::BulkRefused => "bulk_refused",
            BackpressureLevel::HighOnly => "high_only",
        }
    }

    /// Entered at this percentage of the limit.
    const fn entered_at(self) -> u64 {
        match self {
            BackpressureLevel::Open => 0,
            BackpressureLevel::BroadcastsPaused => 60,
            BackpressureLevel::BulkRefused => 80,
            BackpressureLevel::HighOnly => 100,
        }
    }

    /// Left below this percentage: lower, to avoid flapping.
    const fn left_below(self) -> u64 {
        self.entered_at().saturating_sub(10)
    }
}

/// The observed number of deliveries in flight, and the resulting level.
#[derive(Clone, Copy, Debug)]
pub struct Backpressure {
    limit: u64,
    last: u64,
    level: BackpressureLevel,
    /// Decrease per second, smoothed; negative while it grows.
    falling: f64,
}

/// Bounds of `Retry-After`.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

impl Backpressure {
    /// No deliveries in flight; a limit of 0 means none.
    pub fn new(limit: u64) -> Backpressure {
        Backpressure { limit, last: 0, level: BackpressureLevel::Open, falling: 0.0 }
    }

    /// Sets the limit for the next observations; without one everything is accepted.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
        if limit == 0 {
            self.level = BackpressureLevel::Open;
        }
    }

    /// Which sends are accepted.
    pub fn level(&self) -> BackpressureLevel {
        self.level
    }

    /// Deliveries in flight at the last observation.
    pub fn last(&self) -> u64 {
        self.last
    }

    fn at(&self, percent: u64) -> u64 {
        self.limit.saturating_mul(percent) / 100
    }

    /// Records the deliveries in flight, `elapsed` after the last observation.
    pub fn observe(&mut self, depth: u64, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64().max(0.001);
        let fell = (self.last as f64 - depth as f64) / seconds;
        // Exponential smoothing, against outliers.
        self.falling = (self.falling + fell) / 2.0;
        self.last = depth;
        if self.limit == 0 {
            return;
        }
        let entered = BackpressureLevel::ALL
            .into_iter()
            .rev()
            .find(|level| depth >= self.at(level.entered_at()));
        let entered = entered.unwrap_or_default();
        if entered > self.level {
            self.level = entered;
        }
        while self.level > BackpressureLevel::Open && depth < self.at(self.level.left_below()) {
            let below = BackpressureLevel::ALL.into_iter().rev().find(|level| *level < self.level);
            self.level = below.unwrap_or_default();
        }
    }

    /// `Retry-After` for a refused sender: the estimated time until the level is left.
    pub fn retry_after(&self) -> Duration {
        let above = self.last.saturating_sub(self.at(self.level.left_below())) as f64;
        if self.falling < 1.0 {
            // Not decreasing: there is no estimate.
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
            (59_999, BackpressureLevel::Open),
            (60_000, BackpressureLevel::BroadcastsPaused),
            (50_000, BackpressureLevel::BroadcastsPaused),
            (49_999, BackpressureLevel::Open),
            (80_000, BackpressureLevel::BulkRefused),
            (70_000, BackpressureLevel::BulkRefused),
            (69_999, BackpressureLevel::BroadcastsPaused),
            (250_000, BackpressureLevel::HighOnly),
            (90_000, BackpressureLevel::HighOnly),
            (89_999, BackpressureLevel::BulkRefused),
            (0, BackpressureLevel::Open),
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
                let least = BackpressureLevel::ALL
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
        assert_eq!(depth.level(), BackpressureLevel::Open);
    }
}
