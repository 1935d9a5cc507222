//! The panels, each in whatever room it has.

use ratatui::{
    Frame,
    layout::Rect,
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{RenderDirection, Sparkline},
};

use super::super::{
    model::Model,
    panel::Panel,
    rows::{self, Sort},
    state::{self, Health},
    text,
};
use crate::{
    domain::process_stats::SAMPLES,
    server::view::stats::{LaneView, PercentilesView, StatsView},
};

pub(super) fn draw(frame: &mut Frame, area: Rect, model: &Model, panel: Panel) {
    let Some(data) = &model.data else { return };
    let focused = model.focus == panel;
    let block = model.theme.block(title(model, panel, area.width), focused);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    if inner.is_empty() {
        return;
    }
    match panel {
        Panel::Flow => flow(frame, inner, model, &data.stats),
        Panel::Lanes => lanes(frame, inner, model, &data.stats),
        Panel::Nodes => nodes(frame, inner, model),
        Panel::Parts => parts(frame, inner, model, &data.stats),
        Panel::Letters => letters(frame, inner, model),
        Panel::Recipients => recipients(frame, inner, model),
    }
}

fn title(model: &Model, panel: Panel, width: u16) -> Line<'static> {
    let theme = model.theme;
    let Some(data) = &model.data else { return Line::default() };
    let stats = &data.stats;
    let name = match panel {
        Panel::Flow => "Flow",
        Panel::Lanes => "Waiting",
        Panel::Nodes => "Processes",
        Panel::Parts => "Components",
        Panel::Letters => "Dead letters",
        Panel::Recipients => "Slowest recipients",
    };
    let of = |shown: usize, all: usize| {
        let filtered = !model.filter.trim().is_empty();
        if filtered { format!("{shown} of {all}") } else { all.to_string() }
    };
    let facts = match panel {
        Panel::Flow => match stats.connections {
            1 => "1 open connection".to_owned(),
            many => format!("{} open connections", text::count(many)),
        },
        Panel::Lanes => {
            format!("{} messages", text::counted(stats.waiting.count, stats.waiting.at_least))
        }
        Panel::Nodes => of(model.nodes().len(), stats.nodes.len()),
        Panel::Parts => String::new(),
        Panel::Letters if model.filter.trim().is_empty() => {
            let dead = &stats.dead_letters;
            let classes = dead.by_class.iter().map(|of| format!("{} {}", of.class, of.count));
            let all = std::iter::once(text::counted(dead.count, dead.at_least));
            all.chain(classes).collect::<Vec<_>>().join(theme.dot())
        }
        Panel::Letters => of(model.letters().len(), data.letters.len()),
        Panel::Recipients => of(model.recipients().len(), stats.slowest.len()),
    };
    let focused = model.focus == panel;
    let mark = match (focused, theme.ascii) {
        (false, _) => " ",
        (true, false) => "▸",
        (true, true) => ">",
    };
    let style = if focused { theme.paint(Color::Cyan) } else { Style::new() };
    let room = usize::from(width).saturating_sub(name.len() + 6);
    let mut title =
        vec![Span::styled(format!("{mark}{name} "), style.add_modifier(Modifier::BOLD))];
    if !facts.is_empty() {
        title.push(Span::styled(format!("{} ", text::fit(&facts, room, theme.ascii)), theme.dim()));
    }
    Line::from(title)
}

/// A column of a list.
struct Column {
    name: &'static str,
    width: usize,
    right: bool,
}

fn column(name: &'static str, width: usize) -> Column {
    Column { name, width, right: false }
}

fn figure(name: &'static str, width: usize) -> Column {
    Column { name, width, right: true }
}

fn cells(columns: &[Column], texts: &[String], ascii: bool) -> String {
    let padded = columns.iter().zip(texts).map(|(column, cell)| {
        let width = column.width;
        let cell = text::fit(cell, width, ascii);
        if column.right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
    });
    padded.collect::<Vec<_>>().join(" ")
}

/// The heading, with a mark at the column by which it is sorted.
fn heading(columns: &[Column], model: &Model, panel: Panel) -> Line<'static> {
    let Sort { by, reversed } = model.sorts[panel as usize];
    let sorted = rows::keys(panel).iter().find(|(key, _)| Some(*key) == by).map(|(_, name)| *name);
    let mark = match (reversed, model.theme.ascii) {
        (false, false) => "↓",
        (true, false) => "↑",
        (false, true) => "v",
        (true, true) => "^",
    };
    let names: Vec<String> = columns
        .iter()
        .map(|column| {
            let sorted = sorted == Some(column.name);
            if sorted { format!("{}{mark}", column.name) } else { column.name.to_owned() }
        })
        .collect();
    // The mark is no ASCII, and meant to be shown.
    Line::styled(cells(columns, &names, false), model.theme.heading())
}

