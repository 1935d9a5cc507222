//! The windows over everything else: the help, and the question before a change.

use ratatui::{
    Frame,
    layout::Rect,
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Clear, Paragraph, Wrap},
};

use super::super::{
    model::{Mode, Model, OpenDetail},
    rows,
    state::Health,
};
use crate::store::dead_letters::DeadLetter;

pub(super) fn draw(frame: &mut Frame, area: Rect, model: &Model) {
    match &model.mode {
        Mode::Browse | Mode::Filter => {}
        Mode::Help => {
            let lines = help(model);
            window(frame, area, model, "Help", lines, 66);
        }
        Mode::Confirm(id) => {
            let opened = match &model.open {
                Some(OpenDetail::Letter(letter, _)) => Some(&**letter),
                _ => None,
            };
            let letters = model.letters();
            let letter = opened.or_else(|| letters.into_iter().find(|letter| letter.id == *id));
            let lines = question(model, &id.to_string(), letter);
            window(frame, area, model, "Requeue this dead letter?", lines, 66);
        }
    }
}

fn window(
    frame: &mut Frame,
    area: Rect,
    model: &Model,
    title: &str,
    lines: Vec<Line<'static>>,
    width: u16,
) {
    let width = width.min(area.width);
    let inside = usize::from(width.saturating_sub(4)).max(1);
    // Lines are parted between words, so one more may be needed than their letters fill.
    let rows = lines.iter().map(|line| match line.width() {
        width if width <= inside => 1,
        width => width.div_ceil(inside - inside / 8),
    });
    let rows: usize = rows.sum();
    let height = u16::try_from(rows + 2).unwrap_or(u16::MAX).min(area.height);
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    let title = Line::styled(format!(" {title} "), Style::new().add_modifier(Modifier::BOLD));
    let block = model.theme.block(title, true);
    let inner = block.inner(place);
    let inner = Rect { x: inner.x + 1, width: inner.width.saturating_sub(2), ..inner };
    frame.render_widget(Clear, place);
    frame.render_widget(block, place);
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), inner);
}

fn question(model: &Model, id: &str, letter: Option<&DeadLetter>) -> Vec<Line<'static>> {
    let theme = model.theme;
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut lines = Vec::new();
    if let Some(letter) = letter {
        let to = letter.to.as_ref().map_or_else(
            || format!("a {}", letter.kind),
            |to| format!("to {} from {}", model.number(to.as_str()), model.number(&letter.from)),
        );
        lines.push(Line::raw(format!("{to}: {}", letter.reason)));
    }
    lines.push(Line::from(vec![
        Span::styled("$ ", theme.dim()),
        Span::styled(format!("esh3ar dlq requeue {id}"), bold),
    ]));
    lines.push(Line::default());
    lines.push(Line::from(vec![
        Span::raw("Press "),
        Span::styled("y", theme.health(Health::Warn)),
        Span::raw(" to requeue it; any other key cancels."),
    ]));
    lines
}

fn help(model: &Model) -> Vec<Line<'static>> {
    let key = model.theme.paint(Color::Cyan).add_modifier(Modifier::BOLD);
    let line = |keys: &str, meaning: &str| {
        Line::from(vec![Span::styled(format!("{keys:<14} "), key), Span::raw(meaning.to_owned())])
    };
    let sorts = rows::keys(model.focus)
        .iter()
        .map(|(letter, name)| format!("{letter} {}", name.to_lowercase()))
        .collect::<Vec<_>>()
        .join(", ");
    let mut lines = vec![
        line("tab, arrows", "next panel, row up and down; also h j k l"),
        line("enter", "open a dead letter, message, process or panel"),
        line("esc", "back; in the panels: clear the filter"),
        line("/", "filter by number, name, reason or id"),
        line("r", "requeue the selected dead letter; asks first"),
        line("n", "show full or masked phone numbers"),
    ];
    if !sorts.is_empty() {
        lines.push(line("shift-letter", &format!("sort: {sorts}")));
        lines.push(line("", "again: reverse; a third time: unsorted"));
    }
    lines.extend([
        line("q, ctrl-c", "quit"),
        Line::default(),
        Line::raw(
            "In flight: on the way to a device, or due. All other waiting messages are for recipients who \
             are offline. 20,000+: counting stopped there.",
        ),
        Line::default(),
        Line::styled("Any key closes this.", model.theme.dim()),
    ]);
    lines
}
