//! The details that Enter opens: a dead letter, a message, a process or a panel. Each ends
//! with the commands that show the same.

use ratatui::{
    Frame,
    layout::Rect,
    style::{Color, Modifier, Style},
    text::{Line, Span, Text},
};
use time::OffsetDateTime;

use super::{
    super::{
        model::{Model, OpenDetail},
        state::{self, Health},
        text,
    },
    panels,
};
use crate::{
    server::view::{
        ExplanationView,
        stats::{NodeView, TotalsView},
    },
    store::dead_letters::DeadLetter,
};

pub(super) fn draw(frame: &mut Frame, area: Rect, model: &Model) {
    let width = usize::from(area.width).saturating_sub(4);
    let (title, lines) = match &model.open {
        None => return,
        Some(OpenDetail::Panel(panel)) => return panels::draw(frame, area, model, *panel),
        Some(OpenDetail::Node(id)) => {
            let nodes = model.data.iter().flat_map(|data| &data.stats.nodes);
            match nodes.into_iter().find(|node| node.id == *id) {
                Some(node) => {
                    (format!("{} {}", node.role, state::place(node)), of_node(model, node))
                }
                None => (format!("process {id}"), vec![Line::raw("This process has stopped.")]),
            }
        }
        Some(OpenDetail::Letter(letter, story)) => {
            (format!("Dead letter {}", letter.id), of_letter(model, letter, story.as_ref(), width))
        }
        Some(OpenDetail::Message(id, story)) => {
            let mut lines = Vec::new();
            if let Some(Ok(story)) = story {
                lines.push(summary(model, story));
                lines.push(Line::default());
            }
            of_story(model, story.as_ref(), width, &mut lines);
            lines.push(Line::default());
            lines.push(command(model, &format!("esh3ar message explain {id}")));
            (format!("Message {id}"), lines)
        }
    };
    let title = Line::styled(format!(" {title} "), Style::new().add_modifier(Modifier::BOLD));
    let block = model.theme.block(title, true);
    let inner = block.inner(area);
    let hidden = lines.len().saturating_sub(usize::from(inner.height));
    let from = usize::from(model.scroll).min(hidden);
    let more = hidden - from;
    let block = if more > 0 {
        let below = format!(" {more} more below ");
        block.title_bottom(Line::styled(below, model.theme.dim()).right_aligned())
    } else {
        block
    };
    let text = Text::from(lines.into_iter().skip(from).collect::<Vec<_>>());
    frame.render_widget(block, area);
    // A column of air on both sides.
    let inner = Rect { x: inner.x + 1, width: inner.width.saturating_sub(2), ..inner };
    frame.render_widget(text, inner);
}

fn field(model: &Model, name: &str, value: impl Into<String>) -> Line<'static> {
    let value = value.into();
    let value = text::fit(&value, usize::MAX, model.theme.ascii);
    Line::from(vec![Span::styled(format!("{name:<10} "), model.theme.dim()), Span::raw(value)])
}

/// The same of a text that may need several lines.
fn long_field(model: &Model, name: &str, value: &str, width: usize) -> Vec<Line<'static>> {
    let value = text::fit(value, 2000, model.theme.ascii);
    let parts = text::wrap(&value, width.saturating_sub(11)).into_iter();
    let names = std::iter::once(name).chain(std::iter::repeat(""));
    parts.zip(names).map(|(part, name)| field(model, name, part)).collect()
}

fn heading(model: &Model, name: &str) -> Line<'static> {
    let style = model.theme.paint(Color::Cyan).add_modifier(Modifier::BOLD);
    Line::styled(name.to_owned(), style)
}

fn command(model: &Model, command: &str) -> Line<'static> {
    Line::from(vec![
        Span::styled("$ ", model.theme.dim()),
        Span::styled(command.to_owned(), Style::new().add_modifier(Modifier::BOLD)),
    ])
}

/// To the millisecond, in UTC.
fn clock(at: OffsetDateTime) -> String {
    let (hour, minute, second, milli) = at.time().as_hms_milli();
    format!("{hour:02}:{minute:02}:{second:02}.{milli:03}")
}

