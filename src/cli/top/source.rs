//! Where the dashboard has its data from. It never waits for them: a task looks every two seconds and
//! tells what it found.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, mpsc};

use super::model::{Data, Msg, Story};
use crate::{
    app::{self, App, By, dead_letters::Action},
    domain::{DeadLetterId, MessageId, Phone},
    server::view::{self, stats::StatsView},
    store::dead_letters::Filter,
};

/// How often it is looked.
pub(super) const EVERY: Duration = Duration::from_secs(2);
/// How many dead letters are listed: the newest.
const LETTERS: usize = 500;

/// Who can be asked.
#[derive(Clone)]
pub(super) enum Source {
    /// The database of this machine's configuration, on behalf of whoever runs the command.
    Local(App, By),
}

/// What both the dashboard and what looks for it know.
#[derive(Default)]
pub(super) struct Wishes {
    /// Whether phone numbers are to be whole.
    pub(super) numbers: AtomicBool,
    /// Said when it is to be looked at once.
    pub(super) again: Notify,
}

/// A name that may be a phone number.
fn masked(name: &str) -> String {
    if name.starts_with('+') { Phone::from_stored(name).masked() } else { name.to_owned() }
}

impl Source {
    /// How the installation does. Whole numbers are recorded before they are shown: each once.
    async fn look(&self, numbers: bool, shown: &mut HashSet<Phone>) -> Result<Data, app::Error> {
        let Source::Local(app, by) = self;
        let snapshot = app.stats().await?;
        let mut letters = app.watch_dead_letters(LETTERS).await?;
        if numbers {
            let senders = letters.iter().filter(|letter| letter.from.starts_with('+'));
            let all: HashSet<Phone> = snapshot
                .phones()
                .chain(letters.iter().filter_map(|letter| letter.to.as_ref()))
                .cloned()
                .chain(senders.map(|letter| Phone::from_stored(&letter.from)))
                .collect();
            let new: Vec<Phone> = all.difference(shown).cloned().collect();
            if !new.is_empty() {
                app.record_numbers(by, &new).await?;
                shown.extend(new);
            }
        } else {
            for letter in &mut letters {
                let to = letter.to.take();
                letter.to = to.map(|phone| Phone::from_stored(&phone.masked()));
                letter.from = masked(&letter.from);
            }
        }
        Ok(Data { stats: StatsView::new(&snapshot, numbers), letters })
    }

    /// What became of a message.
    pub(super) async fn story(&self, id: MessageId) -> Result<Story, app::Error> {
        match self {
            Source::Local(app, by) => {
                let explained = app.explain_any(by, id).await?;
                let steps = view::timeline(&explained.message, &explained.story, true);
                Ok(Story { message: explained.message, steps, verdict: explained.verdict })
            }
        }
    }

    /// Puts a dead letter back; whether it was there.
    pub(super) async fn requeue(&self, id: DeadLetterId) -> Result<bool, app::Error> {
        match self {
            Source::Local(app, by) => {
                let filter = Filter { ids: vec![id], ..Filter::default() };
                let outcome =
                    app.change_dead_letters(Action::Requeue, by, &filter, 1, |_| ()).await?;
                if outcome.failed.is_empty() && !outcome.broke_off {
                    Ok(!outcome.changed.is_empty())
                } else {
                    Err(app::Error::Unavailable)
                }
            }
        }
    }

    /// Looks for ever, at once when it is asked to.
    pub(super) async fn watch(self, told: mpsc::Sender<Msg>, wishes: Arc<Wishes>) {
        let mut shown = HashSet::new();
        loop {
            let numbers = wishes.numbers.load(Ordering::Acquire);
            let found = self.look(numbers, &mut shown).await.map_err(|error| error.to_string());
            if told.send(Msg::Looked(found.map(Box::new))).await.is_err() {
                return;
            }
            let _ = tokio::time::timeout(EVERY, wishes.again.notified()).await;
        }
    }
}