/// A list with its heading, scrolled to the chosen row.
fn list(
    frame: &mut Frame,
    area: Rect,
    model: &Model,
    panel: Panel,
    columns: &[Column],
    items: Vec<(Vec<String>, Style)>,
    none: &str,
) {
    let mut lines = vec![heading(columns, model, panel)];
    if items.is_empty() {
        let none = if model.filter.is_empty() { none } else { "nothing matches the filter" };
        lines.push(Line::styled(none.to_owned(), model.theme.dim()));
    }
    let visible = usize::from(area.height).saturating_sub(1).max(1);
    let chosen = model.selection(panel).index;
    let from = (chosen + 1).saturating_sub(visible);
    for (place, (texts, style)) in items.into_iter().enumerate().skip(from).take(visible) {
        let line = cells(columns, &texts, model.theme.ascii);
        let here = place == chosen && model.focus == panel;
        let style = if here {
            style.add_modifier(Modifier::REVERSED).add_modifier(Modifier::BOLD)
        } else {
            style
        };
        let width = usize::from(area.width);
        lines.push(Line::styled(format!("{line:<width$}"), style));
    }
    frame.render_widget(ratatui::text::Text::from(lines), area);
}

fn flow(frame: &mut Frame, area: Rect, model: &Model, stats: &StatsView) {
    const LABEL: u16 = 18;
    let theme = model.theme;
    let rates = state::rates(stats);
    let series = &stats.series;
    let kinds = [
        ("accepted", rates[0], &series.accepted, stats.since_start.accepted, Color::Cyan),
        ("delivered", rates[1], &series.delivered, stats.since_start.delivered, Color::Green),
        ("failed", rates[2], &series.failed, stats.since_start.failed, Color::Red),
    ];
    let latency_rows = match area.height {
        ..4 => 0,
        4 => 1,
        5..8 => 2,
        _ => 3,
    };
    let each = (area.height.saturating_sub(latency_rows) / 3).max(1);
    // One scale for all, so that they can be compared.
    let most = kinds.iter().flat_map(|kind| kind.2.iter()).copied().max().unwrap_or(0).max(1);
    let mut y = area.y;
    for (name, rate, samples, total, color) in kinds {
        if y + each > area.bottom() {
            break;
        }
        let text = format!("{name:<9} {:>6}/s", text::rate(rate));
        let style = if rate > 0.0 { theme.paint(color) } else { Style::new() };
        frame.buffer_mut().set_stringn(area.x, y, &text, LABEL.into(), style);
        if each > 1 {
            let total = format!("{:>12} total", text::count(total));
            frame.buffer_mut().set_stringn(area.x, y + 1, total, LABEL.into(), theme.dim());
        }
        let width = area.width.saturating_sub(LABEL + 1);
        // Wide enough to fill the room, once all are there.
        let wide = usize::from(width).div_ceil(SAMPLES).clamp(1, 4);
        let newest = samples.iter().rev();
        let data: Vec<u64> = newest.flat_map(|sample| std::iter::repeat_n(*sample, wide)).collect();
        let line = Sparkline::default()
            .data(data)
            .max(most)
            .direction(RenderDirection::RightToLeft)
            .bar_set(theme.bars(each == 1))
            .style(theme.paint(color));
        frame.render_widget(line, Rect { x: area.x + LABEL + 1, y, width, height: each });
        y += each;
    }
    if latency_rows > 0 {
        latency(frame, Rect { y, height: area.bottom().saturating_sub(y), ..area }, model, stats);
    }
}

