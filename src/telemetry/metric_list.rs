//! Every metric: all names are declared here; rooms record under them.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    Counter,
    Gauge,
    Seconds,
    Size,
}

/// Every metric: name, kind, help text.
pub const METRICS: &[(&str, MetricKind, &str)] = &[
    (
        "esh3ar_messages_accepted_total",
        MetricKind::Counter,
        "Messages stored durably and accepted.",
    ),
    (
        "esh3ar_messages_delivered_total",
        MetricKind::Counter,
        "Messages acknowledged by a recipient's device.",
    ),
    (
        "esh3ar_deliveries_in_hand",
        MetricKind::Gauge,
        "Deliveries in flight or due; messages parked for an offline recipient are not counted.",
    ),
    (
        "esh3ar_deliveries_handed_total",
        MetricKind::Counter,
        "Deliveries this process routed to recipients' connections, by lane; retries count again.",
    ),
    (
        "esh3ar_backpressure_level",
        MetricKind::Gauge,
        "Backpressure level: 0 open, 1 broadcasts paused, 2 bulk sends refused, 3 high priority only.",
    ),
    ("esh3ar_jobs_total", MetricKind::Counter, "Job attempts, by kind and result."),
    ("esh3ar_jobs_waiting", MetricKind::Gauge, "Jobs queued or running, by kind."),
    (
        "esh3ar_breaker_open",
        MetricKind::Gauge,
        "1 if the provider's circuit breaker is open, by kind of job.",
    ),
    (
        "esh3ar_unaccounted_messages",
        MetricKind::Gauge,
        "Messages of today and yesterday that the reconciliation cannot account for; alert on any value but 0.",
    ),
    (
        "esh3ar_last_backup_timestamp_seconds",
        MetricKind::Gauge,
        "Unix time of the last backup; absent if no backup is known.",
    ),
    (
        "esh3ar_dead_letters_changed_total",
        MetricKind::Counter,
        "Dead letters requeued or deleted by an administrator, by action.",
    ),
    ("esh3ar_dead_letters", MetricKind::Gauge, "Dead letters, by class, counted up to 20,000."),
    (
        "esh3ar_oldest_delivery_seconds",
        MetricKind::Gauge,
        "Age of the oldest delivery in flight or due, by lane; 0 if there is none.",
    ),
    (
        "esh3ar_removed_total",
        MetricKind::Counter,
        "Rows removed because their retention ended, by kind of row.",
    ),
    (
        "esh3ar_deleted_total",
        MetricKind::Counter,
        "Messages deleted by administrators through this process.",
    ),
    ("esh3ar_database_bytes", MetricKind::Gauge, "Size of the database on disk."),
    ("esh3ar_conversations_opened_total", MetricKind::Counter, "Conversations opened."),
    (
        "esh3ar_conversations_active",
        MetricKind::Gauge,
        "Active conversations with a message in the last hour, counted up to 100,000.",
    ),
    ("esh3ar_build_info", MetricKind::Gauge, "Always 1; the label is the version of this process."),
    (
        "esh3ar_role",
        MetricKind::Gauge,
        "Always 1; the label is the role of this process: serve, gateway or worker.",
    ),
    ("esh3ar_cpu_cores", MetricKind::Gauge, "CPU cores available to this process."),
    (
        "esh3ar_messages_failed_total",
        MetricKind::Counter,
        "Messages that failed after the last retry.",
    ),
    (
        "esh3ar_retries_total",
        MetricKind::Counter,
        "Deliveries retried because they were not acknowledged in time.",
    ),
    (
        "esh3ar_ledger_dropped_total",
        MetricKind::Counter,
        "Status updates dropped because the write queue was full; the sweeper recovers them.",
    ),
    (
        "esh3ar_ledger_behind_total",
        MetricKind::Counter,
        "Batches of messages that waited 25 ms, the maximum, for the backlog of acknowledgements.",
    ),
    (
        "esh3ar_trace_spans_total",
        MetricKind::Counter,
        "Trace spans, by result: exported, failed (rejected by the collector) or dropped (export queue full).",
    ),
    (
        "esh3ar_sms_sent_total",
        MetricKind::Counter,
        "Calls of SMS gateways, by gateway and result: sent, permanent (refused for good) or passing (failed for now).",
    ),
    (
        "esh3ar_config_reloads_total",
        MetricKind::Counter,
        "Configuration reloads, by result: taken_up (applied) or refused.",
    ),
    (
        "esh3ar_config_last_reload_success_timestamp_seconds",
        MetricKind::Gauge,
        "Unix time at which the current configuration was loaded.",
    ),
    ("esh3ar_http_requests_total", MetricKind::Counter, "HTTP requests, by route and status."),
    (
        "esh3ar_http_connections",
        MetricKind::Gauge,
        "Open HTTP connections, by listener (http or metrics) and state: unauthenticated, authenticated or shared (from a load balancer). WebSockets are not counted.",
    ),
    (
        "esh3ar_http_connections_ended_total",
        MetricKind::Counter,
        "HTTP connections closed by the server, by listener and reason: the limit reached (address, unauthenticated, party, shared, authenticated, total), idle, or unread (the client did not read the response).",
    ),
    (
        "esh3ar_content_policy_total",
        MetricKind::Counter,
        "Messages that a content policy refused or flagged, by action.",
    ),
    (
        "esh3ar_errors_total",
        MetricKind::Counter,
        "Failed requests and invocations, by way (http or hub) and code.",
    ),
    (
        "esh3ar_rate_limited_total",
        MetricKind::Counter,
        "Requests, invocations and messages refused by a rate limit, by class: messages, connects, conversations, writes, receipts or admin.",
    ),
    (
        "esh3ar_answers_not_taken_total",
        MetricKind::Counter,
        "HTTP/2 streams reset because the client did not read the response.",
    ),
    ("esh3ar_hub_invocations_total", MetricKind::Counter, "Hub invocations by clients, by method."),
    (
        "esh3ar_hub_missed_total",
        MetricKind::Counter,
        "Connections told that they may have missed messages.",
    ),
    (
        "esh3ar_client_failures_total",
        MetricKind::Counter,
        "Connections that the client closed with an error before it had acknowledged every message.",
    ),
    ("esh3ar_connections", MetricKind::Gauge, "Open hub connections."),
    (
        "esh3ar_hub_forwarded",
        MetricKind::Gauge,
        "Requests and sockets being forwarded to other gateways.",
    ),
    (
        "esh3ar_hub_forwarded_total",
        MetricKind::Counter,
        "Requests forwarded to other gateways, by result: passed or unreachable.",
    ),
    ("esh3ar_queue_depth", MetricKind::Gauge, "Wake-ups queued in this process, by lane."),
    (
        "esh3ar_realtime_up",
        MetricKind::Gauge,
        "1 if this gateway could connect to its own hub at the last check (every 30 s).",
    ),
    ("esh3ar_database_up", MetricKind::Gauge, "1 if Postgres answers this process."),
    (
        "esh3ar_database_disk_full",
        MetricKind::Gauge,
        "1 if a write failed in the last minute because the disk of Postgres was full.",
    ),
    ("esh3ar_rabbitmq_up", MetricKind::Gauge, "1 if RabbitMQ accepts wake-ups."),
    ("esh3ar_redis_up", MetricKind::Gauge, "1 if Redis answers."),
    (
        "esh3ar_wake_ups_published_total",
        MetricKind::Counter,
        "Wake-ups published to RabbitMQ, by result.",
    ),
    (
        "esh3ar_unreadable_frames_total",
        MetricKind::Counter,
        "Frames from RabbitMQ that could not be decoded.",
    ),
    (
        "esh3ar_relay_dropped_total",
        MetricKind::Counter,
        "Events for other processes dropped because the relay queue was full.",
    ),
    (
        "esh3ar_relay_gaps_total",
        MetricKind::Counter,
        "Gaps detected in the sequence of events from other processes.",
    ),
    (
        "esh3ar_relay_unread_total",
        MetricKind::Counter,
        "Frames from other processes that could not be decoded.",
    ),
    (
        "esh3ar_relay_doubted_total",
        MetricKind::Counter,
        "Look-ups in which Redis lacked the connections of a gateway, so that no absence was believed.",
    ),
    (
        "esh3ar_relay_repeated_total",
        MetricKind::Counter,
        "Frames from other processes that arrived a second time and were ignored.",
    ),
    (
        "esh3ar_redis_rejected_total",
        MetricKind::Counter,
        "Frames and cached pages in Redis that no process of this installation wrote, by kind.",
    ),
    ("esh3ar_cache_hits_total", MetricKind::Counter, "Cache hits, by kind of page."),
    ("esh3ar_cache_misses_total", MetricKind::Counter, "Cache misses, by kind of page."),
    (
        "esh3ar_typing_dropped_total",
        MetricKind::Counter,
        "Typing signals dropped by their rate limit.",
    ),
    ("esh3ar_replica_lag_seconds", MetricKind::Gauge, "Replication lag, by replica."),
    ("esh3ar_replica_usable", MetricKind::Gauge, "1 if the replica serves reads, by replica."),
    ("esh3ar_replica_reads_total", MetricKind::Counter, "Reads served by a replica."),
    (
        "esh3ar_refused_tokens_total",
        MetricKind::Counter,
        "Requests without a valid token, by reason: missing, unknown, ended, limited.",
    ),
    (
        "esh3ar_refused_admin_calls_total",
        MetricKind::Counter,
        "Refused admin API calls with a token, by reason: forbidden, network_not_allowed, token_ended.",
    ),
    (
        "esh3ar_database_reads_refused_total",
        MetricKind::Counter,
        "Reads refused because too many reads of one party were waiting for a Postgres connection.",
    ),
    (
        "esh3ar_replica_passed_over_total",
        MetricKind::Counter,
        "Reads served by the primary although replicas are configured, by reason.",
    ),
    (
        "esh3ar_database_statement_seconds",
        MetricKind::Seconds,
        "Duration of Postgres statements, by statement group.",
    ),
    (
        "esh3ar_database_pool_wait_seconds",
        MetricKind::Seconds,
        "Wait for a Postgres connection, connection set-up included, by statement group.",
    ),
    ("esh3ar_redis_memory_bytes", MetricKind::Gauge, "Memory used by Redis, all servers together."),
    (
        "esh3ar_redis_memory_limit_bytes",
        MetricKind::Gauge,
        "Memory limit of Redis, all servers together; 0 if there is none.",
    ),
    (
        "esh3ar_broker_queue_depth",
        MetricKind::Gauge,
        "Frames queued at RabbitMQ, by lane; lane dead_letter counts frames that could not be decoded. A frame carries up to 100 wake-ups.",
    ),
    (
        "process_cpu_seconds_total",
        MetricKind::Counter,
        "CPU time used by this process; a private Postgres is a separate process.",
    ),
    ("process_resident_memory_bytes", MetricKind::Gauge, "Resident memory of this process."),
    ("process_open_fds", MetricKind::Gauge, "Open file descriptors."),
    ("process_max_fds", MetricKind::Gauge, "Maximum number of open file descriptors."),
    (
        "process_network_receive_bytes_total",
        MetricKind::Counter,
        "Bytes received on the network interfaces visible to this process.",
    ),
    (
        "process_network_transmit_bytes_total",
        MetricKind::Counter,
        "Bytes sent on the network interfaces visible to this process.",
    ),
    (
        "process_disk_read_bytes_total",
        MetricKind::Counter,
        "Bytes this process caused to be read from disk.",
    ),
    (
        "process_disk_written_bytes_total",
        MetricKind::Counter,
        "Bytes this process caused to be written to disk.",
    ),
    (
        "esh3ar_messages_waiting",
        MetricKind::Gauge,
        "Messages not acknowledged yet, counted up to 100,000.",
    ),
    (
        "esh3ar_delivery_seconds",
        MetricKind::Seconds,
        "Time from acceptance to the device's acknowledgement.",
    ),
    ("esh3ar_http_request_seconds", MetricKind::Seconds, "Duration of HTTP requests, by route."),
    ("esh3ar_send_batch_messages", MetricKind::Size, "Messages stored per commit."),
    ("esh3ar_ledger_batch_entries", MetricKind::Size, "Status updates stored per commit."),
];
