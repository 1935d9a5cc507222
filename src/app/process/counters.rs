//! What this process counts of its own work: metrics, and the figures that it
//! tells the others.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::ProcessService;
use crate::app::Role;
use crate::{
    domain::process_stats::{
        DependencyHealth, LatencyHistogram, MessageCounts, ProcessStats, SAMPLES,
    },
    queue::{Queue, rabbit::BrokerState},
};

/// The counters: adding to them never waits.
pub(in crate::app) struct Counters {
    accepted: AtomicU64,
    delivered: AtomicU64,
    failed: AtomicU64,
    retries: AtomicU64,
    latencies: Vec<AtomicU64>,
    /// What they were at each sample, oldest first.
    past: Mutex<VecDeque<(MessageCounts, LatencyHistogram)>>,
    parts: Mutex<Vec<DependencyHealth>>,
}

impl Counters {
    pub(in crate::app) fn new() -> Counters {
        Counters {
            accepted: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            latencies: (0..LatencyHistogram::BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            past: Mutex::new(VecDeque::from([(
                MessageCounts::default(),
                LatencyHistogram::default(),
            )])),
            parts: Mutex::default(),
        }
    }

    pub(in crate::app) fn accepted(&self, messages: usize) {
        let messages = messages as u64;
        self.accepted.fetch_add(messages, Ordering::Relaxed);
        metrics::counter!("esh3ar_messages_accepted_total").increment(messages);
    }

    pub(in crate::app) fn retried(&self, deliveries: u64) {
        self.retries.fetch_add(deliveries, Ordering::Relaxed);
        metrics::counter!("esh3ar_retries_total").increment(deliveries);
    }

    pub(in crate::app) fn failed(&self, messages: u64) {
        self.failed.fetch_add(messages, Ordering::Relaxed);
        metrics::counter!("esh3ar_messages_failed_total").increment(messages);
    }

    /// One message, and how long it took from acceptance to acknowledgement.
    pub(in crate::app) fn delivered(&self, took: Duration) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.latencies.get(LatencyHistogram::bucket(millis)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        metrics::counter!("esh3ar_messages_delivered_total").increment(1);
        metrics::histogram!("esh3ar_delivery_seconds").record(took.as_secs_f64());
    }

    fn now(&self) -> (MessageCounts, LatencyHistogram) {
        let counts = MessageCounts {
            accepted: self.accepted.load(Ordering::Relaxed),
            delivered: self.delivered.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
        };
        let mut latencies = LatencyHistogram::default();
        for (bucket, count) in self.latencies.iter().enumerate() {
            latencies.add(bucket, count.load(Ordering::Relaxed));
        }
        (counts, latencies)
    }

    fn sample(&self) {
        let now = self.now();
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        past.push_back(now);
        // One more than there are samples: each is what came between two of them.
        while past.len() > SAMPLES + 1 {
            past.pop_front();
        }
    }

    fn figures(&self) -> ProcessStats {
        let (total, latencies) = self.now();
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let between = past.iter().zip(past.iter().skip(1));
        let recent = between.map(|((before, _), (after, _))| after.since(*before)).collect();
        let recent_latencies =
            past.front().map(|(_, before)| latencies.since(before)).unwrap_or_default();
        drop(past);
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ProcessStats {
            total,
            latencies,
            recent,
            recent_latencies,
            parts,
            ..ProcessStats::default()
        }
    }

    /// What is seen of the database, or of the ways to other processes; each replaces what was seen of
    /// the same part before.
    pub(in crate::app) fn note_parts(&self, seen: Vec<DependencyHealth>) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.retain(|part| seen.iter().all(|other| other.name != part.name));
        parts.extend(seen);
        parts.sort_by(|one, other| one.name.cmp(&other.name));
    }
}

impl ProcessService {
    pub(in crate::app) fn counters(&self) -> &Counters {
        &self.state.counters
    }

