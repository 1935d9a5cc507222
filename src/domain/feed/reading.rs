//! What a connection asks the database for.

use std::time::Instant;

use super::{DeliveryAttempt, MAX_REMEMBERED_IDS, MessageId};

/// What a read is to bring, oldest first and at most [`super::PAGE_SIZE`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedRead {
    /// Leave these out: they are written and not stored as acknowledged.
    pub in_window: Vec<MessageId>,
    /// Also what waits for the time of its retry.
    pub catch_up: bool,
    /// Also what was acknowledged since the connection came; `None` for the first read of a connection.
    /// That asks first what was acknowledged last ([`FeedRead::first`], [`super::Feed::on_opened`]).
    pub acknowledged: Option<AcknowledgedElsewhere>,
}

impl FeedRead {
    /// The first read of a connection, when `acknowledged` are the latest that were acknowledged before it:
    /// what is acknowledged elsewhere from then on is read too, in its place.
    #[must_use]
    pub fn first(self, opened: MessageId, acknowledged: &[MessageId]) -> FeedRead {
        let latest =
            (acknowledged.len() >= MAX_REMEMBERED_IDS).then(|| acknowledged.iter().min()).flatten();
        let opened = latest.map_or(opened, |first| opened.max(first.next()));
        let Some(AcknowledgedElsewhere { from, mut sent }) = self.acknowledged else {
            let elsewhere = AcknowledgedElsewhere { from: opened, sent: acknowledged.to_vec() };
            return FeedRead { acknowledged: Some(elsewhere), ..self };
        };
        // From there on it is this connection's, as it was told before.
        sent.extend(acknowledged.iter().filter(|id| **id < from));
        FeedRead {
            acknowledged: Some(AcknowledgedElsewhere { from: from.min(opened), sent }),
            ..self
        }
    }
}

/// Which of the acknowledged messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcknowledgedElsewhere {
    /// From this id on.
    pub from: MessageId,
    /// But not these, which were sent.
    pub sent: Vec<MessageId>,
}

/// The first message that waits for the client's acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unacknowledged {
    /// The message.
    pub attempt: DeliveryAttempt,
    /// When it was written.
    pub at: Instant,
    /// Nothing else waits.
    pub is_alone: bool,
}