fn moment(at: OffsetDateTime) -> String {
    format!("{} {}", at.date(), clock(at))
}

fn of_letter(
    model: &Model,
    letter: &DeadLetter,
    story: Option<&Result<ExplanationView, String>>,
    width: usize,
) -> Vec<Line<'static>> {
    let dot = model.theme.dot();
    let ago = |at| format!("{} ({} ago)", moment(at), text::age(model.now, at));
    let mut lines = Vec::new();
    if let Some(to) = &letter.to {
        lines.push(field(model, "to", model.number(to.as_str())));
    }
    if !letter.from.is_empty() {
        lines.push(field(model, "from", model.number(&letter.from)));
    }
    if let Some(subject) = &letter.subject {
        lines.extend(long_field(model, "subject", subject, width));
    }
    let tries = match letter.attempts {
        1 => "1 attempt".to_owned(),
        n => format!("{n} attempts"),
    };
    let kind = [letter.class.name(), &letter.kind, &tries].join(dot);
    lines.push(field(model, "class", kind));
    lines.extend(long_field(model, "reason", &letter.reason, width));
    lines.push(field(model, "failing", ago(letter.first_error_at)));
    lines.push(field(model, "given up", ago(letter.last_error_at)));
    if let Some(message) = letter.message {
        let again = match letter.generation {
            0 => String::new(),
            n => format!("{dot}requeued before: generation {n}"),
        };
        lines.push(field(model, "message", format!("{message}{again}")));
        lines.push(Line::default());
        of_story(model, story, width, &mut lines);
    }
    lines.push(Line::default());
    lines.push(command(model, &format!("esh3ar dlq show {}", letter.id)));
    if let Some(message) = letter.message {
        lines.push(command(model, &format!("esh3ar message explain {message}")));
    }
    lines.push(command(model, &format!("esh3ar dlq requeue {}", letter.id)));
    lines
}

/// Sender, recipient, status and priority.
fn summary(model: &Model, story: &ExplanationView) -> Line<'static> {
    let to = model.number(&story.to);
    let arrow = if model.theme.ascii { "->" } else { "→" };
    let from = text::fit(&model.number(&story.from), 40, model.theme.ascii);
    let what = [
        format!("{from} {arrow} {to}"),
        story.status.clone(),
        format!("{} priority", story.priority),
    ];
    Line::raw(what.join(model.theme.dot()))
}

/// The verdict first: it matters most.
fn of_story(
    model: &Model,
    story: Option<&Result<ExplanationView, String>>,
    width: usize,
    lines: &mut Vec<Line<'static>>,
) {
    /// The width of what precedes the detail of a step.
    const BEFORE: usize = 37;
    let theme = model.theme;
    let clean = |text: &str| text::fit(text, 2000, theme.ascii);
    let story = match story {
        None => return lines.push(Line::styled("Loading the timeline", theme.dim())),
        Some(Err(why)) => {
            let why = clean(&format!("Cannot load the timeline: {why}"));
            let why = text::wrap(&why, width).into_iter();
            return lines.extend(why.map(|line| Line::styled(line, theme.health(Health::Fail))));
        }
        Some(Ok(story)) => story,
    };
    lines.push(heading(model, "Verdict"));
    let sentence = text::wrap(&clean(&story.verdict.sentence), width);
    lines.extend(sentence.into_iter().map(Line::raw));
    if let Some(next) = &story.verdict.next {
        lines.push(Line::from(vec![
            Span::styled("Next: ", theme.dim()),
            Span::styled(clean(next), Style::new().add_modifier(Modifier::BOLD)),
        ]));
    }
    lines.push(Line::default());
    lines.push(heading(model, "Timeline"));
    let mut before: Option<OffsetDateTime> = None;
    for step in &story.steps {
        let since = before.map_or_else(String::new, |before| {
            let millis = (step.at - before).whole_milliseconds().max(0);
            format!("+{}", text::millis(u64::try_from(millis).unwrap_or(u64::MAX)))
        });
        if before.is_none_or(|before| before.date() != step.at.date()) {
            lines.push(Line::styled(step.at.date().to_string(), theme.dim()));
        }
        before = Some(step.at);
        let health = match step.step.as_str() {
            "failed" => theme.health(Health::Fail),
            "delivered" | "read" => theme.health(Health::Ok),
            "pending" | "sent" => Style::new().add_modifier(Modifier::BOLD),
            _ => theme.health(Health::Warn),
        };
        // Beside the step, or below it where there is no room.
        let beside = width >= BEFORE + 24;
        let indent = if beside { BEFORE } else { 2 };
        let mut detail = text::wrap(&clean(&step.detail), width.saturating_sub(indent)).into_iter();
        let mut first = vec![
            Span::styled(format!("{} {since:>9} ", clock(step.at)), theme.dim()),
            Span::styled(format!("{:<13} ", clean(&step.step)), health),
        ];
        if beside {
            first.extend(detail.next().map(Span::raw));
        }
        lines.push(Line::from(first));
        let pad = " ".repeat(indent);
        let rest = detail.filter(|line| !line.is_empty());
        lines.extend(rest.map(|line| Line::raw(format!("{pad}{line}"))));
    }
}

