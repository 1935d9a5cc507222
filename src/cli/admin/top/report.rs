//! The dashboard as a page of text, for pipes, logs and simple terminals.

use super::{
    state::{self, Health},
    text,
};
use crate::server::view::stats::{PercentilesView, StatsView, TotalsView};

pub(super) fn page(stats: &StatsView) -> String {
    let (health, sentence) = state::overall(stats);
    let mut lines = vec![format!("{} {sentence}", health.text()), String::new()];
    flow(stats, &mut lines);
    lanes(stats, &mut lines);
    lines.push("Components".to_owned());
    for part in state::parts(stats) {
        let told = match (&part.fault, part.health) {
            (Some(fault), Health::Warn | Health::Fail) => fault.clone(),
            _ => part.facts.join(", "),
        };
        lines.push(format!("  {:<5}{:<9} {told}", part.health.text(), part.name));
    }
    lines.push(String::new());
    nodes(stats, &mut lines);
    dead(stats, &mut lines);
    slowest(stats, &mut lines);
    lines.join("\n") + "\n"
}

fn flow(stats: &StatsView, lines: &mut Vec<String>) {
    lines.push(format!("Flow       {:>10} {:>12} {:>12}", "now", "2 minutes", "since start"));
    let [accepted, delivered, failed] = state::rates(stats);
    let (recent, all) = (&stats.recent, &stats.since_start);
    for (name, rate, recent, all) in [
        ("accepted", accepted, recent.accepted, all.accepted),
        ("delivered", delivered, recent.delivered, all.delivered),
        ("failed", failed, recent.failed, all.failed),
    ] {
        let rate = format!("{}/s", text::rate(rate));
        let (recent, all) = (text::count(recent), text::count(all));
        lines.push(format!("  {name:<9}{rate:>10} {recent:>12} {all:>12}"));
    }
    let (recent, all) = (text::count(recent.retries), text::count(all.retries));
    lines.push(format!("  {:<9}{:>10} {recent:>12} {all:>12}", "retries", ""));
    lines.push(String::new());
    let names = ["p50", "p90", "p95", "p99", "p99.9", "max"];
    let heading: String = names.iter().map(|name| format!("{name:>9}")).collect();
    lines.push(format!("Delivery   {heading}"));
    let row = |name: &str, totals: &TotalsView| {
        let shown: String = match &totals.delivery_ms {
            Some(PercentilesView { p50, p90, p95, p99, p999, max }) => {
                [p50, p90, p95, p99, p999, max]
                    .iter()
                    .map(|value| format!("{:>9}", text::millis(**value)))
                    .collect()
            }
            None => names.iter().map(|_| format!("{:>9}", "-")).collect(),
        };
        format!("  {name:<9}{shown}")
    };
    lines.push(row("2 minutes", &stats.recent));
    lines.push(row("in all", &stats.since_start));
    lines.push(String::new());
}

fn lanes(stats: &StatsView, lines: &mut Vec<String>) {
    let age = |then: Option<time::OffsetDateTime>| {
        then.map_or_else(|| "-".to_owned(), |then| text::age(stats.at, then))
    };
    let names = ["in flight", "oldest", "waiting", "oldest"];
    let heading: String = names.iter().map(|name| format!("{name:>10}")).collect();
    lines.push(format!("Waiting  {heading}"));
    for lane in &stats.lanes {
        let (in_hand, waiting) = (text::count(lane.in_hand), text::count(lane.waiting));
        let (oldest, waits) = (age(lane.oldest_in_hand_at), age(lane.oldest_waiting_at));
        lines.push(format!("  {:<7}{in_hand:>10}{oldest:>10}{waiting:>10}{waits:>10}", lane.lane));
    }
    let in_hand = text::counted(stats.in_hand.count, stats.in_hand.at_least);
    let waiting = text::counted(stats.waiting.count, stats.waiting.at_least);
    lines.push(format!("  {:<7}{in_hand:>10}{:>10}{waiting:>10}", "all", ""));
    lines.push(String::new());
}

fn nodes(stats: &StatsView, lines: &mut Vec<String>) {
    lines.push(format!("Processes {}", stats.nodes.len()));
    for node in &stats.nodes {
        let memory = node.memory_bytes.map_or_else(|| "-".to_owned(), text::bytes);
        let draining = if node.draining { ", draining" } else { "" };
        lines.push(format!(
            "  {:<8}{:<22} {} connections, accepts {}/s, delivers {}/s, {memory}, up {}{draining}",
            node.role,
            state::place(node),
            text::count(node.connections),
            text::rate(node.per_second.accepted),
            text::rate(node.per_second.delivered),
            text::age(stats.at, node.started_at),
        ));
    }
    lines.push(String::new());
}

fn dead(stats: &StatsView, lines: &mut Vec<String>) {
    let dead = &stats.dead_letters;
    lines.push(format!("Dead letters {}", text::counted(dead.count, dead.at_least)));
    for of_class in &dead.by_class {
        let newest = text::age(stats.at, of_class.newest_at);
        let count = text::count(of_class.count);
        lines.push(format!("  {:<10}{count:>7}, the newest {newest} ago", of_class.class));
    }
    lines.push(String::new());
}

fn slowest(stats: &StatsView, lines: &mut Vec<String>) {
    const MAX_RECIPIENTS: usize = 10;
    lines.push(format!("Slowest recipients {}", stats.slowest.len()));
    for slow in stats.slowest.iter().take(MAX_RECIPIENTS) {
        let recipient = text::fit(&slow.recipient, 20, false);
        lines.push(format!(
            "  {recipient:<20} oldest {:>4}, {} retries, {} in flight: {}",
            text::age(stats.at, slow.oldest_at),
            slow.retries,
            text::count(slow.in_hand),
            slow.oldest_message_id
        ));
    }
}
