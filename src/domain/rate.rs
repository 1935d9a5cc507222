//! Rate limiting with a strict sliding window.
//!
//! Strict means that no window of that length, wherever it begins, exceeds the limit; a token bucket would
//! let nearly twice as many pass in its first window. Time is counted in sixtieths of the window, so capacity
//! returns up to a sixtieth late.

use std::time::Duration;

/// Time slots of a window. One more than sixty is kept, because an event at the end of a slot must count for
/// a whole window from there.
const SLOTS: usize = 61;

/// A rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many; 0 means no limit.
    pub most: u32,
    /// In how long.
    pub window: Duration,
}

impl Rate {
    /// The length of a slot, in microseconds.
    pub fn part(self) -> u128 {
        (self.window.as_micros() / (SLOTS as u128 - 1)).max(1)
    }
}

/// The events in the current window.
#[derive(Clone, Debug)]
pub struct SlidingWindow {
    counts: [u32; SLOTS],
    total: u32,
    /// The number of the newest slot, counted from the clock's zero.
    newest: u128,
}

impl Default for SlidingWindow {
    fn default() -> Self {
        SlidingWindow { counts: [0; SLOTS], total: 0, newest: 0 }
    }
}

impl SlidingWindow {
    /// Drops slots older than the window. `now` is a time since any fixed zero; a clock that goes back counts
    /// as standing still.
    fn roll(&mut self, rate: Rate, now: Duration) {
        let part = now.as_micros() / rate.part();
        if part <= self.newest {
            return;
        }
        let steps = part - self.newest;
        if steps >= SLOTS as u128 {
            self.counts = [0; SLOTS];
            self.total = 0;
        } else {
            for step in 1..=steps {
                let place = ((self.newest + step) % SLOTS as u128) as usize;
                self.total -= self.counts[place];
                self.counts[place] = 0;
            }
        }
        self.newest = part;
    }

    /// Remaining capacity now.
    pub fn room(&mut self, rate: Rate, now: Duration) -> u32 {
        if rate.most == 0 {
            return u32::MAX;
        }
        self.roll(rate, now);
        rate.most.saturating_sub(self.total)
    }

    /// Records `count` events. Check [`SlidingWindow::room`] first.
    pub fn pass(&mut self, rate: Rate, now: Duration, count: u32) {
        if rate.most > 0 {
            self.roll(rate, now);
            let place = (self.newest % SLOTS as u128) as usize;
            self.counts[place] = self.counts[place].saturating_add(count);
            self.total = self.total.saturating_add(count);
        }
    }

    /// Undoes recorded events that did not happen, latest first.
    pub fn give_back(&mut self, count: u32) {
        let mut left = count.min(self.total);
        self.total -= left;
        for age in 0..SLOTS as u128 {
            let Some(part) = self.newest.checked_sub(age) else { return };
            let place = (part % SLOTS as u128) as usize;
            let taken = left.min(self.counts[place]);
            self.counts[place] -= taken;
            left -= taken;
            if left == 0 {
                return;
            }
        }
    }

    /// How long until `count` more events fit, if nothing else happens; `None` if they never fit.
    pub fn wait(&mut self, rate: Rate, now: Duration, count: u32) -> Option<Duration> {
        if rate.most == 0 {
            return Some(Duration::ZERO);
        }
        if count > rate.most {
            return None;
        }
        self.roll(rate, now);
        let mut total = self.total;
        let fits = |total: u32| total <= rate.most - count;
        if fits(total) {
            return Some(Duration::ZERO);
        }
        for age in (0..SLOTS as u128).rev() {
            let Some(part) = self.newest.checked_sub(age) else { continue };
            total -= self.counts[(part % SLOTS as u128) as usize];
            if fits(total) {
                // This slot is dropped a whole window later.
                let free = (part + SLOTS as u128) * rate.part();
                let micros = free.saturating_sub(now.as_micros());
                return Some(Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)));
            }
        }
        Some(rate.window)
    }

    /// Whether the window is empty.
    pub fn is_idle(&mut self, rate: Rate, now: Duration) -> bool {
        self.roll(rate, now);
        self.total == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn no_window_holds_more_than_the_limit(
            most in 1u32..50, steps in prop::collection::vec((0u64..20_000, 1u32..8), 1..200)
        ) {
            let rate = Rate { most, window: MINUTE };
            let mut window = SlidingWindow::default();
            let mut now = Duration::from_secs(1_000_000);
            let mut passed: Vec<(Duration, u32)> = Vec::new();
            for (wait, wanted) in steps {
                now += Duration::from_millis(wait);
                let count = wanted.min(window.room(rate, now));
                window.pass(rate, now, count);
                passed.push((now, count));
                let lately: u32 =
                    passed.iter().filter(|(at, _)| *at > now - MINUTE).map(|(_, n)| n).sum();
                prop_assert!(lately <= most, "{lately} in a minute");
            }
        }

        #[test]
        fn after_the_wait_it_passes_and_not_much_earlier(
            most in 1u32..50, steps in prop::collection::vec((0u64..5_000, 1u32..8), 1..100),
            wanted in 1u32..8
        ) {
            let rate = Rate { most, window: MINUTE };
            let mut window = SlidingWindow::default();
            let mut now = Duration::from_secs(1_000_000);
            for (wait, count) in steps {
                now += Duration::from_millis(wait);
                let count = count.min(window.room(rate, now));
                window.pass(rate, now, count);
            }
            let Some(wait) = window.wait(rate, now, wanted) else {
                prop_assert!(wanted > most);
                return Ok(());
            };
            prop_assert!(wait <= MINUTE + MINUTE / 60);
            prop_assert!(window.clone().room(rate, now + wait) >= wanted);
            if wait > Duration::ZERO {
                let earlier = now + wait - Duration::from_micros(1);
                prop_assert!(window.clone().room(rate, earlier) < wanted);
            }
        }

        #[test]
        fn what_is_given_back_was_never_there(
            counts in prop::collection::vec(0u32..10, 1..30), back in 0u32..40
        ) {
            let rate = Rate { most: 1000, window: MINUTE };
            let mut window = SlidingWindow::default();
            let mut now = Duration::from_secs(7);
            for count in &counts {
                now += Duration::from_millis(1500);
                window.pass(rate, now, *count);
            }
            let sum: u32 = counts.iter().sum();
            window.give_back(back);
            prop_assert_eq!(window.room(rate, now), 1000 - sum.saturating_sub(back));
        }
    }

    #[test]
    fn no_limit_is_no_limit() {
        let rate = Rate { most: 0, window: MINUTE };
        let mut window = SlidingWindow::default();
        window.pass(rate, MINUTE, 1_000_000);
        assert_eq!(window.room(rate, MINUTE), u32::MAX);
        assert_eq!(window.wait(rate, MINUTE, u32::MAX), Some(Duration::ZERO));
    }
}
