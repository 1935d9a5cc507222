//! What looks at the dependencies found, kept for a while: one result tells how it is, many tell how it was.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use time::OffsetDateTime;

use super::ProcessService;
use crate::app::process::health::{Dependency, HEALTH_INTERVAL, Stops};
use crate::domain::process_stats::DependencyHealth;

/// How many results are kept of each dependency.
pub const MAX_RESULTS: usize = 50;
/// A look at the hub that is older than this is none: what looks has stopped.
const PROBE_TTL: Duration = Duration::from_secs(3 * HEALTH_INTERVAL.as_secs());

/// What was found of a dependency at a time.
#[derive(Clone, Debug)]
pub struct ProbeResult {
    pub at: OffsetDateTime,
    pub up: bool,
    pub latency: Duration,
    pub fault: Option<String>,
}

#[derive(Default)]
pub(super) struct Probes {
    realtime: Mutex<Option<(Instant, Result<Duration, String>)>>,
    past: Mutex<BTreeMap<&'static str, VecDeque<ProbeResult>>>,
}

impl Probes {
    fn past(&self) -> MutexGuard<'_, BTreeMap<&'static str, VecDeque<ProbeResult>>> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, at: OffsetDateTime, dependencies: Vec<Dependency>) {
        let mut past = self.past();
        for Dependency { name, up, latency, fault, .. } in dependencies {
            let of_it = past.entry(name).or_default();
            if of_it.len() == MAX_RESULTS {
                of_it.pop_front();
            }
            of_it.push_back(ProbeResult { at, up, latency, fault });
        }
    }

    fn realtime(&self, now: Instant) -> Option<Result<Duration, String>> {
        let realtime = self.realtime.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, found) = realtime.as_ref()?;
        let age = now.saturating_duration_since(*at);
        Some(if age > PROBE_TTL {
            Err(format!("it was last looked at {} s ago", age.as_secs()))
        } else {
            found.clone()
        })
    }
}

impl ProcessService {
    /// Keeps how the look at this process's own hub ended: how long it took, or why it failed.
    pub fn record_realtime(&self, found: Result<Duration, String>) {
        let probes = &self.state.probes;
        let mut realtime = probes.realtime.lock().unwrap_or_else(PoisonError::into_inner);
        let was_up = realtime.as_ref().is_none_or(|(_, found)| found.is_ok());
        match (&found, was_up) {
            (Err(why), true) => {
                tracing::error!(
                    why,
                    "clients cannot connect: this process does not reach its own hub"
                );
            }
            (Ok(_), false) => tracing::info!("clients can connect again"),
            _ => {}
        }
        metrics::gauge!("esh3ar_realtime_up").set(f64::from(u8::from(found.is_ok())));
        *realtime = Some((Instant::now(), found));
    }

    /// Whether the last look at the hub succeeded, or there was none yet.
    pub fn is_realtime_up(&self) -> bool {
        self.state.probes.realtime(Instant::now()).is_none_or(|found| found.is_ok())
    }

    /// The hub of this process; `None` where nobody looks at one.
    pub(in crate::app) fn realtime(&self) -> Option<Dependency> {
        let found = self.state.probes.realtime(Instant::now())?;
        let (up, latency) = (found.is_ok(), found.as_ref().ok().copied().unwrap_or_default());
        let (fault, stops) = (found.err(), Stops::Everything);
        Some(Dependency { name: "realtime", up, latency, fault, stops })
    }

    /// Looks at every dependency and keeps what it found; to be called every [`HEALTH_INTERVAL`].
    pub async fn sample_health(&self) {
        let found = self.health(true).await;
        self.state.probes.note(self.core.clock().now(), found);
    }

    /// The last results of each dependency, the newest first.
    pub fn health_history(&self) -> BTreeMap<&'static str, Vec<ProbeResult>> {
        let past = self.state.probes.past();
        past.iter().map(|(name, found)| (*name, found.iter().rev().cloned().collect())).collect()
    }

    /// The parts that this process works with, each with what was found of it lately.
    pub(in crate::app) fn with_past(
        &self,
        mut parts: Vec<DependencyHealth>,
    ) -> Vec<DependencyHealth> {
        for (name, found) in self.state.probes.past().iter() {
            let place = parts.iter().position(|part| part.name == *name);
            let known = place.and_then(|place| parts.get_mut(place));
            let past = found.iter().map(|found| match found.up {
                true => i32::try_from(found.latency.as_millis()).unwrap_or(i32::MAX),
                false => -1,
            });
            match (known, found.back()) {
                (Some(part), _) => part.past = past.collect(),
                (None, Some(last)) => parts.push(DependencyHealth {
                    name: (*name).to_owned(),
                    up: last.up,
                    latency_ms: last.up.then(|| super::counters::millis(last.latency)),
                    version: None,
                    fault: last.fault.clone(),
                    past: past.collect(),
                }),
                (None, None) => {}
            }
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dependency(name: &'static str, up: bool) -> Dependency {
        let fault = (!up).then(|| "away".to_owned());
        Dependency { name, up, latency: Duration::from_millis(3), fault, stops: Stops::Nothing }
    }

    #[test]
    fn the_last_fifty_results_of_each_are_kept() {
        let probes = Probes::default();
        for n in 0..MAX_RESULTS + 7 {
            let at = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(n as u64);
            probes.note(at, vec![dependency("database", n % 10 != 0), dependency("redis", true)]);
        }
        let past = probes.past();
        assert_eq!(past.len(), 2);
        let database = &past["database"];
        assert_eq!(database.len(), MAX_RESULTS);
        let seconds = |found: Option<&ProbeResult>| found.map(|found| found.at.unix_timestamp());
        assert_eq!((seconds(database.front()), seconds(database.back())), (Some(7), Some(56)));
        assert_eq!(database.iter().filter(|found| !found.up).count(), 5);
    }

    #[test]
    fn a_look_that_was_long_ago_tells_nothing_good() {
        let probes = Probes::default();
        let now = Instant::now();
        assert!(probes.realtime(now).is_none());
        *probes.realtime.lock().unwrap() = Some((now, Ok(Duration::from_millis(2))));
        assert_eq!(probes.realtime(now + PROBE_TTL), Some(Ok(Duration::from_millis(2))));
        let late = probes.realtime(now + PROBE_TTL + Duration::from_secs(2)).unwrap();
        assert_eq!(late, Err("it was last looked at 92 s ago".to_owned()));
        *probes.realtime.lock().unwrap() = Some((now, Err("refused".to_owned())));
        assert_eq!(probes.realtime(now), Some(Err("refused".to_owned())));
    }
}