fn of_node(model: &Model, node: &NodeView) -> Vec<Line<'static>> {
    let dot = model.theme.dot();
    let state = if node.draining { "draining" } else { "running" };
    let up =
        format!("for {}, since {}", text::age(model.now, node.started_at), moment(node.started_at));
    let rates = &node.per_second;
    let mut lines = vec![
        field(model, "state", [state, &up].join(dot)),
        field(model, "version", node.version.clone()),
        field(model, "id", node.id.clone()),
        field(model, "address", node.address.clone().unwrap_or_else(|| "none".to_owned())),
        field(model, "memory", node.memory_bytes.map_or_else(|| "-".to_owned(), text::bytes)),
        field(model, "clients", format!("{} connections", text::count(node.connections))),
    ];
    if !node.queues.is_empty() {
        let queues: Vec<String> = node.queues.iter().map(ToString::to_string).collect();
        lines.push(field(model, "leads", format!("queues {}", queues.join(" "))));
    }
    let now = [
        format!("{}/s accepted", text::rate(rates.accepted)),
        format!("{}/s delivered", text::rate(rates.delivered)),
        format!("{}/s failed", text::rate(rates.failed)),
    ];
    lines.push(field(model, "now", now.join(dot)));
    lines.push(field(model, "2 minutes", totals(&node.recent, dot)));
    lines.push(field(model, "in all", totals(&node.since_start, dot)));
    lines.push(Line::default());
    lines.push(heading(model, "Dependencies"));
    for part in &node.parts {
        let health = if part.up { Health::Ok } else { Health::Fail };
        let mut facts: Vec<String> = part.latency_ms.map(text::latency).into_iter().collect();
        facts.extend(part.version.clone());
        facts.extend(part.fault.clone());
        let facts = facts.join(dot);
        lines.push(Line::from(vec![
            Span::styled(format!("{:<5}", health.text()), model.theme.health(health)),
            Span::raw(format!("{:<10}{}", part.name, text::fit(&facts, 300, model.theme.ascii))),
        ]));
        if !part.past.is_empty() {
            let lately = text::lately(&part.past, model.theme.ascii);
            lines.push(Line::styled(format!("{:15}{lately}", ""), model.theme.dim()));
        }
    }
    lines.push(Line::default());
    lines.push(command(model, "esh3ar top --once -o json"));
    lines
}

fn totals(totals: &TotalsView, dot: &str) -> String {
    let mut all = vec![
        format!("{} accepted", text::count(totals.accepted)),
        format!("{} delivered", text::count(totals.delivered)),
        format!("{} failed", text::count(totals.failed)),
        format!("{} retries", text::count(totals.retries)),
    ];
    if let Some(p) = &totals.delivery_ms {
        all.push(format!("p50 {}, p99 {}", text::millis(p.p50), text::millis(p.p99)));
    }
    all.join(dot)
}
