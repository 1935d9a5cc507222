//! The health of an installation, as a word and a sentence: the same on the dashboard and in the report.

use super::text;
use crate::server::view::stats::{NodeView, PartView, StatsView};

/// Shown as a word; colour only repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Health {
    Ok,
    Warn,
    Fail,
}

impl Health {
    pub(super) fn text(self) -> &'static str {
        match self {
            Health::Ok => "OK",
            Health::Warn => "WARN",
            Health::Fail => "FAIL",
        }
    }
}

/// A component that delivery depends on.
#[derive(Debug)]
pub(super) struct ComponentState {
    pub(super) health: Health,
    pub(super) name: &'static str,
    /// Short facts; more are shown where there is room.
    pub(super) facts: Vec<String>,
    pub(super) fault: Option<String>,
}

impl ComponentState {
    fn of(
        name: &'static str,
        facts: Vec<String>,
        fault: Option<(Health, String)>,
    ) -> ComponentState {
        let health = fault.as_ref().map_or(Health::Ok, |(health, _)| *health);
        ComponentState { health, name, facts, fault: fault.map(|(_, text)| text) }
    }
}

/// Host and process id.
pub(super) fn place(node: &NodeView) -> String {
    format!("{}:{}", node.host, node.pid)
}

/// Every component, with its worst problem.
pub(super) fn parts(stats: &StatsView) -> Vec<ComponentState> {
    let broker = shared(stats, "rabbitmq");
    let redis = shared(stats, "redis");
    vec![
        database(stats),
        ComponentState { name: "broker", ..broker },
        ComponentState { name: "redis", ..redis },
        intake(stats),
        delivery(stats),
    ]
}

fn database(stats: &StatsView) -> ComponentState {
    let database = &stats.database;
    let facts = vec![
        text::latency(database.latency_ms),
        format!("Postgres {}", database.version),
        text::bytes(database.size_bytes),
        format!("{} of {} connections", database.connections, database.max_connections),
    ];
    let full = database.connections * 10 >= database.max_connections * 9;
    let lost = unreached(stats, "database");
    let fault = if let Some(lost) = lost {
        Some((Health::Fail, lost))
    } else if full {
        let what = format!(
            "{} of {} connections are in use",
            database.connections, database.max_connections
        );
        Some((Health::Warn, what))
    } else if database.latency_ms > 1000.0 {
        Some((Health::Warn, format!("it took {} to answer", text::latency(database.latency_ms))))
    } else {
        None
    };
    ComponentState::of("database", facts, fault)
}

/// Every process's view of a component.
pub(super) fn seen<'a>(
    stats: &'a StatsView,
    name: &'a str,
) -> impl Iterator<Item = (&'a NodeView, &'a PartView)> {
    stats.nodes.iter().flat_map(move |node| {
        node.parts.iter().filter(move |part| part.name == name).map(move |part| (node, part))
    })
}

fn unreached(stats: &StatsView, name: &str) -> Option<String> {
    let all = seen(stats, name).count();
    let mut down = seen(stats, name).filter(|(_, part)| !part.up);
    let (node, part) = down.next()?;
    let others = match down.count() {
        0 => String::new(),
        more => format!(" and {more} more of {all}"),
    };
    let why = part.fault.as_deref().unwrap_or("it does not answer");
    Some(format!("{} {}{others}: {why}", node.role, place(node)))
}

/// The broker or Redis of a cluster; a single process has neither.
fn shared(stats: &StatsView, name: &'static str) -> ComponentState {
    if seen(stats, name).next().is_none() {
        return ComponentState::of(name, vec!["in process".to_owned()], None);
    }
    let mut facts = Vec::new();
    if let Some(slowest) =
        seen(stats, name).filter_map(|(_, part)| part.latency_ms).max_by(f64::total_cmp)
    {
        facts.push(text::latency(slowest));
    }
    if let Some(version) = seen(stats, name).find_map(|(_, part)| part.version.as_ref()) {
        facts.push(format!("RabbitMQ {version}"));
    }
    let up = seen(stats, name).filter(|(_, part)| part.up).count();
    facts.push(format!("reached by {up} of {}", seen(stats, name).count()));
    // Without it messages are delayed, not lost.
    ComponentState::of(name, facts, unreached(stats, name).map(|text| (Health::Warn, text)))
}

fn intake(stats: &StatsView) -> ComponentState {
    let in_hand =
        format!("{} in flight", text::counted(stats.in_hand.count, stats.in_hand.at_least));
    let meaning = match stats.backpressure.as_str() {
        "open" => None,
        "broadcasts_paused" => Some((
            Health::Warn,
            "broadcasts are paused until fewer deliveries are in flight".to_owned(),
        )),
        "bulk_refused" => Some((
            Health::Warn,
            "batches are refused until fewer deliveries are in flight".to_owned(),
        )),
        _ => Some((
            Health::Fail,
            "only high priority is accepted until fewer deliveries are in flight".to_owned(),
        )),
    };
    ComponentState::of("intake", vec![stats.backpressure.clone(), in_hand], meaning)
}

fn delivery(stats: &StatsView) -> ComponentState {
    let of = |roles: &[&str]| {
        stats.nodes.iter().filter(|node| roles.contains(&node.role.as_str())).count()
    };
    let (gateways, deliver) = (of(&["serve", "gateway"]), of(&["serve", "worker"]));
    let facts = vec![format!("{gateways} accept"), format!("{deliver} deliver")];
    let draining = stats.nodes.iter().find(|node| node.draining);
    let unconnected = unreached(stats, "realtime");
    let fault = if deliver == 0 {
        Some((Health::Fail, "no process delivers: start esh3ar serve or a worker".to_owned()))
    } else if gateways == 0 {
        Some((Health::Fail, "no process accepts messages: start esh3ar serve".to_owned()))
    } else if let Some(unconnected) = unconnected {
        Some((Health::Fail, format!("clients cannot connect: {unconnected}")))
    } else if let Some(node) = draining {
        Some((Health::Warn, format!("{} {} is draining", node.role, place(node))))
    } else if stats.recent.failed > 0 {
        Some((
            Health::Warn,
            format!("{} failed in the last two minutes", text::count(stats.recent.failed)),
        ))
    } else {
        None
    };
    ComponentState::of("delivery", facts, fault)
}

/// The worst component's health, and why.
pub(super) fn overall(stats: &StatsView) -> (Health, String) {
    let parts = parts(stats);
    let worst = parts.iter().max_by(|one, other| {
        // Of equal ones the first is reported.
        one.health.cmp(&other.health).then(std::cmp::Ordering::Greater)
    });
    match worst {
        Some(ComponentState { health, name, fault: Some(fault), .. }) => {
            (*health, format!("{name}: {fault}"))
        }
        _ => (Health::Ok, "all healthy".to_owned()),
    }
}

/// Messages per second over the last ten seconds, of all processes: accepted, delivered, failed.
pub(super) fn rates(stats: &StatsView) -> [f64; 3] {
    stats.nodes.iter().fold([0.0; 3], |[accepted, delivered, failed], node| {
        let rates = &node.per_second;
        [accepted + rates.accepted, delivered + rates.delivered, failed + rates.failed]
    })
}