fn latency(frame: &mut Frame, area: Rect, model: &Model, stats: &StatsView) {
    let wide = area.width >= 58;
    let of = |p: &PercentilesView| {
        let few = [("p50", p.p50), ("p90", p.p90), ("p99", p.p99), ("max", p.max)];
        let all = [
            ("p50", p.p50),
            ("p90", p.p90),
            ("p95", p.p95),
            ("p99", p.p99),
            ("p99.9", p.p999),
            ("max", p.max),
        ];
        if wide { all.to_vec() } else { few.to_vec() }
    };
    let recent = &stats.recent.delivery_ms;
    let zero = PercentilesView { p50: 0, p90: 0, p95: 0, p99: 0, p999: 0, max: 0 };
    let names = of(recent.as_ref().unwrap_or(&zero));
    let heading: String = names.iter().map(|(name, _)| format!("{name:>8}")).collect();
    let row = |name: &str, latencies: &Option<PercentilesView>| {
        let values = latencies.as_ref().map(&of);
        let shown: String = match values {
            Some(values) => {
                values.iter().map(|(_, value)| format!("{:>8}", text::millis(*value))).collect()
            }
            None => names.iter().map(|_| format!("{:>8}", "-")).collect(),
        };
        format!("{name:<10}{shown}")
    };
    let mut lines = Vec::new();
    // What is least needed goes first where there is no room.
    if area.height >= 2 {
        lines.push(Line::styled(format!("{:<10}{heading}", "delivery"), model.theme.heading()));
    }
    lines.push(Line::raw(row("2 minutes", recent)));
    if area.height >= 3 {
        lines.push(Line::styled(row("in all", &stats.since_start.delivery_ms), model.theme.dim()));
    }
    frame.render_widget(ratatui::text::Text::from(lines), area);
}

fn lanes(frame: &mut Frame, area: Rect, model: &Model, stats: &StatsView) {
    let theme = model.theme;
    let mut columns =
        vec![column("LANE", 7), figure("IN FLIGHT", 9), figure("WAITING", 8), figure("OLDEST", 7)];
    let wide = area.width >= 61;
    if wide {
        columns.extend([figure("OLDEST IN FLIGHT", 16), figure("WAKE-UPS", 9)]);
    }
    let age = |then: Option<time::OffsetDateTime>| {
        then.map_or_else(|| "-".to_owned(), |then| text::age(model.now, then))
    };
    let row = |name: &str, lane: &LaneView| {
        let mut texts = vec![
            name.to_owned(),
            text::count(lane.in_hand),
            text::count(lane.waiting),
            age(lane.oldest_waiting_at),
        ];
        if wide {
            texts.extend([age(lane.oldest_in_hand_at), text::count(lane.wake_ups)]);
        }
        cells(&columns, &texts, theme.ascii)
    };
    let used: usize = columns.iter().map(|column| column.width + 1).sum();
    let room = usize::from(area.width).saturating_sub(used + 1);
    let most = stats.lanes.iter().map(|lane| lane.waiting).max().unwrap_or(0);
    let mut lines = vec![heading(&columns, model, Panel::Lanes)];
    for lane in &stats.lanes {
        let style = if lane.waiting == 0 { theme.dim() } else { Style::new() };
        let mut line = vec![Span::styled(row(&lane.lane, lane), style)];
        line.extend(bar(model, lane, most, room));
        lines.push(Line::from(line));
    }
    let oldest =
        |of: fn(&LaneView) -> Option<time::OffsetDateTime>| stats.lanes.iter().filter_map(of).min();
    let mut all = vec![
        "all".to_owned(),
        text::counted(stats.in_hand.count, stats.in_hand.at_least),
        text::counted(stats.waiting.count, stats.waiting.at_least),
        age(oldest(|lane| lane.oldest_waiting_at)),
    ];
    if wide {
        let wake_ups = stats.lanes.iter().map(|lane| lane.wake_ups).sum();
        all.extend([age(oldest(|lane| lane.oldest_in_hand_at)), text::count(wake_ups)]);
    }
    let bold = Style::new().add_modifier(Modifier::BOLD);
    lines.push(Line::styled(cells(&columns, &all, theme.ascii), bold));
    if area.height > 6 {
        let parked = stats.waiting.count.saturating_sub(stats.in_hand.count);
        let text = format!("{} wait for offline recipients", text::count(parked));
        lines.extend([Line::default(), Line::styled(text, theme.dim())]);
    }
    frame.render_widget(ratatui::text::Text::from(lines), area);
}

/// The waiting messages of a lane in proportion to the other lanes: those in flight, then the rest.
fn bar(model: &Model, lane: &LaneView, most: u64, room: usize) -> Vec<Span<'static>> {
    if room < 10 || most == 0 {
        return Vec::new();
    }
    let theme = model.theme;
    let long = |count: u64| (count as f64 / most as f64 * room as f64).ceil() as usize;
    let (whole, in_hand) = (long(lane.waiting), long(lane.in_hand));
    let (full, light) = if theme.ascii { ("#", "-") } else { ("█", "░") };
    vec![
        Span::styled(format!("  {}", full.repeat(in_hand)), theme.paint(Color::Cyan)),
        Span::styled(light.repeat(whole.saturating_sub(in_hand)), theme.dim()),
    ]
}

