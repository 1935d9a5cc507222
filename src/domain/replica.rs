//! Whether a copy of the database may be read from: by how far it lags behind, with hysteresis, so that
//! one at the edge does not go in and out.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// A copy that lags by more than this is left out.
pub const TOO_FAR: Duration = Duration::from_secs(1);
/// A copy that was left out has to be as near as this again …
const NEAR: Duration = Duration::from_millis(500);
/// … so many times in a row.
const IN_A_ROW: u8 = 3;

/// What a measurement found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    /// What it lacks is no older than this.
    Lag(Duration),
    /// What it lacks is older than can be told: than this at least.
    LagOver(Duration),
    /// It does not answer, or is no copy of this database.
    Gone,
}

impl Measured {
    /// The lag, as far as it can be told.
    pub fn lag(self) -> Option<Duration> {
        match self {
            Measured::Lag(lag) | Measured::LagOver(lag) => Some(lag),
            Measured::Gone => None,
        }
    }
}

/// How a copy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is read from.
    Usable,
    /// It lags, or has not been near for long enough.
    Lagging,
    /// It does not answer.
    Down,
}

impl Standing {
    /// Its name on the health page.
    pub fn name(self) -> &'static str {
        match self {
            Standing::Usable => "usable",
            Standing::Lagging => "lagging",
            Standing::Down => "down",
        }
    }
}

/// The judgement of one copy, measurement after measurement.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    standing: Standing,
    near: u8,
}

impl Default for Watch {
    /// Nothing is known of it: the first good measurement lets it in.
    fn default() -> Self {
        Watch { standing: Standing::Down, near: IN_A_ROW - 1 }
    }
}

impl Watch {
    /// How the copy stands.
    pub fn standing(self) -> Standing {
        self.standing
    }

    /// The judgement after another measurement.
    #[must_use]
    pub fn after(self, measured: Measured) -> Watch {
        let left_out = |standing| Watch { standing, near: 0 };
        match (measured, self.standing) {
            (Measured::Gone, _) => left_out(Standing::Down),
            (Measured::LagOver(_), _) => left_out(Standing::Lagging),
            (Measured::Lag(lag), _) if lag > TOO_FAR => left_out(Standing::Lagging),
            (Measured::Lag(_), Standing::Usable) => self,
            (Measured::Lag(lag), _) if lag > NEAR => left_out(Standing::Lagging),
            (Measured::Lag(_), _) if self.near + 1 >= IN_A_ROW => {
                Watch { standing: Standing::Usable, near: 0 }
            }
            (Measured::Lag(_), _) => Watch { standing: Standing::Lagging, near: self.near + 1 },
        }
    }
}

/// How many moments are remembered, and how far apart they are at least.
const MOMENTS: usize = 256;
const APART: Duration = Duration::from_millis(200);

/// Where the original's log ended, and when: to tell the age of what a copy lacks.
#[derive(Debug, Default)]
pub struct Positions {
    moments: VecDeque<(Instant, u64)>,
}

impl Positions {
    /// Notes that at `at` the log reached at least to `position`.
    pub fn note(&mut self, at: Instant, position: u64) {
        // After a failover the log may end before where the lost original's did.
        while self.moments.back().is_some_and(|(_, last)| *last > position) {
            self.moments.pop_back();
        }
        if self.moments.back().is_some_and(|(last, _)| at < *last + APART) {
            return;
        }
        if self.moments.len() == MOMENTS {
            self.moments.pop_front();
        }
        self.moments.push_back((at, position));
    }

    /// How old that is which a copy at `position` may lack, seen from `now`: everything that was
    /// committed before the newest moment which the copy has reached is in the copy.
    pub fn lag(&self, position: u64, now: Instant) -> Measured {
        let reached = self.moments.iter().rev().find(|(_, reached)| *reached <= position);
        match (reached, self.moments.front()) {
            (Some((at, _)), _) => Measured::Lag(now.saturating_duration_since(*at)),
            (None, oldest) => {
                let oldest = oldest.map_or(now, |(at, _)| *at);
                Measured::LagOver(now.saturating_duration_since(oldest))
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

    fn standings(measured: impl IntoIterator<Item = Measured>) -> Vec<Standing> {
        let mut watch = Watch::default();
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
        use Standing::{Down, Lagging, Usable};
        let lag = |n| Measured::Lag(millis(n));
        assert_eq!(
            standings([lag(0), lag(900), lag(1001), lag(900), lag(10), lag(10), lag(600), lag(0)]),
            [Usable, Usable, Lagging, Lagging, Lagging, Lagging, Lagging, Lagging]
        );
        assert_eq!(
            standings([Measured::Gone, lag(0), lag(0), lag(0), lag(999)]),
            [Down, Lagging, Lagging, Usable, Usable]
        );
        assert_eq!(standings([Measured::LagOver(millis(1)), lag(0)]), [Lagging, Lagging]);
    }

    #[test]
    fn the_lag_is_the_age_of_what_is_missing() {
        let mut positions = Positions::default();
        let begun = Instant::now();
        for n in 0..10 {
            positions.note(begun + millis(300 * n), 100 * n);
        }
        let now = begun + millis(3000);
        assert_eq!(positions.lag(900, now), Measured::Lag(millis(300)));
        assert_eq!(positions.lag(899, now), Measured::Lag(millis(600)));
        assert_eq!(positions.lag(0, now), Measured::Lag(millis(3000)));
        let mut late = Positions::default();
        late.note(begun, 100);
        assert_eq!(late.lag(99, now), Measured::LagOver(millis(3000)));
        for n in 0..10_000 {
            late.note(begun + millis(n), 100 + n);
        }
        assert_eq!(late.moments.len(), 50, "moments that are close to each other are one");
    }
}
