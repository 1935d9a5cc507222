//! Where the dashboard has its data from. It never waits for them: a task looks every two seconds and
//! tells what it found.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Notify, mpsc};

use super::model::{Data, Msg, Story};
use crate::{
    app::{self, App, dead_letters::Action},
    domain::{DeadLetterId, MessageId},
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
    /// The database of this machine's configuration.
    Local(App),
}

impl Source {
    /// How the installation does, phone numbers whole.
    pub(super) async fn look(&self) -> Result<Data, app::Error> {
        match self {
            Source::Local(app) => {
                let stats = StatsView::new(&app.stats().await?, true);
                let letters = app.dead_letters(&Filter::default(), LETTERS).await?;
                Ok(Data { stats, letters })
            }
        }
    }

    /// What became of a message.
    pub(super) async fn story(&self, id: MessageId) -> Result<Story, app::Error> {
        match self {
            Source::Local(app) => {
                let explained = app.explain_any(id).await?;
                let steps = view::timeline(&explained.message, &explained.events);
                Ok(Story { message: explained.message, steps, verdict: explained.verdict })
            }
        }
    }

    /// Puts a dead letter back; whether it was there.
    pub(super) async fn requeue(&self, id: DeadLetterId) -> Result<bool, app::Error> {
        match self {
            Source::Local(app) => {
                let filter = Filter { ids: vec![id], ..Filter::default() };
                let outcome = app
                    .change_dead_letters(Action::Requeue, &filter, "esh3ar top", 1, |_| ())
                    .await?;
                if outcome.failed.is_empty() && !outcome.broke_off {
                    Ok(!outcome.changed.is_empty())
                } else {
                    Err(app::Error::Unavailable)
                }
            }
        }
    }

    /// Looks for ever, at once when it is asked to.
    pub(super) async fn watch(self, told: mpsc::Sender<Msg>, again: Arc<Notify>) {
        loop {
            let found = self.look().await.map_err(|error| error.to_string());
            if told.send(Msg::Looked(found.map(Box::new))).await.is_err() {
                return;
            }
            let _ = tokio::time::timeout(EVERY, again.notified()).await;
        }
    }
}
