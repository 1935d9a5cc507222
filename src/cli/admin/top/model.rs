//! The state of the dashboard, and how messages change it: no terminal, no clock, no database.

#[cfg(test)]
pub(super) mod tests;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use time::OffsetDateTime;

use super::{
    panel::Panel,
    rows::{self, Sort},
};
use crate::{
    domain::{DeadLetterId, MessageId, Phone},
    server::view::{
        ExplanationView,
        stats::{NodeView, SlowView, StatsView},
    },
    store::dead_letters::DeadLetter,
};

/// The last refresh; phone numbers are masked unless they were requested.
#[derive(Clone, Debug)]
pub(super) struct DashboardData {
    pub(super) stats: StatsView,
    /// Newest first.
    pub(super) letters: Vec<DeadLetter>,
}

/// What is opened over the panels.
#[derive(Debug)]
pub(super) enum OpenDetail {
    /// One panel on the whole screen.
    Panel(Panel),
    /// A process, by its id.
    Node(String),
    /// A dead letter, with the explanation of its message once that has arrived.
    Letter(Box<DeadLetter>, Option<Result<ExplanationView, String>>),
    /// A message, likewise.
    Message(MessageId, Option<Result<ExplanationView, String>>),
}

/// Decides the meaning of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Browse,
    /// Typing the filter.
    Filter,
    Help,
    /// Whether to requeue this dead letter.
    Confirm(DeadLetterId),
}

#[derive(Debug)]
pub(super) enum Msg {
    Key(KeyEvent),
    Tick(OffsetDateTime),
    Refreshed(Result<Box<DashboardData>, String>),
    Explained(MessageId, Box<Result<ExplanationView, String>>),
    /// Whether a dead letter was requeued, or why the request failed.
    Requeued(DeadLetterId, Result<bool, String>),
}

/// What an event causes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Quit,
    /// Refresh immediately.
    Refresh,
    Explain(MessageId),
    Requeue(DeadLetterId),
}

/// The selected row of a panel; it stays selected when others come and go.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    pub(super) index: usize,
    id: Option<String>,
}

/// What the terminal can show.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Theme {
    pub(super) colour: bool,
    pub(super) ascii: bool,
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) theme: Theme,
    pub(super) readonly: bool,
    /// Whether full phone numbers are shown.
    pub(super) numbers: bool,
    pub(super) now: OffsetDateTime,
    pub(super) data: Option<DashboardData>,
    /// Why the last refresh failed.
    pub(super) error: Option<String>,
    pub(super) focus: Panel,
    selections: [Selection; 6],
    pub(super) sorts: [Sort; 6],
    pub(super) filter: String,
    pub(super) mode: Mode,
    pub(super) open: Option<OpenDetail>,
    /// The scroll position of the detail.
    pub(super) scroll: u16,
    /// A notice, and since when it is shown.
    pub(super) notice: Option<(String, OffsetDateTime)>,
}

/// How long a notice is shown.
const NOTICE_DURATION: time::Duration = time::Duration::seconds(8);
const MAX_FILTER_LEN: usize = 60;

impl Model {
    pub(super) fn new(theme: Theme, readonly: bool, numbers: bool, now: OffsetDateTime) -> Model {
        Model {
            theme,
            readonly,
            numbers,
            now,
            data: None,
            error: None,
            focus: Panel::Letters,
            selections: Default::default(),
            sorts: Default::default(),
            filter: String::new(),
            mode: Mode::Browse,
            open: None,
            scroll: 0,
            notice: None,
        }
    }