fn parts(frame: &mut Frame, area: Rect, model: &Model, stats: &StatsView) {
    let theme = model.theme;
    let width = usize::from(area.width);
    let lines = state::parts(stats).into_iter().map(|part| {
        let facts = part.facts.join(theme.dot());
        let told = part.fault.as_ref().map_or(facts, Clone::clone);
        Line::from(vec![
            Span::styled(format!("{:<5}", part.health.text()), theme.health(part.health)),
            Span::raw(format!("{:<9} ", part.name)),
            Span::styled(
                text::fit(&told, width.saturating_sub(15), theme.ascii),
                if part.health == Health::Ok { theme.dim() } else { theme.health(part.health) },
            ),
        ])
    });
    frame.render_widget(ratatui::text::Text::from(lines.collect::<Vec<_>>()), area);
}

fn nodes(frame: &mut Frame, area: Rect, model: &Model) {
    let width = usize::from(area.width);
    let mut columns = vec![
        column("ROLE", 7),
        column("NODE", if width < 60 { 14 } else { 22 }),
        figure("CONNS", 5),
        figure("ACC/S", 6),
        figure("DEL/S", 6),
    ];
    if width >= 62 {
        columns.extend([figure("MEMORY", 7), figure("UP", 5)]);
    }
    if width >= 108 {
        columns.extend([column("VERSION", 8), column("STATE", 8)]);
        let used: usize = columns.iter().map(|column| column.width + 1).sum();
        columns.push(column("ADDRESS", width.saturating_sub(used)));
    }
    let items = model.nodes().into_iter().map(|node| {
        let style = if node.draining { model.theme.health(Health::Warn) } else { Style::new() };
        let texts = vec![
            node.role.clone(),
            state::place(node),
            text::count(node.connections),
            text::rate(node.per_second.accepted),
            text::rate(node.per_second.delivered),
            node.memory_bytes.map_or_else(|| "-".to_owned(), text::bytes),
            text::age(model.now, node.started_at),
            node.version.clone(),
            (if node.draining { "draining" } else { "running" }).to_owned(),
            node.address.clone().unwrap_or_default(),
        ];
        (texts, style)
    });
    let items = items.collect();
    list(frame, area, model, Panel::Nodes, &columns, items, "no process is running: esh3ar serve");
}

fn letters(frame: &mut Frame, area: Rect, model: &Model) {
    let width = usize::from(area.width);
    let wide = width >= 76;
    let huge = width >= 150;
    let mut columns = vec![figure("AGE", 4), column("CLASS", 9), column("TO", 14)];
    if wide {
        columns.extend([column("FROM", 16), figure("TRIES", 5)]);
    }
    if huge {
        columns.extend([column("KIND", 9), column("ID", 36)]);
    }
    let used: usize = columns.iter().map(|column| column.width + 1).sum();
    columns.push(column("REASON", width.saturating_sub(used)));
    let items = model.letters().into_iter().map(|letter| {
        let to = letter.to.as_ref().map_or_else(String::new, |to| model.number(to.as_str()));
        let age = text::age(model.now, letter.last_error_at);
        let mut texts = vec![age, letter.class.name().to_owned(), to];
        if wide {
            texts.extend([model.number(&letter.from), letter.attempts.to_string()]);
        }
        if huge {
            texts.extend([letter.kind.clone(), letter.id.to_string()]);
        }
        texts.push(letter.reason.clone());
        (texts, Style::new())
    });
    let items = items.collect();
    list(frame, area, model, Panel::Letters, &columns, items, "none");
}

fn recipients(frame: &mut Frame, area: Rect, model: &Model) {
    let width = usize::from(area.width);
    let mut columns =
        vec![column("RECIPIENT", 13), figure("OLDEST", 7), figure("RETRY", 5), figure("FLIGHT", 6)];
    if width >= 46 {
        columns.push(column("STATE", 9));
    }
    if width >= 82 {
        columns.push(column("OLDEST MESSAGE", 36));
    }
    let items = model.recipients().into_iter().map(|slow| {
        let state = match slow.connected {
            Some(true) => "connected",
            Some(false) => "offline",
            None => "",
        };
        let style = if slow.retries > 0 { model.theme.paint(Color::Yellow) } else { Style::new() };
        let texts = vec![
            model.number(&slow.recipient),
            text::age(model.now, slow.oldest_at),
            slow.retries.to_string(),
            text::count(slow.in_hand),
            state.to_owned(),
            slow.oldest_message_id.to_string(),
        ];
        (texts, style)
    });
    let items = items.collect();
    list(
        frame,
        area,
        model,
        Panel::Recipients,
        &columns,
        items,
        "none: all recipients acknowledge",
    );
}
