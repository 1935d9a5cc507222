//! Statistics of the installation, for `GET /admin/stats` and `esh3ar top -o json`; complete, so that they
//! can be read back by a remote `top`.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    app::{
        admin::stats::{Counted, LaneStats, Node, SlowRecipient, StatsSnapshot},
        process::drain,
    },
    domain::{
        Party,
        backpressure::BackpressureLevel,
        process_stats::{
            DependencyHealth, LatencyHistogram, MessageCounts, ProcessStats, SAMPLE_SECONDS,
            SAMPLES,
        },
    },
};

/// Statistics of the installation.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Stats)]
pub struct StatsView {
    /// When the statistics were taken.
    #[serde(with = "crate::server::timestamp")]
    pub at: OffsetDateTime,
    /// Highest priority first.
    pub lanes: Vec<LaneView>,
    /// Messages not acknowledged yet.
    pub waiting: CountedView,
    /// Deliveries in flight or due.
    pub in_hand: CountedView,
    /// Strictest level of all gateways: `open`, `broadcasts_paused`, `bulk_refused` or `high_only`.
    pub backpressure: String,
    /// Open hub connections.
    pub connections: u64,
    /// Totals since each process started.
    pub since_start: TotalsView,
    /// Totals of the last two minutes, or since start if that is shorter.
    pub recent: TotalsView,
    /// `recent`, by sample.
    pub series: SeriesView,
    /// Live processes, oldest first.
    pub nodes: Vec<NodeView>,
    /// The database itself.
    pub database: DatabaseView,
    /// Dead letters.
    pub dead_letters: DeadView,
    /// Recipients that are slow to acknowledge, slowest first.
    pub slowest: Vec<SlowView>,
}

/// A lane: a priority queue.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Lane)]
pub struct LaneView {
    /// `high`, `normal` or `low`.
    pub lane: String,
    /// Messages not acknowledged yet.
    pub waiting: u64,
    /// When the oldest of them was accepted.
    #[serde(with = "crate::server::timestamp::option")]
    pub oldest_waiting_at: Option<OffsetDateTime>,
    /// Deliveries in flight or due.
    pub in_hand: u64,
    /// When the oldest of their messages was accepted.
    #[serde(with = "crate::server::timestamp::option")]
    pub oldest_in_hand_at: Option<OffsetDateTime>,
    /// Wake-ups queued in the processes.
    pub wake_ups: u64,
}

/// A count, exact below 20,000.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Counted)]
pub struct CountedView {
    /// Exact below 20,000.
    pub count: u64,
    /// Whether counting stopped at the limit.
    pub at_least: bool,
}

/// Totals of a period.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Totals)]
pub struct TotalsView {
    /// Messages accepted.
    pub accepted: u64,
    /// Messages delivered.
    pub delivered: u64,
    /// Messages failed.
    pub failed: u64,
    /// Deliveries retried.
    pub retries: u64,
    /// Time from acceptance to acknowledgement, in milliseconds; null if nothing was delivered.
    pub delivery_ms: Option<PercentilesView>,
}

/// Percentiles in milliseconds, at most a sixteenth too high.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Percentiles)]
pub struct PercentilesView {
    /// Median.
    pub p50: u64,
    pub p90: u64,
    pub p95: u64,
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
    /// Maximum.
    pub max: u64,
}

/// Samples of the last two minutes, oldest first.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Series)]
pub struct SeriesView {
    /// Length of a sample, in seconds.
    pub seconds: u64,
    /// Messages accepted, per sample.
    pub accepted: Vec<u64>,
    /// Messages delivered, per sample.
    pub delivered: Vec<u64>,
    /// Messages failed, per sample.
    pub failed: Vec<u64>,
}

/// A process.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Node)]
pub struct NodeView {
    /// Sixteen hexadecimal digits; new at each start.
    pub id: String,
    /// `serve`, `gateway` or `worker`.
    pub role: String,
    /// Host name.
    pub host: String,
    /// Process id.
    pub pid: i32,
    /// Version of esh3ar.
    pub version: String,
    /// Address at which other gateways reach it.
    pub address: Option<String>,
    /// Whether the process is draining.
    pub draining: bool,
    /// Requested and not yet applied: true to drain, false to accept connections again; else null.
    pub drain_asked: Option<bool>,
    /// When it started.
    #[serde(with = "crate::server::timestamp")]
    pub started_at: OffsetDateTime,
    /// Open hub connections.
    pub connections: u64,
    /// Partitions assigned to this process.
    pub queues: Vec<i16>,
    /// Resident memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Totals since start.
    pub since_start: TotalsView,
    /// Totals of the last two minutes.
    pub recent: TotalsView,
    /// Messages per second, averaged over ten seconds.
    pub per_second: RatesView,
    /// Dependencies, as seen by this process.
    pub parts: Vec<PartView>,
}

