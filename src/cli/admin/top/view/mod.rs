//! Draws the dashboard from the model, for any size of terminal.

mod detail;
mod overlay;
mod panels;
#[cfg(test)]
mod tests;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    symbols::{bar, border},
    text::{Line, Span},
    widgets::{Block, Paragraph},
};

use super::{
    model::{Mode, Model, Theme},
    panel::Panel,
    state::{self, Health},
    text,
};

/// Older data are marked.
const STALE_AFTER_SECONDS: i64 = 6;
/// From this size on, all panels are on one screen.
const GRID: (u16, u16) = (76, 20);

impl Theme {
    fn paint(self, color: Color) -> Style {
        if self.colour { Style::new().fg(color) } else { Style::new() }
    }

    fn dim(self) -> Style {
        if self.colour { Style::new().fg(Color::DarkGray) } else { Style::new() }
    }

    fn health(self, health: Health) -> Style {
        let color = match health {
            Health::Ok => Color::Green,
            Health::Warn => Color::Yellow,
            Health::Fail => Color::Red,
        };
        self.paint(color).add_modifier(Modifier::BOLD)
    }

    fn heading(self) -> Style {
        self.dim().add_modifier(Modifier::BOLD)
    }

    /// Between things of one line.
    fn dot(self) -> &'static str {
        if self.ascii { " - " } else { " · " }
    }

    fn border(self) -> border::Set<'static> {
        const ASCII: border::Set<'static> = border::Set {
            top_left: "+",
            top_right: "+",
            bottom_left: "+",
            bottom_right: "+",
            vertical_left: "|",
            vertical_right: "|",
            horizontal_top: "-",
            horizontal_bottom: "-",
        };
        if self.ascii { ASCII } else { border::ROUNDED }
    }

    /// The steps of a sparkline; `flat` is what nothing looks like.
    fn bars(self, flat: bool) -> bar::Set<'static> {
        const ASCII: bar::Set<'static> = bar::Set {
            full: "#",
            seven_eighths: "#",
            three_quarters: "*",
            five_eighths: "+",
            half: "=",
            three_eighths: "-",
            one_quarter: ":",
            one_eighth: ".",
            empty: " ",
        };
        let set = if self.ascii { ASCII } else { bar::NINE_LEVELS };
        let empty = match (flat, self.ascii) {
            (false, _) => " ",
            (true, true) => "_",
            (true, false) => "·",
        };
        bar::Set { empty, ..set }
    }

    fn block(self, title: Line<'static>, focused: bool) -> Block<'static> {
        let style = if focused { self.paint(Color::Cyan) } else { self.dim() };
        Block::bordered().border_set(self.border()).border_style(style).title(title)
    }
}

/// Draws the whole screen.
pub(super) fn draw(frame: &mut Frame, model: &Model) {
    let area = frame.area();
    if area.width < 24 || area.height < 5 {
        frame.render_widget(Paragraph::new("too small"), area);
        return;
    }
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)])
            .areas(area);
    header(frame, head, model);
    footer(frame, foot, model);
    if model.data.is_none() {
        waiting(frame, body, model);
    } else if model.open.is_some() {
        detail::draw(frame, body, model);
    } else if area.width >= GRID.0 && area.height >= GRID.1 {
        grid(frame, body, model);
    } else {
        compact(frame, body, model);
    }
    overlay::draw(frame, area, model);
}

fn header(frame: &mut Frame, area: Rect, model: &Model) {
    let theme = model.theme;
    let ellipsis = if theme.ascii { "..." } else { "…" };
    let (health, sentence) = match (&model.data, &model.error) {
        (_, Some(why)) => (Some(Health::Fail), why.clone()),
        (None, None) => (None, format!("connecting{ellipsis}")),
        (Some(data), None) => {
            let (health, sentence) = state::overall(&data.stats);
            (Some(health), sentence)
        }
    };
    let mut right = Vec::new();
    if model.readonly {
        right.push(Span::styled("read only  ", theme.dim()));
    }
    if let Some(age) = model.data_age() {
        let stale = age > STALE_AFTER_SECONDS || model.error.is_some();
        let style = if stale { theme.health(Health::Fail) } else { theme.dim() };
        let data = if area.width < 60 { "" } else { "data " };
        right.push(Span::styled(format!("{data}{age}s old "), style));
    }
    let right = Line::from(right).right_aligned();
    let name = Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED);
    let name = if theme.colour { name.fg(Color::Cyan) } else { name };
    let mut left = vec![Span::styled(" esh3ar top ", name), Span::raw(" ")];
    let mut used = 13 + right.width();
    if let Some(health) = health {
        left.push(Span::styled(format!("{:<5}", health.text()), theme.health(health)));
        used += 5;
    }
    let room = usize::from(area.width).saturating_sub(used + 1);
    left.push(Span::raw(text::fit(&sentence, room, theme.ascii)));
    frame.render_widget(Line::from(left), area);
    frame.render_widget(right, area);
}

