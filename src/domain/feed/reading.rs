//! What a feed reads from the database.

use std::time::Instant;

use super::{DeliveryAttempt, MAX_REMEMBERED_IDS, MessageId};

/// A read: oldest first, at most [`super::PAGE_SIZE`] messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedRead {
    /// Leave these out: written, and not stored as acknowledged.
    pub in_window: Vec<MessageId>,
    /// Include messages that wait for their retry.
    pub catch_up: bool,
    /// Include messages acknowledged since the connection opened; `None` for the first read of a connection,
    /// which asks first for the latest acknowledged ones ([`FeedRead::first`], [`super::Feed::on_opened`]).
    pub acknowledged: Option<AcknowledgedElsewhere>,
}

impl FeedRead {
    /// The first read of a connection, given the latest messages acknowledged before it: what is acknowledged
    /// elsewhere from then on is read, too, in its order.
    #[must_use]
    pub fn first(self, opened: MessageId, acknowledged: &[MessageId]) -> FeedRead {
        let latest =
            (acknowledged.len() >= MAX_REMEMBERED_IDS).then(|| acknowledged.iter().min()).flatten();
        let opened = latest.map_or(opened, |first| opened.max(first.next()));
        let Some(AcknowledgedElsewhere { from, mut sent }) = self.acknowledged else {
            let elsewhere = AcknowledgedElsewhere { from: opened, sent: acknowledged.to_vec() };
            return FeedRead { acknowledged: Some(elsewhere), ..self };
        };
        // From there on it was announced to this connection.
        sent.extend(acknowledged.iter().filter(|id| **id < from));
        FeedRead {
            acknowledged: Some(AcknowledgedElsewhere { from: from.min(opened), sent }),
            ..self
        }
    }
}

/// Which acknowledged messages to include.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcknowledgedElsewhere {
    /// From this id on.
    pub from: MessageId,
    /// Except these, which were sent.
    pub sent: Vec<MessageId>,
}

/// The oldest message awaiting an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unacknowledged {
    /// The message.
    pub attempt: DeliveryAttempt,
    /// When it was written.
    pub at: Instant,
    /// Whether it is the only one.
    pub is_alone: bool,
}
