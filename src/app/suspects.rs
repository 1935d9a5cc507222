//! Messages on which the apps of their recipients fail.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use time::OffsetDateTime;

use super::App;
use crate::domain::{Message, MessageId, feed::Unacknowledged, poison};

/// Those that this process knows.
#[derive(Default)]
pub(super) struct KnownSuspects(Mutex<poison::PoisonDetector>);

impl KnownSuspects {
    fn lock(&self) -> MutexGuard<'_, poison::PoisonDetector> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl App {
    /// How many of these, oldest first, may be sent together.
    pub fn sent_together(&self, found: &[Message]) -> usize {
        self.inner.suspects.lock().sendable(found.iter().map(|message| message.id), Instant::now())
    }

    /// A client ended its connection with an error; `head` was the first that it had not acknowledged,
    /// written at this time. After a few of those the message is given up.
    pub fn note_failed_on(&self, head: &Unacknowledged, written_at: OffsetDateTime) {
        metrics::counter!("esh3ar_client_failures_total").increment(1);
        if self.inner.suspects.lock().failed(head, Instant::now()) {
            self.inner.ledger.note_refused(vec![(head.attempt, written_at)]);
        }
    }

    /// Nothing can be made of these for a connection of their recipient: they are given up.
    pub fn note_unwritable(&self, ids: Vec<MessageId>) {
        self.inner.ledger.note_unreadable(ids);
    }
}