fn footer(frame: &mut Frame, area: Rect, model: &Model) {
    let theme = model.theme;
    let width = usize::from(area.width);
    if model.mode == Mode::Filter {
        let cursor = if theme.ascii { "_" } else { "▏" };
        let line = Line::from(vec![
            Span::styled(" /", theme.paint(Color::Cyan).add_modifier(Modifier::BOLD)),
            Span::raw(text::fit(&model.filter, width.saturating_sub(40), theme.ascii)),
            Span::raw(cursor),
            Span::styled("   enter keep  esc clear", theme.dim()),
        ]);
        frame.render_widget(line, area);
        return;
    }
    if let Some((notice, _)) = &model.notice {
        let notice = text::fit(notice, width.saturating_sub(2), theme.ascii);
        let style = theme.paint(Color::Yellow).add_modifier(Modifier::BOLD);
        frame.render_widget(Span::styled(format!(" {notice}"), style), area);
        return;
    }
    let keys: &[(&str, &str)] = match (&model.open, model.focus) {
        (Some(super::model::OpenDetail::Letter(..)), _) => &[
            ("esc", "back"),
            ("r", "requeue"),
            ("up down", "scroll"),
            ("n", "numbers"),
            ("?", "help"),
            ("q", "quit"),
        ],
        (Some(_), _) => &[
            ("esc", "back"),
            ("up down", "scroll"),
            ("n", "numbers"),
            ("?", "help"),
            ("q", "quit"),
        ],
        (None, Panel::Letters) => &[
            ("tab", "panel"),
            ("enter", "open"),
            ("r", "requeue"),
            ("/", "filter"),
            ("?", "help"),
            ("q", "quit"),
            ("A C T R", "sort"),
            ("n", "numbers"),
        ],
        (None, _) => &[
            ("tab", "panel"),
            ("enter", "open"),
            ("/", "filter"),
            ("?", "help"),
            ("q", "quit"),
            ("n", "numbers"),
        ],
    };
    let mut spans = vec![Span::raw(" ")];
    let mut used = 1;
    if !model.filter.is_empty() && model.open.is_none() {
        let filter = format!("/{}", text::fit(&model.filter, width / 3, theme.ascii));
        used += filter.chars().count() + 3;
        spans.push(Span::styled(filter, theme.paint(Color::Yellow).add_modifier(Modifier::BOLD)));
        spans.push(Span::raw("   "));
    }
    for (key, meaning) in keys {
        used += key.len() + meaning.len() + 4;
        if used > width {
            break;
        }
        spans.push(Span::styled(*key, theme.paint(Color::Cyan).add_modifier(Modifier::BOLD)));
        spans.push(Span::styled(format!(" {meaning}   "), theme.dim()));
    }
    frame.render_widget(Line::from(spans), area);
}

/// Before the first data.
fn waiting(frame: &mut Frame, area: Rect, model: &Model) {
    let text = match &model.error {
        Some(why) => {
            format!("{why}\n\nRetrying every two seconds. To diagnose, run: esh3ar doctor")
        }
        None => "Opening the database".to_owned(),
    };
    let height = area.height.min(4);
    let middle = Rect { y: area.y + (area.height - height) / 2, height, ..area };
    let text = Paragraph::new(text).centered().wrap(ratatui::widgets::Wrap { trim: true });
    frame.render_widget(text, middle);
}

fn grid(frame: &mut Frame, area: Rect, model: &Model) {
    // The lists get what is left; on a large screen the figures get more, too.
    let (flow, most) = match area.height {
        ..24 => (7, 7),
        24..34 => (8, 8),
        34..44 => (11, 10),
        _ => (14, 16),
    };
    let processes = u16::try_from(model.nodes().len()).unwrap_or(u16::MAX);
    let nodes = processes.saturating_add(3).clamp(7, most);
    let rows =
        Layout::vertical([Constraint::Length(flow), Constraint::Length(nodes), Constraint::Min(6)])
            .areas::<3>(area);
    let left = if area.width < 100 { 44 } else { area.width * 58 / 100 };
    let pairs = [
        (Panel::Flow, Panel::Lanes),
        (Panel::Nodes, Panel::Parts),
        (Panel::Letters, Panel::Recipients),
    ];
    for (row, (one, other)) in rows.into_iter().zip(pairs) {
        let [here, there] =
            Layout::horizontal([Constraint::Length(left), Constraint::Min(0)]).areas(row);
        panels::draw(frame, here, model, one);
        panels::draw(frame, there, model, other);
    }
}

/// One panel at a time, under a line of the figures that count.
fn compact(frame: &mut Frame, area: Rect, model: &Model) {
    let [line, panel] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    if let Some(data) = &model.data {
        let [accepted, delivered, _] = state::rates(&data.stats);
        let stats = &data.stats;
        let (second, between) =
            if line.width < 60 { ("", "  ") } else { ("/s", model.theme.dot()) };
        let full = [
            format!("in {}{second}", text::rate(accepted)),
            format!("out {}{second}", text::rate(delivered)),
            format!("wait {}", text::counted(stats.waiting.count, stats.waiting.at_least)),
            format!(
                "dead {}",
                text::counted(stats.dead_letters.count, stats.dead_letters.at_least)
            ),
        ]
        .join(between);
        let full = text::fit(&full, usize::from(line.width).saturating_sub(1), model.theme.ascii);
        frame.render_widget(Line::raw(format!(" {full}")), line);
    }
    panels::draw(frame, panel, model, model.focus);
}
