//! Records metrics for Prometheus under the names of the list.

pub use super::metric_list::{METRICS, MetricKind};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

const SECONDS_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
const SIZE_BUCKETS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0];

/// The recorder of this process. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    handle: PrometheusHandle,
}

/// Installs the recorder; without it, recording is a no-op.
///
/// # Errors
/// A recorder was installed before.
pub fn install() -> Result<Recorder, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for (name, kind, _) in METRICS {
        let buckets = match kind {
            MetricKind::Seconds => SECONDS_BUCKETS,
            MetricKind::Size => SIZE_BUCKETS,
            MetricKind::Counter | MetricKind::Gauge => continue,
        };
        builder = builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), buckets)?;
    }
    let handle = builder.install_recorder()?;
    for (name, kind, meaning) in METRICS {
        match kind {
            MetricKind::Counter => {
                metrics::describe_counter!(*name, *meaning);
            }
            MetricKind::Gauge => metrics::describe_gauge!(*name, *meaning),
            MetricKind::Seconds | MetricKind::Size => metrics::describe_histogram!(*name, *meaning),
        }
    }
    // Metrics without labels exist from the start, so that an alert can tell zero from absent.
    for name in [
        "esh3ar_messages_accepted_total",
        "esh3ar_messages_delivered_total",
        "esh3ar_messages_failed_total",
        "esh3ar_retries_total",
        "esh3ar_conversations_opened_total",
    ] {
        metrics::counter!(name).absolute(0);
    }
    metrics::gauge!("esh3ar_connections").set(0.0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    metrics::gauge!("esh3ar_cpu_cores").set(cores as f64);
    metrics::gauge!("esh3ar_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(Recorder { handle })
}

impl Recorder {
    /// Renders all metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        self.handle.render() + &super::process::page()
    }

    /// Must be called every few seconds, or the histograms grow without bound.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}