/// Messages a second.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Rates)]
pub struct RatesView {
    pub accepted: f64,
    pub delivered: f64,
    pub failed: f64,
}

/// A dependency of a process.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DependencyHealth)]
pub struct PartView {
    /// `database`, `disk`, `realtime`, `rabbitmq`, `redis` or `mail`.
    pub name: String,
    /// Whether the dependency answers.
    pub up: bool,
    /// Response time, in milliseconds.
    pub latency_ms: Option<f64>,
    /// Version, if known.
    pub version: Option<String>,
    /// What is wrong.
    pub fault: Option<String>,
    /// Results of the last checks, one every 30 s, oldest first: response time in milliseconds, or -1 for no answer.
    #[serde(default)]
    pub past: Vec<i32>,
}

/// The database.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DatabaseFacts)]
pub struct DatabaseView {
    /// Version of Postgres.
    pub version: String,
    /// Response time, in milliseconds.
    pub latency_ms: f64,
    /// Size on disk, in bytes.
    pub size_bytes: u64,
    /// Open connections, of all programs.
    pub connections: u64,
    /// `max_connections` of Postgres.
    pub max_connections: u64,
}

/// Dead letters.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DeadLetterCounts)]
pub struct DeadView {
    /// Exact below 20,000.
    pub count: u64,
    /// Whether counting stopped at the limit.
    pub at_least: bool,
    /// By class; classes without dead letters are omitted.
    pub by_class: Vec<DeadOfClassView>,
}

/// Dead letters of a class.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DeadLettersOfClass)]
pub struct DeadOfClassView {
    /// `recipient`, `provider`, `content` or `system`.
    pub class: String,
    pub count: u64,
    /// When the newest of them failed.
    #[serde(with = "crate::server::timestamp")]
    pub newest_at: OffsetDateTime,
}

/// A recipient that is slow to acknowledge.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SlowRecipient)]
pub struct SlowView {
    /// Phone number, masked unless requested otherwise, or name of the business user.
    pub recipient: String,
    /// Deliveries in flight or due.
    pub in_hand: u64,
    /// Oldest unacknowledged message.
    pub oldest_message_id: uuid::Uuid,
    /// When that message was accepted.
    #[serde(with = "crate::server::timestamp")]
    pub oldest_at: OffsetDateTime,
    /// Highest retry count.
    pub retries: u16,
    /// Whether the phone is connected; null for business users.
    pub connected: Option<bool>,
}

/// Samples averaged for a rate: ten seconds.
const RATE_SAMPLES: usize = 5;

impl StatsView {
    /// With `numbers`, phone numbers are not masked.
    pub fn new(snapshot: &StatsSnapshot, numbers: bool) -> StatsView {
        let series = |of: fn(&MessageCounts) -> u64| snapshot.all.recent.iter().map(of).collect();
        let levels = snapshot.nodes.iter().filter_map(|node| node.figures.backpressure.as_deref());
        let strictest = levels
            .filter_map(|name| {
                BackpressureLevel::ALL.into_iter().find(|level| level.name() == name)
            })
            .max()
            .unwrap_or_default();
        StatsView {
            at: snapshot.at,
            lanes: snapshot.lanes.iter().map(LaneView::from).collect(),
            waiting: snapshot.waiting.into(),
            in_hand: snapshot.in_flight.into(),
            backpressure: strictest.name().to_owned(),
            connections: snapshot.all.connections,
            since_start: TotalsView::new(snapshot.all.total, &snapshot.all.latencies),
            recent: TotalsView::recent(&snapshot.all),
            series: SeriesView {
                seconds: SAMPLE_SECONDS,
                accepted: series(|sample| sample.accepted),
                delivered: series(|sample| sample.delivered),
                failed: series(|sample| sample.failed),
            },
            nodes: snapshot.nodes.iter().map(NodeView::from).collect(),
            database: DatabaseView {
                version: snapshot.database.version.clone(),
                latency_ms: snapshot.database_ms,
                size_bytes: snapshot.database.size,
                connections: snapshot.database.connections,
                max_connections: snapshot.database.most_connections,
            },
            dead_letters: DeadView {
                count: snapshot.dead.count,
                at_least: snapshot.dead.at_least,
                by_class: snapshot
                    .dead_by_class
                    .iter()
                    .map(|of_class| DeadOfClassView {
                        class: of_class.class.name().to_owned(),
                        count: of_class.count,
                        newest_at: of_class.newest_at,
                    })
                    .collect(),
            },
            slowest: snapshot.slowest.iter().map(|slow| SlowView::new(slow, numbers)).collect(),
        }
    }
}

