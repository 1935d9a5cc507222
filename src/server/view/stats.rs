//! How the installation does, as `GET /admin/stats` and `esh3ar top -o json` tell it. Whole, so that it
//! can be read back by whoever watches from elsewhere.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    app::{
        drain,
        stats::{Counted, Lane, Node, Slow, Snapshot},
    },
    domain::{
        Party,
        depth::Level,
        figures::{Counts, Figures, Latencies, Part, SAMPLE_SECONDS, SAMPLES},
    },
};

/// How the installation does at a moment.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Stats)]
pub struct StatsView {
    /// When.
    #[serde(with = "crate::server::timestamp")]
    pub at: OffsetDateTime,
    /// High first.
    pub lanes: Vec<LaneView>,
    /// Messages not acknowledged yet.
    pub waiting: CountedView,
    /// Those of them that are on their way to a device, or due.
    pub in_hand: CountedView,
    /// What is still taken on: the strictest of the gateways.
    pub backpressure: String,
    /// Connections of the hub.
    pub connections: u64,
    /// Since each process started.
    pub since_start: TotalsView,
    /// In the last two minutes, or since the processes started if that is shorter.
    pub recent: TotalsView,
    /// The same, sample by sample.
    pub series: SeriesView,
    /// The processes that live, oldest first.
    pub nodes: Vec<NodeView>,
    /// The database itself.
    pub database: DatabaseView,
    /// What was given up.
    pub dead_letters: DeadView,
    /// Recipients that are slow to acknowledge, the worst first.
    pub slowest: Vec<SlowView>,
}

/// A lane.
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
    /// Those on their way to a device, or due.
    pub in_hand: u64,
    /// When the oldest of those was accepted.
    #[serde(with = "crate::server::timestamp::option")]
    pub oldest_in_hand_at: Option<OffsetDateTime>,
    /// Wake-ups waiting in the processes.
    pub wake_ups: u64,
}

/// A count, exact below 20,000.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Counted)]
pub struct CountedView {
    /// How many.
    pub count: u64,
    /// Whether there may be more.
    pub at_least: bool,
}

/// What was counted in a time.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Totals)]
pub struct TotalsView {
    /// Messages.
    pub accepted: u64,
    /// Messages.
    pub delivered: u64,
    /// Messages.
    pub failed: u64,
    /// Deliveries tried again.
    pub retries: u64,
    /// From acceptance to acknowledgement, in milliseconds; null if nothing was delivered.
    pub delivery_ms: Option<PercentilesView>,
}

/// Percentiles in milliseconds, at most a sixteenth too high.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Percentiles)]
pub struct PercentilesView {
    /// Half of them are no longer.
    pub p50: u64,
    /// 90 in 100.
    pub p90: u64,
    /// 95 in 100.
    pub p95: u64,
    /// 99 in 100.
    pub p99: u64,
    /// 999 in 1,000.
    pub p999: u64,
    /// All.
    pub max: u64,
}

/// Samples of the last two minutes, oldest first.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Series)]
pub struct SeriesView {
    /// How long each sample is.
    pub seconds: u64,
    /// Messages accepted in each.
    pub accepted: Vec<u64>,
    /// Messages delivered in each.
    pub delivered: Vec<u64>,
    /// Messages that failed in each.
    pub failed: Vec<u64>,
}

/// A process.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Node)]
pub struct NodeView {
    /// Sixteen hexadecimal digits.
    pub id: String,
    /// `serve`, `gateway` or `worker`.
    pub role: String,
    /// The machine.
    pub host: String,
    /// The process on it.
    pub pid: i32,
    /// Of esh3ar.
    pub version: String,
    /// Where other gateways reach it.
    pub address: Option<String>,
    /// Whether it is being emptied.
    pub draining: bool,
    /// What it was asked to be and has not taken up yet: true, to be emptied; false, to take connections again.
    pub drain_asked: Option<bool>,
    /// When it started.
    #[serde(with = "crate::server::timestamp")]
    pub started_at: OffsetDateTime,
    /// Connections of the hub.
    pub connections: u64,
    /// The broker's queues it leads.
    pub queues: Vec<i16>,
    /// What it holds in memory.
    pub memory_bytes: Option<u64>,
    /// Since it started.
    pub since_start: TotalsView,
    /// In the last two minutes.
    pub recent: TotalsView,
    /// Messages a second, over the last ten seconds.
    pub per_second: RatesView,
    /// What it works with, as it sees it.
    pub parts: Vec<PartView>,
}

/// Messages a second.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Rates)]
pub struct RatesView {
    /// Accepted.
    pub accepted: f64,
    /// Delivered.
    pub delivered: f64,
    /// Failed.
    pub failed: f64,
}

