//! The results of a run.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::bench::checker::Report;

/// Latencies are recorded with a precision of 1 %; longer ones count as this.
const MAX_LATENCY: Duration = Duration::from_secs(600);

#[derive(Clone, Debug)]
pub struct MeasuredLatencies {
    /// `None` only for invalid bounds, and these are constants.
    histogram: Option<Histogram<u64>>,
}

impl Default for MeasuredLatencies {
    fn default() -> Self {
        let micros = MAX_LATENCY.as_micros() as u64;
        MeasuredLatencies { histogram: Histogram::new_with_bounds(1, micros, 2).ok() }
    }
}

impl MeasuredLatencies {
    pub fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        if let Some(histogram) = &mut self.histogram {
            histogram.saturating_record(micros.max(1));
        }
    }

    pub fn add(&mut self, other: &MeasuredLatencies) {
        if let (Some(histogram), Some(other)) = (&mut self.histogram, &other.histogram) {
            // Fails only for different bounds.
            let _ = histogram.add(other);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.histogram.as_ref().is_none_or(Histogram::is_empty)
    }

    /// A quantile in milliseconds; the share is 0 to 1.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        let micros = self.histogram.as_ref().map_or(0, |h| h.value_at_quantile(share));
        micros as f64 / 1000.0
    }

    /// The longest, in milliseconds.
    pub fn max_ms(&self) -> f64 {
        self.histogram.as_ref().map_or(0, Histogram::max) as f64 / 1000.0
    }
}

/// The results of a run.
#[derive(Debug, Default)]
pub struct LoadResults {
    /// Without the warm-up, until everything had arrived and was acknowledged.
    pub took: Duration,
    pub sent: u64,
    pub accepted: u64,
    /// Refused requests by status; 0 for those without an answer.
    pub refused: Vec<(u16, u64)>,
    /// Different messages that arrived.
    pub received: u64,
    /// Messages whose acknowledgement is durable.
    pub acknowledged: u64,
    /// From when a message was due until it arrived.
    pub delivery: MeasuredLatencies,
    /// From when a request was due until it was answered.
    pub answer: MeasuredLatencies,
    /// CPU time of the server's own process and of its descendants, where it can be read.
    pub cpu: Option<(Duration, Duration)>,
    /// Resident memory of the server's own process at the end, in KiB, where it can be read.
    pub memory_kib: Option<u64>,
    /// Unread counts that were checked at the end, for chat.
    pub unread_counts: u64,
    pub report: Report,
    /// The run was stopped early.
    pub interrupted: bool,
}