impl From<&LaneStats> for LaneView {
    fn from(lane: &LaneStats) -> Self {
        LaneView {
            lane: lane.lane.name().to_owned(),
            waiting: lane.waiting,
            oldest_waiting_at: lane.oldest_waiting_at,
            in_hand: lane.in_flight,
            oldest_in_hand_at: lane.oldest_in_flight_at,
            wake_ups: lane.wake_ups,
        }
    }
}

impl From<Counted> for CountedView {
    fn from(counted: Counted) -> Self {
        CountedView { count: counted.count, at_least: counted.at_least }
    }
}

impl TotalsView {
    fn new(counts: MessageCounts, latencies: &LatencyHistogram) -> TotalsView {
        TotalsView {
            accepted: counts.accepted,
            delivered: counts.delivered,
            failed: counts.failed,
            retries: counts.retries,
            delivery_ms: PercentilesView::of(latencies),
        }
    }

    fn recent(figures: &ProcessStats) -> TotalsView {
        TotalsView::new(figures.lately(SAMPLES), &figures.recent_latencies)
    }
}

impl PercentilesView {
    fn of(latencies: &LatencyHistogram) -> Option<PercentilesView> {
        Some(PercentilesView {
            p50: latencies.percentile(0.5)?,
            p90: latencies.percentile(0.9)?,
            p95: latencies.percentile(0.95)?,
            p99: latencies.percentile(0.99)?,
            p999: latencies.percentile(0.999)?,
            max: latencies.percentile(1.0)?,
        })
    }
}

impl From<&Node> for NodeView {
    fn from(node: &Node) -> Self {
        let figures = &node.figures;
        let lately = figures.lately(RATE_SAMPLES);
        let seconds = figures.recent.len().clamp(1, RATE_SAMPLES) as u64 * SAMPLE_SECONDS;
        let rate = |count: u64| (count as f64 / seconds as f64 * 10.0).round() / 10.0;
        NodeView {
            id: drain::name(node.id),
            role: node.role.name().to_owned(),
            host: node.host.clone(),
            pid: node.pid,
            version: node.version.clone(),
            address: node.address.clone(),
            draining: node.draining,
            drain_asked: node.drain_asked,
            started_at: node.started_at,
            connections: figures.connections,
            queues: node.partitions.clone(),
            memory_bytes: figures.memory,
            since_start: TotalsView::new(figures.total, &figures.latencies),
            recent: TotalsView::recent(figures),
            per_second: RatesView {
                accepted: rate(lately.accepted),
                delivered: rate(lately.delivered),
                failed: rate(lately.failed),
            },
            parts: figures.parts.iter().map(PartView::from).collect(),
        }
    }
}

impl From<&DependencyHealth> for PartView {
    fn from(part: &DependencyHealth) -> Self {
        PartView {
            name: part.name.clone(),
            up: part.up,
            latency_ms: part.latency_ms,
            version: part.version.clone(),
            fault: part.fault.clone(),
            past: part.past.clone(),
        }
    }
}

impl SlowView {
    fn new(slow: &SlowRecipient, numbers: bool) -> SlowView {
        SlowView {
            recipient: match &slow.recipient {
                Party::Mobile(phone) if numbers => phone.as_str().to_owned(),
                Party::Mobile(phone) => phone.masked(),
                Party::Business(id) if slow.name.is_empty() => id.to_string(),
                Party::Business(_) => slow.name.clone(),
            },
            in_hand: slow.in_flight,
            oldest_message_id: slow.oldest.0,
            oldest_at: slow.oldest_at,
            retries: slow.retries,
            connected: slow.connected,
        }
    }
}