/// A part that a process works with.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Part)]
pub struct PartView {
    /// `database`, `disk`, `realtime`, `rabbitmq`, `redis` or `mail`.
    pub name: String,
    /// Whether it answers.
    pub up: bool,
    /// How long it took.
    pub latency_ms: Option<f64>,
    /// Its version, where it tells.
    pub version: Option<String>,
    /// What is wrong with it.
    pub fault: Option<String>,
    /// How it was at the last looks, one every 30 s, oldest first: how many milliseconds it took, -1 when it
    /// did not answer.
    #[serde(default)]
    pub past: Vec<i32>,
}

/// The database.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DatabaseFacts)]
pub struct DatabaseView {
    /// Of Postgres.
    pub version: String,
    /// How long it took to answer.
    pub latency_ms: f64,
    /// What it takes on the disk.
    pub size_bytes: u64,
    /// Connections to it.
    pub connections: u64,
    /// The most it takes.
    pub max_connections: u64,
}

/// Dead letters.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DeadLetterCounts)]
pub struct DeadView {
    /// How many.
    pub count: u64,
    /// Whether there may be more.
    pub at_least: bool,
    /// By class; classes without any are not there.
    pub by_class: Vec<DeadOfClassView>,
}

/// Dead letters of a class.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DeadLettersOfClass)]
pub struct DeadOfClassView {
    /// `recipient`, `provider`, `content` or `system`.
    pub class: String,
    /// How many.
    pub count: u64,
    /// When the newest was given up.
    #[serde(with = "crate::server::timestamp")]
    pub newest_at: OffsetDateTime,
}

/// A recipient that is slow to acknowledge.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SlowRecipient)]
pub struct SlowView {
    /// Its phone number, masked unless asked for, or the business user's name.
    pub recipient: String,
    /// Messages in hand for it.
    pub in_hand: u64,
    /// The oldest of them.
    pub oldest_message_id: uuid::Uuid,
    /// When that was accepted.
    #[serde(with = "crate::server::timestamp")]
    pub oldest_at: OffsetDateTime,
    /// The most retries that one of them has had.
    pub retries: u16,
    /// Whether it is believed to be connected; null for business users.
    pub connected: Option<bool>,
}

/// Samples that a rate is the mean of: ten seconds.
const RATE_SAMPLES: usize = 5;

impl StatsView {
    /// With `numbers` phone numbers are whole, else masked.
    pub fn new(snapshot: &Snapshot, numbers: bool) -> StatsView {
        let series = |of: fn(&Counts) -> u64| snapshot.all.recent.iter().map(of).collect();
        let levels = snapshot.nodes.iter().filter_map(|node| node.figures.backpressure.as_deref());
        let strictest = levels
            .filter_map(|name| Level::ALL.into_iter().find(|level| level.name() == name))
            .max()
            .unwrap_or_default();
        StatsView {
            at: snapshot.at,
            lanes: snapshot.lanes.iter().map(LaneView::from).collect(),
            waiting: snapshot.waiting.into(),
            in_hand: snapshot.in_hand.into(),
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

impl From<&Lane> for LaneView {
    fn from(lane: &Lane) -> Self {
        LaneView {
            lane: lane.lane.name().to_owned(),
            waiting: lane.waiting,
            oldest_waiting_at: lane.oldest_waiting_at,
            in_hand: lane.in_hand,
            oldest_in_hand_at: lane.oldest_in_hand_at,
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
    fn new(counts: Counts, latencies: &Latencies) -> TotalsView {
        TotalsView {
            accepted: counts.accepted,
            delivered: counts.delivered,
            failed: counts.failed,
            retries: counts.retries,
            delivery_ms: PercentilesView::of(latencies),
        }
    }

    fn recent(figures: &Figures) -> TotalsView {
        TotalsView::new(figures.lately(SAMPLES), &figures.recent_latencies)
    }
}

impl PercentilesView {
    fn of(latencies: &Latencies) -> Option<PercentilesView> {
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

impl From<&Part> for PartView {
    fn from(part: &Part) -> Self {
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
    fn new(slow: &Slow, numbers: bool) -> SlowView {
        SlowView {
            recipient: match &slow.recipient {
                Party::Mobile(phone) if numbers => phone.as_str().to_owned(),
                Party::Mobile(phone) => phone.masked(),
                Party::Business(id) if slow.name.is_empty() => id.to_string(),
                Party::Business(_) => slow.name.clone(),
            },
            in_hand: slow.in_hand,
            oldest_message_id: slow.oldest.0,
            oldest_at: slow.oldest_at,
            retries: slow.retries,
            connected: slow.connected,
        }
    }
}