    pub(super) fn update(&mut self, msg: Msg) -> Option<Effect> {
        match msg {
            Msg::Key(key) => return self.key(key),
            Msg::Tick(now) => {
                self.now = now;
                if self.notice.as_ref().is_some_and(|(_, since)| now - *since > NOTICE_DURATION) {
                    self.notice = None;
                }
            }
            Msg::Refreshed(Ok(data)) => {
                if let Some(OpenDetail::Letter(open, _)) = &mut self.open
                    && let Some(same) = data.letters.iter().find(|letter| letter.id == open.id)
                {
                    **open = same.clone();
                }
                self.data = Some(*data);
                self.error = None;
                self.restore_selections();
            }
            Msg::Refreshed(Err(why)) => self.error = Some(why),
            Msg::Explained(id, told) => match &mut self.open {
                Some(OpenDetail::Letter(letter, story)) if letter.message == Some(id) => {
                    *story = Some(*told);
                }
                Some(OpenDetail::Message(open, story)) if *open == id => *story = Some(*told),
                // Closed meanwhile.
                _ => {}
            },
            Msg::Requeued(id, Ok(true)) => {
                self.say(format!("requeued {id}: its message is delivered again"));
                if matches!(&self.open, Some(OpenDetail::Letter(letter, _)) if letter.id == id) {
                    self.open = None;
                }
                return Some(Effect::Refresh);
            }
            Msg::Requeued(id, Ok(false)) => {
                self.say(format!("{id} was not requeued: it was requeued before, or cannot be"));
                return Some(Effect::Refresh);
            }
            Msg::Requeued(id, Err(why)) => self.say(format!("{id} was not requeued: {why}")),
        }
        None
    }

    fn say(&mut self, text: String) {
        self.notice = Some((text, self.now));
    }

