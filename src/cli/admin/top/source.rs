//! Reads the data of the dashboard from the admin API, in a task of its own that polls every two seconds: the
//! screen never waits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

use super::model::{DashboardData, Msg};
use crate::{
    cli::{
        admin::{audit_reason::AuditReason, query::Query, transport::AdminTransport},
        io::{
            answer::{read, unreadable},
            exit::{ExitStatus, Failure},
        },
    },
    domain::{DeadLetterClass, DeadLetterId, MessageId, Phone},
    server::view::{DeadLetterView, ExplanationView, bulk::ChangedView},
    store::dead_letters::DeadLetter,
};

/// Between two refreshes.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// The newest ones.
const MAX_DEAD_LETTERS: usize = 500;

/// The admin API, and the reason for the audit log.
#[derive(Clone)]
pub(super) struct StatsSource {
    pub(super) transport: AdminTransport,
    pub(super) why: Arc<AuditReason>,
}

/// What the dashboard tells the polling task.
#[derive(Default)]
pub(super) struct PollRequests {
    /// Whether to request full phone numbers.
    pub(super) numbers: AtomicBool,
    /// Requests an immediate refresh.
    pub(super) refresh: Notify,
}

impl StatsSource {
    /// The statistics as the API returns them. Full phone numbers are recorded in the audit log first.
    pub(super) async fn stats(&self, numbers: bool) -> Result<Value, Failure> {
        self.transport.get(&self.why, &format!("/stats{}", watching(numbers))).await
    }

    async fn look(&self, numbers: bool) -> Result<DashboardData, Failure> {
        let stats = read(&self.stats(numbers).await?)?;
        let query = watching(numbers);
        let (letters, _) =
            self.transport.list(&self.why, "/dead-letters", &query, MAX_DEAD_LETTERS).await?;
        let letters = letters.iter().map(|value| letter(&read(value)?).ok_or_else(unreadable));
        Ok(DashboardData { stats, letters: letters.collect::<Result<_, _>>()? })
    }

    /// The explanation of a message.
    pub(super) async fn story(&self, id: MessageId) -> Result<ExplanationView, Failure> {
        read(&self.transport.get(&self.why, &format!("/messages/{id}/explain")).await?)
    }

    /// Requeues a dead letter; returns whether it was there.
    pub(super) async fn requeue(&self, id: DeadLetterId) -> Result<bool, Failure> {
        let body = json!({ "ids": [id.0] });
        let done =
            self.transport.request(&self.why, "POST", "/dead-letters/requeue", Some(&body)).await?;
        let ChangedView { failed, requeued, .. } = read(&done)?;
        if !failed.is_empty() {
            return Err(Failure::new(ExitStatus::Unavailable, "the database cannot be reached"));
        }
        Ok(requeued == Some(1))
    }

    /// Polls until the dashboard ends.
    pub(super) async fn watch(self, told: mpsc::Sender<Msg>, requests: Arc<PollRequests>) {
        loop {
            let numbers = requests.numbers.load(Ordering::Acquire);
            let found = self.look(numbers).await.map_err(|failure| failure.what);
            if told.send(Msg::Refreshed(found.map(Box::new))).await.is_err() {
                return;
            }
            let _ = tokio::time::timeout(POLL_INTERVAL, requests.refresh.notified()).await;
        }
    }
}

fn watching(numbers: bool) -> Query {
    Query::default().with("numbers", numbers).with("watch", true)
}

/// `None` for one of a class that this esh3ar does not know.
fn letter(view: &DeadLetterView<'_>) -> Option<DeadLetter> {
    Some(DeadLetter {
        id: DeadLetterId(view.id),
        message: view.message_id.map(MessageId),
        generation: view.generation,
        kind: view.kind.to_owned(),
        class: DeadLetterClass::parse(view.class)?,
        reason: view.reason.to_owned(),
        attempts: view.attempts,
        first_error_at: view.first_error_at,
        last_error_at: view.last_error_at,
        from: view.from.to_owned(),
        to: view.to.map(Phone::from_stored),
        subject: view.subject.map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::model::tests::letter, read};
    use crate::server::view::DeadLetterView;

    #[test]
    fn a_dead_letter_is_read_as_it_was_told() {
        let told = letter(3, "+967*******67", "no answer");
        let value = serde_json::to_value(DeadLetterView::from(&told)).unwrap();
        let back = super::letter(&read(&value).unwrap()).unwrap();
        assert_eq!(format!("{back:?}"), format!("{told:?}"));
    }
}