    /// Takes a sample of what was counted; to be called every
    /// [`SAMPLE_SECONDS`](crate::domain::process_stats::SAMPLE_SECONDS).
    pub fn sample_counters(&self) {
        self.counters().sample();
    }

    /// What this process knows of itself.
    pub fn figures(&self) -> ProcessStats {
        let mut figures = self.counters().figures();
        let open = self.core.presence().local().connections()
            + self.core.diagnostic_connections().connections();
        figures.connections = open as u64;
        for ((_, depth), place) in self.queue_depths().into_iter().zip(&mut figures.wake_ups) {
            *place = depth as u64;
        }
        let role = self.core.settings().node.as_ref().map(|node| node.role);
        // A worker takes nothing on, and does not watch how much there is.
        if role.is_some_and(|role| role != Role::Worker) {
            figures.backpressure = Some(self.limits.backpressure().0.name().to_owned());
        }
        figures.memory = memory();
        figures.parts = self.with_past(figures.parts);
        figures
    }

    /// Checks the broker and Redis, and keeps what it found for monitoring.
    pub async fn watch_backends(&self) {
        let seen = self.check_backends().await.into_iter().map(|way| {
            let version = match self.core.queue() {
                Queue::Rabbit(rabbit) if way.name == "rabbitmq" => {
                    match &*rabbit.state().borrow() {
                        BrokerState::Connected { version, .. } => Some(version.clone()),
                        BrokerState::Down { .. } | BrokerState::Blocked { .. } => None,
                    }
                }
                _ => None,
            };
            // Of the broker it is known without asking.
            let asked = (way.name == "redis" && way.up).then_some(way.latency);
            DependencyHealth {
                name: way.name.to_owned(),
                up: way.up,
                latency_ms: asked.map(millis),
                version,
                fault: way.fault,
                past: Vec::new(),
            }
        });
        let seen = seen.collect();
        self.counters().note_parts(seen);
    }

    pub(in crate::app) fn record_database(&self, answer: Result<Duration, String>) {
        let part = DependencyHealth {
            name: "database".to_owned(),
            up: answer.is_ok(),
            latency_ms: answer.as_ref().ok().copied().map(millis),
            version: None,
            fault: answer.err(),
            past: Vec::new(),
        };
        self.counters().note_parts(vec![part]);
    }
}

/// With two digits behind the point.
pub(in crate::app) fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100_000.0).round() / 100.0
}

/// The resident memory of this process, in bytes, where the system tells.
fn memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_tell_what_came_between_them_and_are_bounded() {
        let counters = Counters::new();
        counters.accepted(3);
        counters.delivered(Duration::from_millis(7));
        counters.sample();
        counters.accepted(2);
        counters.sample();
        let figures = counters.figures();
        assert_eq!(figures.recent.iter().map(|s| s.accepted).collect::<Vec<_>>(), [3, 2]);
        assert_eq!((figures.total.accepted, figures.latencies.percentile(0.5)), (5, Some(7)));
        for _ in 0..2 * SAMPLES {
            counters.sample();
        }
        let figures = counters.figures();
        assert_eq!(figures.recent, vec![MessageCounts::default(); SAMPLES]);
        assert_eq!((figures.recent_latencies.count(), figures.latencies.count()), (0, 1));
    }

    #[test]
    fn what_is_seen_of_a_part_replaces_what_was() {
        let counters = Counters::new();
        let seen =
            |up| DependencyHealth { name: "redis".to_owned(), up, ..DependencyHealth::default() };
        counters.note_parts(vec![seen(true)]);
        counters.note_parts(vec![DependencyHealth {
            name: "database".to_owned(),
            ..DependencyHealth::default()
        }]);
        counters.note_parts(vec![seen(false)]);
        let names: Vec<_> = counters.figures().parts.into_iter().map(|p| (p.name, p.up)).collect();
        assert_eq!(names, [("database".to_owned(), false), ("redis".to_owned(), false)]);
    }
}
