//! What a process counts of its work, and how the figures of several processes add up.

/// How long one sample of [`Figures::recent`] is, in seconds.
pub const SAMPLE_SECONDS: u64 = 2;
/// How many samples are kept: two minutes.
pub const SAMPLES: usize = 60;

/// Counted messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Durable, and answered with success.
    pub accepted: u64,
    /// Acknowledged by their recipient's device.
    pub delivered: u64,
    /// Given up.
    pub failed: u64,
    /// Deliveries that were not acknowledged in time and are tried again.
    pub retries: u64,
}

impl Counts {
    fn each(self, other: Counts, f: impl Fn(u64, u64) -> u64) -> Counts {
        Counts {
            accepted: f(self.accepted, other.accepted),
            delivered: f(self.delivered, other.delivered),
            failed: f(self.failed, other.failed),
            retries: f(self.retries, other.retries),
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Counts) -> Counts {
        self.each(other, u64::saturating_add)
    }

    /// What came since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Counts) -> Counts {
        self.each(earlier, u64::saturating_sub)
    }
}

/// Durations from a millisecond to days, counted in buckets no wider than a sixteenth of their value, so
/// that those of many processes can be added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    counts: Vec<u64>,
}

/// In each doubling of the duration.
const STEPS: u64 = 16;
/// The first bucket's doubling: below 16 ms each millisecond has its own.
const FIRST: u32 = STEPS.ilog2();
/// The last doubling that is told apart, to 2^31 ms: 24 days.
const LAST: u32 = 30;

impl Latencies {
    /// How many buckets there are.
    pub const BUCKETS: usize = (STEPS + (LAST as u64 - FIRST as u64 + 1) * STEPS) as usize;

    /// The bucket of a duration in milliseconds.
    pub fn bucket(millis: u64) -> usize {
        if millis < STEPS {
            return usize::try_from(millis).unwrap_or_default();
        }
        let doubling = millis.ilog2();
        if doubling > LAST {
            return Latencies::BUCKETS - 1;
        }
        let step = (millis >> (doubling - FIRST)) - STEPS;
        let place = STEPS + u64::from(doubling - FIRST) * STEPS + step;
        usize::try_from(place).unwrap_or_default()
    }

    /// The longest duration of a bucket, in milliseconds.
    fn longest(bucket: usize) -> u64 {
        let bucket = bucket as u64;
        if bucket < STEPS {
            return bucket;
        }
        let (doubling, step) = ((bucket - STEPS) / STEPS, (bucket - STEPS) % STEPS);
        ((STEPS + step + 1) << doubling) - 1
    }

    /// Counts `count` durations of a bucket; those of no bucket are not there.
    pub fn add(&mut self, bucket: usize, count: u64) {
        if bucket >= Latencies::BUCKETS || count == 0 {
            return;
        }
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        if let Some(place) = self.counts.get_mut(bucket) {
            *place = place.saturating_add(count);
        }
    }

    /// Adds what another process counted.
    pub fn merge(&mut self, other: &Latencies) {
        for (bucket, count) in other.filled() {
            self.add(bucket, count);
        }
    }

    /// What came since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Latencies) -> Latencies {
        let before = earlier.counts.iter().copied().chain(std::iter::repeat(0));
        let counts = self.counts.iter().zip(before);
        Latencies { counts: counts.map(|(now, before)| now.saturating_sub(before)).collect() }
    }

    /// The buckets that count something.
    pub fn filled(&self) -> impl Iterator<Item = (usize, u64)> {
        self.counts.iter().copied().enumerate().filter(|(_, count)| *count > 0)
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// In milliseconds, what `share` (0 to 1) of them do not exceed; `None` when there is none.
    pub fn percentile(&self, share: f64) -> Option<u64> {
        let count = self.count();
        let rank = (share.clamp(0.0, 1.0) * count as f64).ceil().max(1.0);
        let mut sum = 0;
        let found = self.filled().find(|(_, of_bucket)| {
            sum += of_bucket;
            sum as f64 >= rank
        });
        found.map(|(bucket, _)| Latencies::longest(bucket))
    }
}

/// A part that a process works with, as that process sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    /// `database`, `disk`, `realtime`, `rabbitmq`, `redis` or `mail`.
    pub name: String,
    /// Whether it answers.
    pub up: bool,
    /// How long it took to answer, in milliseconds, where that was measured.
    pub latency_ms: Option<f64>,
    /// Its version, where it tells one.
    pub version: Option<String>,
    /// What is wrong with it.
    pub fault: Option<String>,
    /// How it was at the last looks, oldest first: how many milliseconds it took, -1 when it did not answer.
    pub past: Vec<i32>,
}

