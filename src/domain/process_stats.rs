//! Statistics of a process, and how those of several processes add up.

/// Length of a sample in [`ProcessStats::recent`], in seconds.
pub const SAMPLE_SECONDS: u64 = 2;
/// Number of samples: two minutes.
pub const SAMPLES: usize = 60;

/// Message counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageCounts {
    /// Stored durably and accepted.
    pub accepted: u64,
    /// Acknowledged by their recipient's device.
    pub delivered: u64,
    /// Failed.
    pub failed: u64,
    /// Retried deliveries.
    pub retries: u64,
}

impl MessageCounts {
    fn each(self, other: MessageCounts, f: impl Fn(u64, u64) -> u64) -> MessageCounts {
        MessageCounts {
            accepted: f(self.accepted, other.accepted),
            delivered: f(self.delivered, other.delivered),
            failed: f(self.failed, other.failed),
            retries: f(self.retries, other.retries),
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: MessageCounts) -> MessageCounts {
        self.each(other, u64::saturating_add)
    }

    /// The difference to `earlier`.
    #[must_use]
    pub fn since(self, earlier: MessageCounts) -> MessageCounts {
        self.each(earlier, u64::saturating_sub)
    }
}

/// A mergeable histogram of durations from a millisecond to days, in buckets no wider than a sixteenth of
/// their value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatencyHistogram {
    counts: Vec<u64>,
}

/// Buckets per doubling of the duration.
const BUCKETS_PER_DOUBLING: u64 = 16;
/// The first doubling: below 16 ms, each millisecond has a bucket.
const FIRST_DOUBLING: u32 = BUCKETS_PER_DOUBLING.ilog2();
/// The last doubling, up to 2^31 ms: 24 days.
const LAST_DOUBLING: u32 = 30;

impl LatencyHistogram {
    /// How many buckets there are.
    pub const BUCKETS: usize = (BUCKETS_PER_DOUBLING
        + (LAST_DOUBLING as u64 - FIRST_DOUBLING as u64 + 1) * BUCKETS_PER_DOUBLING)
        as usize;

    /// The bucket of a duration in milliseconds.
    pub fn bucket(millis: u64) -> usize {
        if millis < BUCKETS_PER_DOUBLING {
            return usize::try_from(millis).unwrap_or_default();
        }
        let doubling = millis.ilog2();
        if doubling > LAST_DOUBLING {
            return LatencyHistogram::BUCKETS - 1;
        }
        let step = (millis >> (doubling - FIRST_DOUBLING)) - BUCKETS_PER_DOUBLING;
        let place = BUCKETS_PER_DOUBLING
            + u64::from(doubling - FIRST_DOUBLING) * BUCKETS_PER_DOUBLING
            + step;
        usize::try_from(place).unwrap_or_default()
    }

    /// The longest duration of a bucket, in milliseconds.
    fn longest(bucket: usize) -> u64 {
        let bucket = bucket as u64;
        if bucket < BUCKETS_PER_DOUBLING {
            return bucket;
        }
        let (doubling, step) = (
            (bucket - BUCKETS_PER_DOUBLING) / BUCKETS_PER_DOUBLING,
            (bucket - BUCKETS_PER_DOUBLING) % BUCKETS_PER_DOUBLING,
        );
        ((BUCKETS_PER_DOUBLING + step + 1) << doubling) - 1
    }

    /// Counts `count` durations in a bucket; an invalid bucket is ignored.
    pub fn add(&mut self, bucket: usize, count: u64) {
        if bucket >= LatencyHistogram::BUCKETS || count == 0 {
            return;
        }
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        if let Some(place) = self.counts.get_mut(bucket) {
            *place = place.saturating_add(count);
        }
    }

    /// Adds the histogram of another process.
    pub fn merge(&mut self, other: &LatencyHistogram) {
        for (bucket, count) in other.filled() {
            self.add(bucket, count);
        }
    }