    fn key(&mut self, key: KeyEvent) -> Option<Effect> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Some(Effect::Quit),
                KeyCode::Char('u') if self.mode == Mode::Filter => {
                    self.filter.clear();
                    self.restore_selections();
                    None
                }
                _ => None,
            };
        }
        match self.mode.clone() {
            Mode::Help => {
                self.mode = Mode::Browse;
                None
            }
            Mode::Confirm(id) => {
                self.mode = Mode::Browse;
                if key.code == KeyCode::Char('y') {
                    return Some(Effect::Requeue(id));
                }
                self.say("cancelled".to_owned());
                None
            }
            Mode::Filter => {
                match key.code {
                    KeyCode::Enter => self.mode = Mode::Browse,
                    KeyCode::Esc => {
                        self.filter.clear();
                        self.mode = Mode::Browse;
                    }
                    KeyCode::Backspace => {
                        self.filter.pop();
                    }
                    KeyCode::Char(c) if self.filter.chars().count() < MAX_FILTER_LEN => {
                        self.filter.push(c);
                    }
                    _ => {}
                }
                self.restore_selections();
                None
            }
            Mode::Browse => self.browse(key.code),
        }
    }

    fn browse(&mut self, code: KeyCode) -> Option<Effect> {
        match code {
            KeyCode::Char('q') => return Some(Effect::Quit),
            KeyCode::Char('?') => self.mode = Mode::Help,
            KeyCode::Char('n') => {
                self.numbers = !self.numbers;
                return Some(Effect::Refresh);
            }
            KeyCode::Char('r') => self.ask(),
            KeyCode::Esc if self.open.is_some() => self.open = None,
            KeyCode::Esc => {
                self.filter.clear();
                self.restore_selections();
            }
            KeyCode::Up | KeyCode::Char('k') => self.move_by(-1),
            KeyCode::Down | KeyCode::Char('j') => self.move_by(1),
            KeyCode::PageUp => self.move_by(-10),
            KeyCode::PageDown => self.move_by(10),
            KeyCode::Home | KeyCode::Char('g') => self.move_by(isize::MIN),
            KeyCode::End | KeyCode::Char('G') if self.open.is_none() => self.move_by(isize::MAX),
            // The other keys are for the panels.
            _ if self.open.is_some() => {}
            KeyCode::Tab | KeyCode::Right | KeyCode::Char('l') => self.focus = self.focus.step(1),
            KeyCode::BackTab | KeyCode::Left | KeyCode::Char('h') => {
                self.focus = self.focus.step(Panel::ALL.len() - 1);
            }
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Enter => return self.enter(),
            KeyCode::Char(letter) => {
                self.sorts[self.focus as usize].press(self.focus, letter);
                self.restore_selections();
            }
            _ => {}
        }
        None
    }

    /// Asks whether to requeue the dead letter that is open or selected.
    fn ask(&mut self) {
        let chosen = match &self.open {
            Some(OpenDetail::Letter(letter, _)) => Some(letter.id),
            None if self.focus == Panel::Letters => self.chosen_letter().map(|letter| letter.id),
            _ => None,
        };
        match chosen {
            Some(_) if self.readonly => self.say("read only: started with --readonly".to_owned()),
            Some(id) => self.mode = Mode::Confirm(id),
            None => self.say("r requeues a dead letter: select one first".to_owned()),
        }
    }

    fn enter(&mut self) -> Option<Effect> {
        self.scroll = 0;
        match self.focus {
            Panel::Letters => {
                let letter = self.chosen_letter()?.clone();
                let message = letter.message;
                self.open = Some(OpenDetail::Letter(Box::new(letter), None));
                message.map(Effect::Explain)
            }
            Panel::Recipients => {
                let slow = self.recipients();
                let slow = slow.get(self.selection(Panel::Recipients).index)?;
                let id = MessageId(slow.oldest_message_id);
                self.open = Some(OpenDetail::Message(id, None));
                Some(Effect::Explain(id))
            }
            Panel::Nodes => {
                let id = self.nodes().get(self.selection(Panel::Nodes).index)?.id.clone();
                self.open = Some(OpenDetail::Node(id));
                None
            }
            panel => {
                self.open = Some(OpenDetail::Panel(panel));
                None
            }
        }
    }

    fn move_by(&mut self, by: isize) {
        if self.open.is_some() {
            let by = i32::try_from(by.clamp(-10_000, 10_000)).unwrap_or_default();
            self.scroll = u16::try_from((i32::from(self.scroll) + by).max(0)).unwrap_or(u16::MAX);
            return;
        }
        let ids = self.ids(self.focus);
        let last = ids.len().saturating_sub(1);
        let cursor = &mut self.selections[self.focus as usize];
        cursor.index = cursor.index.saturating_add_signed(by).min(last);
        cursor.id = ids.get(cursor.index).cloned();
    }

    /// Keeps each selection on its row, or the nearest one.
    fn restore_selections(&mut self) {
        for panel in Panel::ALL {
            let ids = self.ids(panel);
            let cursor = &mut self.selections[panel as usize];
            let place = cursor.id.as_ref().and_then(|id| ids.iter().position(|other| other == id));
            cursor.index = place.unwrap_or(cursor.index.min(ids.len().saturating_sub(1)));
            // Never moved: it stays at the top.
            if cursor.id.is_some() {
                cursor.id = ids.get(cursor.index).cloned();
            }
        }
    }

    fn ids(&self, panel: Panel) -> Vec<String> {
        match panel {
            Panel::Letters => self.letters().iter().map(|letter| letter.id.to_string()).collect(),
            Panel::Recipients => self.recipients().iter().map(|s| s.recipient.clone()).collect(),
            Panel::Nodes => self.nodes().iter().map(|node| node.id.clone()).collect(),
            Panel::Flow | Panel::Lanes | Panel::Parts => Vec::new(),
        }
    }

    pub(super) fn selection(&self, panel: Panel) -> &Selection {
        &self.selections[panel as usize]
    }

    /// Dead letters, filtered and sorted.
    pub(super) fn letters(&self) -> Vec<&DeadLetter> {
        let all = self.data.iter().flat_map(|data| &data.letters);
        rows::letters(all, &self.filter, &self.sorts[Panel::Letters as usize])
    }

    pub(super) fn chosen_letter(&self) -> Option<&DeadLetter> {
        self.letters().get(self.selection(Panel::Letters).index).copied()
    }

    pub(super) fn recipients(&self) -> Vec<&SlowView> {
        let all = self.data.iter().flat_map(|data| &data.stats.slowest);
        rows::recipients(all, &self.filter, &self.sorts[Panel::Recipients as usize])
    }

    pub(super) fn nodes(&self) -> Vec<&NodeView> {
        let all = self.data.iter().flat_map(|data| &data.stats.nodes);
        rows::nodes(all, &self.filter, &self.sorts[Panel::Nodes as usize])
    }

    /// A phone number, masked or not; other text is unchanged.
    pub(super) fn number(&self, text: &str) -> String {
        if self.numbers || !text.starts_with('+') {
            text.to_owned()
        } else {
            Phone::from_stored(text).masked()
        }
    }

    /// The age of the data, in seconds.
    pub(super) fn data_age(&self) -> Option<i64> {
        self.data.as_ref().map(|data| (self.now - data.stats.at).whole_seconds().max(0))
    }
}
