//! Metrics for Prometheus. The names are listed here once; rooms record under them.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Durations in seconds.
    Seconds,
    /// Sizes of batches.
    Size,
}

/// Every metric: name, kind, meaning.
pub const ALL: &[(&str, Kind, &str)] = &[
    (
        "esh3ar_messages_accepted_total",
        Kind::Counter,
        "Messages that are durable and were answered with success.",
    ),
    (
        "esh3ar_messages_delivered_total",
        Kind::Counter,
        "Messages that their recipient's device acknowledged.",
    ),
    (
        "esh3ar_deliveries_in_hand",
        Kind::Gauge,
        "Messages whose delivery is in hand or due; what waits for an absent recipient does not count.",
    ),
    (
        "esh3ar_deliveries_handed_total",
        Kind::Counter,
        "Deliveries that this process handed to their recipients' connections, by lane; retries count again.",
    ),
    (
        "esh3ar_backpressure_level",
        Kind::Gauge,
        "0 open, 1 broadcasts paused, 2 bulk sends refused, 3 high priority only.",
    ),
    ("esh3ar_jobs_total", Kind::Counter, "Attempts at jobs, by kind and result."),
    ("esh3ar_jobs_waiting", Kind::Gauge, "Jobs that wait or are in hand, by kind."),
    ("esh3ar_breaker_open", Kind::Gauge, "Whether a provider's breaker is open, by kind of job."),
    (
        "esh3ar_unaccounted_messages",
        Kind::Gauge,
        "Messages of today and yesterday that the books do not account for; anything but 0 is an alarm.",
    ),
    (
        "esh3ar_last_backup_timestamp_seconds",
        Kind::Gauge,
        "When the last backup was made, in Unix time; not there when none is known of.",
    ),
    (
        "esh3ar_dead_letters_changed_total",
        Kind::Counter,
        "Dead letters that were requeued or deleted by hand, by action.",
    ),
    (
        "esh3ar_dead_letters",
        Kind::Gauge,
        "Dead letters that are kept, by class, counted up to 20,000.",
    ),
    (
        "esh3ar_oldest_delivery_seconds",
        Kind::Gauge,
        "Age of the oldest message whose delivery is in hand or due, by lane; 0 for none.",
    ),
    (
        "esh3ar_removed_total",
        Kind::Counter,
        "Messages and events that were kept long enough and removed, by what.",
    ),
    (
        "esh3ar_deleted_total",
        Kind::Counter,
        "Messages that administrators deleted over this process.",
    ),
    ("esh3ar_database_bytes", Kind::Gauge, "What the database takes on its disk."),
    ("esh3ar_conversations_opened_total", Kind::Counter, "Conversations that were begun."),
    (
        "esh3ar_conversations_active",
        Kind::Gauge,
        "Conversations that are active and had a message within the last hour, counted up to 100,000.",
    ),
    ("esh3ar_build_info", Kind::Gauge, "1, with the version of the process."),
    ("esh3ar_role", Kind::Gauge, "1, with what the process is: serve, gateway or worker."),
    ("esh3ar_cpu_cores", Kind::Gauge, "Cores that this process may use."),
    ("esh3ar_messages_failed_total", Kind::Counter, "Messages given up after the last retry."),
    (
        "esh3ar_retries_total",
        Kind::Counter,
        "Deliveries that were not acknowledged in time and are tried again.",
    ),
    (
        "esh3ar_ledger_dropped_total",
        Kind::Counter,
        "Notes that found no room; the sweeper makes up for them.",
    ),
    (
        "esh3ar_ledger_behind_total",
        Kind::Counter,
        "Batches of messages that waited 25 ms for acknowledgements to be stored, and then no longer.",
    ),
    (
        "esh3ar_trace_spans_total",
        Kind::Counter,
        "Spans of followed messages, by result: exported, failed (the collector did not take them) or dropped (no room).",
    ),
    (
        "esh3ar_config_reloads_total",
        Kind::Counter,
        "Times the configuration was read again, by result: taken_up or refused.",
    ),
    (
        "esh3ar_config_last_reload_success_timestamp_seconds",
        Kind::Gauge,
        "When the configuration in effect was read, in seconds since 1970.",
    ),
    ("esh3ar_http_requests_total", Kind::Counter, "Requests by route and status."),
    (
        "esh3ar_http_connections",
        Kind::Gauge,
        "Open HTTP connections by listener (http or metrics) and state: unauthenticated, authenticated or shared (a balancer's). Not those that became WebSockets.",
    ),
    (
        "esh3ar_http_connections_ended_total",
        Kind::Counter,
        "HTTP connections that the server ended by itself, by listener and reason: the limit that was reached (address, unauthenticated, party, shared, authenticated, total), idle, or unread (the client took no answer).",
    ),
    (
        "esh3ar_errors_total",
        Kind::Counter,
        "Requests and calls that failed, by way (http or hub) and code.",
    ),
    (
        "esh3ar_rate_limited_total",
        Kind::Counter,
        "Requests, calls and messages that were refused because their party had reached a limit, by class: \
         messages, connects, conversations, writes, receipts or admin.",
    ),
    (
        "esh3ar_answers_not_taken_total",
        Kind::Counter,
        "Streams of HTTP/2 that were reset because their client took nothing of the answer.",
    ),
    ("esh3ar_hub_invocations_total", Kind::Counter, "Calls of clients by method."),
    (
        "esh3ar_hub_missed_total",
        Kind::Counter,
        "Times a connection was told that it was not sent something.",
    ),
    (
        "esh3ar_client_failures_total",
        Kind::Counter,
        "Connections that their client ended with an error before it had acknowledged everything.",
    ),
    ("esh3ar_connections", Kind::Gauge, "Connections of the hub."),
    (
        "esh3ar_hub_forwarded",
        Kind::Gauge,
        "Requests and sockets of other gateways' connections that are passed on now.",
    ),
    (
        "esh3ar_hub_forwarded_total",
        Kind::Counter,
        "Requests for other gateways' connections, by result: passed or unreachable.",
    ),
    ("esh3ar_queue_depth", Kind::Gauge, "Wake-ups waiting, by lane."),
    (
        "esh3ar_realtime_up",
        Kind::Gauge,
        "Whether this gateway could connect to its own hub at the last check (every 30 s).",
    ),
    ("esh3ar_database_up", Kind::Gauge, "Whether Postgres answers this process."),
    (
        "esh3ar_database_disk_full",
        Kind::Gauge,
        "Whether Postgres had no room on its disk for something new in the last minute.",
    ),
    ("esh3ar_rabbitmq_up", Kind::Gauge, "Whether the broker takes wake-ups."),
    ("esh3ar_redis_up", Kind::Gauge, "Whether Redis answers."),
    (
        "esh3ar_wake_ups_published_total",
        Kind::Counter,
        "Wake-ups offered to the broker, by what became of them.",
    ),
    ("esh3ar_unreadable_frames_total", Kind::Counter, "Frames of the broker's that nobody reads."),
    ("esh3ar_relay_dropped_total", Kind::Counter, "Things for other processes that found no room."),
    ("esh3ar_relay_gaps_total", Kind::Counter, "Losses noticed on the way from other processes."),
    ("esh3ar_relay_unread_total", Kind::Counter, "Frames of other processes that cannot be read."),
    ("esh3ar_cache_hits_total", Kind::Counter, "Pages that were kept, by kind."),
    ("esh3ar_cache_misses_total", Kind::Counter, "Pages that had to be read, by kind."),
    ("esh3ar_typing_dropped_total", Kind::Counter, "Typing signals over their limit."),
    (
        "esh3ar_replica_lag_seconds",
        Kind::Gauge,
        "How old that is which a replica of the database lacks, by replica.",
    ),
    ("esh3ar_replica_usable", Kind::Gauge, "Whether a replica is read from, by replica."),
    ("esh3ar_replica_reads_total", Kind::Counter, "Lists and histories that a replica gave."),
    (
        "esh3ar_database_reads_refused_total",
        Kind::Counter,
        "Lists and other reads refused because too many of one party waited for a connection to Postgres.",
    ),
    (
        "esh3ar_replica_passed_over_total",
        Kind::Counter,
        "Lists and histories that the primary gave although there are replicas, by reason.",
    ),
    (
        "esh3ar_database_statement_seconds",
        Kind::Seconds,
        "From a statement to the answer of Postgres, by what the statement is for.",
    ),
    (
        "esh3ar_database_pool_wait_seconds",
        Kind::Seconds,
        "Waiting for a connection to Postgres, new ones included, by what it is for.",
    ),
    (
        "esh3ar_redis_memory_bytes",
        Kind::Gauge,
        "What Redis takes of its machines' memory, of all its servers together.",
    ),
    (
        "esh3ar_redis_memory_limit_bytes",
        Kind::Gauge,
        "What Redis may take, of all its servers together; 0 where it has no limit.",
    ),
    (
        "esh3ar_broker_queue_depth",
        Kind::Gauge,
        "Frames that wait at the broker, by lane, and those that nobody can read (dead_letter); a frame names up to 100 messages.",
    ),
    (
        "process_cpu_seconds_total",
        Kind::Counter,
        "Processor time of this process; its private Postgres is another one.",
    ),
    ("process_resident_memory_bytes", Kind::Gauge, "Memory of this process."),
    ("process_open_fds", Kind::Gauge, "Files and sockets that this process has open."),
    ("process_max_fds", Kind::Gauge, "Files and sockets that this process may open."),
    (
        "process_network_receive_bytes_total",
        Kind::Counter,
        "Bytes that came in over the network interfaces that this process sees.",
    ),
    (
        "process_network_transmit_bytes_total",
        Kind::Counter,
        "Bytes that went out over the network interfaces that this process sees.",
    ),
    (
        "process_disk_read_bytes_total",
        Kind::Counter,
        "Bytes that this process had read from a disk.",
    ),
    (
        "process_disk_written_bytes_total",
        Kind::Counter,
        "Bytes that this process had written to a disk.",
    ),
    (
        "esh3ar_messages_waiting",
        Kind::Gauge,
        "Messages not acknowledged yet, counted up to 100,000.",
    ),
    ("esh3ar_delivery_seconds", Kind::Seconds, "From acceptance to the device's acknowledgement."),
    ("esh3ar_http_request_seconds", Kind::Seconds, "From a request to its answer, by route."),
    ("esh3ar_send_batch_messages", Kind::Size, "Messages in one commit."),
    ("esh3ar_ledger_batch_entries", Kind::Size, "Changes of status in one commit."),
];

const SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
const SIZES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0];

/// The recorder of this process. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    handle: PrometheusHandle,
}

/// Starts recording; without this, recording costs nothing and keeps nothing.
///
/// # Errors
/// It was started before.
pub fn install() -> Result<Recorder, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for (name, kind, _) in ALL {
        let buckets = match kind {
            Kind::Seconds => SECONDS,
            Kind::Size => SIZES,
            Kind::Counter | Kind::Gauge => continue,
        };
        builder = builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), buckets)?;
    }
    let handle = builder.install_recorder()?;
    for (name, kind, meaning) in ALL {
        match kind {
            Kind::Counter => {
                metrics::describe_counter!(*name, *meaning);
            }
            Kind::Gauge => metrics::describe_gauge!(*name, *meaning),
            Kind::Seconds | Kind::Size => metrics::describe_histogram!(*name, *meaning),
        }
    }
    // What has no labels is there from the start, so that an alert can tell "none" from "gone".
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
    /// The metrics as text.
    pub fn render(&self) -> String {
        self.handle.render() + &super::process::page()
    }

    /// Keeps the histograms small; to be called every few seconds, or they grow without bound.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}