/// What a process knows of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Since it started.
    pub total: Counts,
    /// From acceptance to acknowledgement, since it started.
    pub latencies: Latencies,
    /// Samples of [`SAMPLE_SECONDS`], oldest first, at most [`SAMPLES`].
    pub recent: Vec<Counts>,
    /// Of the same time as `recent`.
    pub recent_latencies: Latencies,
    /// Connections of the hub that are open here.
    pub connections: u64,
    /// Wake-ups that wait here: low, normal, high.
    pub wake_ups: [u64; 3],
    /// What is still taken on: the name of a [`super::backpressure::Level`]; none where that is not watched.
    pub backpressure: Option<String>,
    /// Its memory in bytes, where the system tells.
    pub memory: Option<u64>,
    /// What it works with.
    pub parts: Vec<Part>,
}

impl Figures {
    /// Adds up what can be: counts, samples from the newest back, connections, wake-ups, memory.
    pub fn merge(&mut self, other: &Figures) {
        self.total = self.total.plus(other.total);
        self.latencies.merge(&other.latencies);
        self.recent_latencies.merge(&other.recent_latencies);
        while self.recent.len() < other.recent.len() {
            self.recent.insert(0, Counts::default());
        }
        for (mine, theirs) in self.recent.iter_mut().rev().zip(other.recent.iter().rev()) {
            *mine = mine.plus(*theirs);
        }
        self.connections += other.connections;
        for (mine, theirs) in self.wake_ups.iter_mut().zip(other.wake_ups) {
            *mine += theirs;
        }
        self.memory = match (self.memory, other.memory) {
            (Some(mine), Some(theirs)) => Some(mine + theirs),
            (mine, theirs) => mine.or(theirs),
        };
    }

    /// What was counted in the last `samples` samples.
    pub fn lately(&self, samples: usize) -> Counts {
        let newest = self.recent.iter().rev().take(samples);
        newest.fold(Counts::default(), |sum, sample| sum.plus(*sample))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(durations: &[u64]) -> Latencies {
        let mut latencies = Latencies::default();
        for millis in durations {
            latencies.add(Latencies::bucket(*millis), 1);
        }
        latencies
    }

    #[test]
    fn percentiles_of_a_hundred() {
        let latencies = of(&(1..=100).collect::<Vec<_>>());
        assert_eq!(latencies.percentile(0.1), Some(10));
        assert_eq!(latencies.percentile(0.5), Some(51));
        assert_eq!(latencies.percentile(1.0), Some(103));
        assert_eq!(Latencies::default().percentile(0.5), None);
    }

    #[test]
    fn samples_add_up_from_the_newest_back() {
        let sample = |accepted| Counts { accepted, ..Counts::default() };
        let mut one = Figures { recent: vec![sample(5)], memory: Some(1), ..Figures::default() };
        let other = Figures { recent: vec![sample(1), sample(2)], ..Figures::default() };
        one.merge(&other);
        assert_eq!(one.recent, [sample(1), sample(7)]);
        assert_eq!((one.lately(1).accepted, one.lately(9).accepted, one.memory), (7, 8, Some(1)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn a_bucket_is_no_wider_than_a_sixteenth(millis in 0u64..(1 << 31)) {
            let bucket = Latencies::bucket(millis);
            let longest = Latencies::longest(bucket);
            prop_assert!(longest >= millis && longest - millis <= millis / 16, "{millis}: {longest}");
            prop_assert!(bucket < Latencies::BUCKETS);
            prop_assert!(Latencies::bucket(millis + 1) >= bucket);
        }

        #[test]
        fn what_is_added_up_is_what_all_counted(
            one in prop::collection::vec(0u64..u64::MAX, 0..50),
            other in prop::collection::vec(0u64..100_000, 0..50),
        ) {
            let mut sum = of(&one);
            sum.merge(&of(&other));
            prop_assert_eq!(&sum, &of(&[one.clone(), other.clone()].concat()));
            prop_assert_eq!(sum.since(&of(&one)).count(), other.len() as u64);
            let steps = [0.0, 0.5, 0.9, 0.99, 1.0].map(|share| sum.percentile(share));
            prop_assert!(steps.is_sorted());
        }
    }
}
