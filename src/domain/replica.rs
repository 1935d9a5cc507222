//! Whether a database replica may serve reads: by its replication lag, with hysteresis against flapping.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// A replica with more lag is excluded.
pub const MAX_LAG: Duration = Duration::from_secs(1);
/// An excluded replica must have at most this lag …
const RECOVERED_LAG: Duration = Duration::from_millis(500);
/// … so many times in a row.
const RECOVERY_STREAK: u8 = 3;

/// The result of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LagMeasurement {
    /// Lag of at most this.
    Lag(Duration),
    /// The lag exceeds the recorded history: it is at least this.
    LagOver(Duration),
    /// The replica does not answer, or is not a replica of this database.
    Gone,
}

impl LagMeasurement {
    /// The lag, if known.
    pub fn lag(self) -> Option<Duration> {
        match self {
            LagMeasurement::Lag(lag) | LagMeasurement::LagOver(lag) => Some(lag),
            LagMeasurement::Gone => None,
        }
    }
}

/// Health of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaHealth {
    /// It serves reads.
    Usable,
    /// It lags, or has not recovered for long enough.
    Lagging,
    /// It does not answer.
    Down,
}

impl ReplicaHealth {
    /// The name on the health page.
    pub fn name(self) -> &'static str {
        match self {
            ReplicaHealth::Usable => "usable",
            ReplicaHealth::Lagging => "lagging",
            ReplicaHealth::Down => "down",
        }
    }
}

/// Judges the health of a replica from successive measurements.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaMonitor {
    standing: ReplicaHealth,
    near: u8,
}

impl Default for ReplicaMonitor {
    /// Unknown at first: one good measurement makes it usable.
    fn default() -> Self {
        ReplicaMonitor { standing: ReplicaHealth::Down, near: RECOVERY_STREAK - 1 }
    }
}

impl ReplicaMonitor {
    /// The health after the last measurement.
    pub fn standing(self) -> ReplicaHealth {
        self.standing
    }

    /// The state after another measurement.
    #[must_use]
    pub fn after(self, measured: LagMeasurement) -> ReplicaMonitor {
        let left_out = |standing| ReplicaMonitor { standing, near: 0 };
        match (measured, self.standing) {
            (LagMeasurement::Gone, _) => left_out(ReplicaHealth::Down),
            (LagMeasurement::LagOver(_), _) => left_out(ReplicaHealth::Lagging),
            (LagMeasurement::Lag(lag), _) if lag > MAX_LAG => left_out(ReplicaHealth::Lagging),
            (LagMeasurement::Lag(_), ReplicaHealth::Usable) => self,
            (LagMeasurement::Lag(lag), _) if lag > RECOVERED_LAG => {
                left_out(ReplicaHealth::Lagging)
            }
            (LagMeasurement::Lag(_), _) if self.near + 1 >= RECOVERY_STREAK => {
                ReplicaMonitor { standing: ReplicaHealth::Usable, near: 0 }
            }
            (LagMeasurement::Lag(_), _) => {
                ReplicaMonitor { standing: ReplicaHealth::Lagging, near: self.near + 1 }
            }
        }
    }
}

/// How many samples are kept, and their minimum interval.
const MAX_SAMPLES: usize = 256;
const MIN_SAMPLE_INTERVAL: Duration = Duration::from_millis(200);

/// The primary's log positions over time, to determine the age of what a replica lacks.
#[derive(Debug, Default)]
pub struct LogPositions {
    moments: VecDeque<(Instant, u64)>,
}

impl LogPositions {
    /// Records that the log had reached at least `position` at `at`.
    pub fn note(&mut self, at: Instant, position: u64) {
        // After a failover, the log may end before that of the lost primary.
        while self.moments.back().is_some_and(|(_, last)| *last > position) {
            self.moments.pop_back();
        }
        if self.moments.back().is_some_and(|(last, _)| at < *last + MIN_SAMPLE_INTERVAL) {
            return;
        }
        if self.moments.len() == MAX_SAMPLES {
            self.moments.pop_front();
        }
        self.moments.push_back((at, position));
    }

    /// The replication lag of a replica at `position`: everything committed before the newest sample that the
    /// replica has reached is on the replica.
    pub fn lag(&self, position: u64, now: Instant) -> LagMeasurement {
        let reached = self.moments.iter().rev().find(|(_, reached)| *reached <= position);
        match (reached, self.moments.front()) {
            (Some((at, _)), _) => LagMeasurement::Lag(now.saturating_duration_since(*at)),
            (None, oldest) => {
                let oldest = oldest.map_or(now, |(at, _)| *at);
                LagMeasurement::LagOver(now.saturating_duration_since(oldest))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn standings(measured: impl IntoIterator<Item = LagMeasurement>) -> Vec<ReplicaHealth> {
        let mut watch = ReplicaMonitor::default();
        measured
            .into_iter()
            .map(|measured| {
                watch = watch.after(measured);
                watch.standing()
            })
            .collect()
    }

    #[test]
    fn it_goes_out_at_once_and_comes_back_slowly() {
        use ReplicaHealth::{Down, Lagging, Usable};
        let lag = |n| LagMeasurement::Lag(millis(n));
        assert_eq!(
            standings([lag(0), lag(900), lag(1001), lag(900), lag(10), lag(10), lag(600), lag(0)]),
            [Usable, Usable, Lagging, Lagging, Lagging, Lagging, Lagging, Lagging]
        );
        assert_eq!(
            standings([LagMeasurement::Gone, lag(0), lag(0), lag(0), lag(999)]),
            [Down, Lagging, Lagging, Usable, Usable]
        );
        assert_eq!(standings([LagMeasurement::LagOver(millis(1)), lag(0)]), [Lagging, Lagging]);
    }

    #[test]
    fn the_lag_is_the_age_of_what_is_missing() {
        let mut positions = LogPositions::default();
        let begun = Instant::now();
        for n in 0..10 {
            positions.note(begun + millis(300 * n), 100 * n);
        }
        let now = begun + millis(3000);
        assert_eq!(positions.lag(900, now), LagMeasurement::Lag(millis(300)));
        assert_eq!(positions.lag(899, now), LagMeasurement::Lag(millis(600)));
        assert_eq!(positions.lag(0, now), LagMeasurement::Lag(millis(3000)));
        let mut late = LogPositions::default();
        late.note(begun, 100);
        assert_eq!(late.lag(99, now), LagMeasurement::LagOver(millis(3000)));
        for n in 0..10_000 {
            late.note(begun + millis(n), 100 + n);
        }
        assert_eq!(late.moments.len(), 50, "moments that are close to each other are one");
    }
}