    /// The difference to `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &LatencyHistogram) -> LatencyHistogram {
        let before = earlier.counts.iter().copied().chain(std::iter::repeat(0));
        let counts = self.counts.iter().zip(before);
        LatencyHistogram {
            counts: counts.map(|(now, before)| now.saturating_sub(before)).collect(),
        }
    }

    /// The non-empty buckets.
    pub fn filled(&self) -> impl Iterator<Item = (usize, u64)> {
        self.counts.iter().copied().enumerate().filter(|(_, count)| *count > 0)
    }

    /// The number of durations.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The percentile `share` (0 to 1), in milliseconds; `None` without durations.
    pub fn percentile(&self, share: f64) -> Option<u64> {
        let count = self.count();
        let rank = (share.clamp(0.0, 1.0) * count as f64).ceil().max(1.0);
        let mut sum = 0;
        let found = self.filled().find(|(_, of_bucket)| {
            sum += of_bucket;
            sum as f64 >= rank
        });
        found.map(|(bucket, _)| LatencyHistogram::longest(bucket))
    }
}

/// A dependency of a process, as that process sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DependencyHealth {
    /// `database`, `disk`, `realtime`, `rabbitmq`, `redis` or `mail`.
    pub name: String,
    /// Whether it answers.
    pub up: bool,
    /// Response time in milliseconds, if measured.
    pub latency_ms: Option<f64>,
    /// Version, if known.
    pub version: Option<String>,
    /// What is wrong with it.
    pub fault: Option<String>,
    /// Results of the last checks, oldest first: response time in milliseconds, -1 for no answer.
    pub past: Vec<i32>,
}

/// Statistics of a process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessStats {
    /// Since it started.
    pub total: MessageCounts,
    /// From acceptance to acknowledgement, since it started.
    pub latencies: LatencyHistogram,
    /// Samples of [`SAMPLE_SECONDS`], oldest first, at most [`SAMPLES`].
    pub recent: Vec<MessageCounts>,
    /// Of the same time as `recent`.
    pub recent_latencies: LatencyHistogram,
    /// Open hub connections.
    pub connections: u64,
    /// Queued wake-ups: low, normal, high.
    pub wake_ups: [u64; 3],
    /// Name of the [`super::backpressure::BackpressureLevel`], where it is observed.
    pub backpressure: Option<String>,
    /// Resident memory in bytes, if known.
    pub memory: Option<u64>,
    /// Dependencies.
    pub parts: Vec<DependencyHealth>,
}

impl ProcessStats {
    /// Adds the statistics of another process: counters, samples from the newest back, connections, wake-ups,
    /// memory.
    pub fn merge(&mut self, other: &ProcessStats) {
        self.total = self.total.plus(other.total);
        self.latencies.merge(&other.latencies);
        self.recent_latencies.merge(&other.recent_latencies);
        while self.recent.len() < other.recent.len() {
            self.recent.insert(0, MessageCounts::default());
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

    /// Totals of the last `samples` samples.
    pub fn lately(&self, samples: usize) -> MessageCounts {
        let newest = self.recent.iter().rev().take(samples);
        newest.fold(MessageCounts::default(), |sum, sample| sum.plus(*sample))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(durations: &[u64]) -> LatencyHistogram {
        let mut latencies = LatencyHistogram::default();
        for millis in durations {
            latencies.add(LatencyHistogram::bucket(*millis), 1);
        }
        latencies
    }

    #[test]
    fn percentiles_of_a_hundred() {
        let latencies = of(&(1..=100).collect::<Vec<_>>());
        assert_eq!(latencies.percentile(0.1), Some(10));
        assert_eq!(latencies.percentile(0.5), Some(51));
        assert_eq!(latencies.percentile(1.0), Some(103));
        assert_eq!(LatencyHistogram::default().percentile(0.5), None);
    }

    #[test]
    fn samples_add_up_from_the_newest_back() {
        let sample = |accepted| MessageCounts { accepted, ..MessageCounts::default() };
        let mut one =
            ProcessStats { recent: vec![sample(5)], memory: Some(1), ..ProcessStats::default() };
        let other = ProcessStats { recent: vec![sample(1), sample(2)], ..ProcessStats::default() };
        one.merge(&other);
        assert_eq!(one.recent, [sample(1), sample(7)]);
        assert_eq!((one.lately(1).accepted, one.lately(9).accepted, one.memory), (7, 8, Some(1)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn a_bucket_is_no_wider_than_a_sixteenth(millis in 0u64..(1 << 31)) {
            let bucket = LatencyHistogram::bucket(millis);
            let longest = LatencyHistogram::longest(bucket);
            prop_assert!(longest >= millis && longest - millis <= millis / 16, "{millis}: {longest}");
            prop_assert!(bucket < LatencyHistogram::BUCKETS);
            prop_assert!(LatencyHistogram::bucket(millis + 1) >= bucket);
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
