//! Messages on which the apps of their recipients fail.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use time::OffsetDateTime;

use super::DeliveryService;
use crate::domain::{Message, MessageId, feed::Unacknowledged, poison};

/// Those that this process knows.
#[derive(Default)]
pub(in crate::app) struct PoisonMessages(Mutex<poison::PoisonDetector>);

impl PoisonMessages {
    fn lock(&self) -> MutexGuard<'_, poison::PoisonDetector> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeliveryService {
    /// How many of these, oldest first, may be sent together.
    pub fn sendable_together(&self, found: &[Message]) -> usize {
        self.state.poison.lock().sendable(found.iter().map(|message| message.id), Instant::now())
    }

    /// A client ended its connection with an error; `head` was the first that it had not acknowledged,
    /// written at this time. After a few of those the message is given up.
    pub fn record_client_failure(&self, head: &Unacknowledged, written_at: OffsetDateTime) {
        metrics::counter!("esh3ar_client_failures_total").increment(1);
        if self.state.poison.lock().failed(head, Instant::now()) {
            self.state.receipts.note_refused(vec![(head.attempt, written_at)]);
        }
    }

    /// Nothing can be made of these for a connection of their recipient: they are given up.
    pub fn record_unwritable(&self, ids: Vec<MessageId>) {
        self.state.receipts.note_unreadable(ids);
    }
}
