//! The life of a message in the log: a search for its id finds each step. What goes well is told of a share of
//! the messages (`log.sample`), of each of them whole; what does not is told of all. No line has a phone
//! number.

use std::collections::HashSet;

use tracing::Level;

use super::DeliveryService;
use crate::{
    domain::{Conversation, Message, MessageId, Party, Status},
    store::message_status::{Changed, Missed},
};

/// A business user's id; a phone is only told to be one.
fn party(party: &Party) -> String {
    match party {
        Party::Business(id) => id.to_string(),
        Party::Mobile(_) => "phone".to_owned(),
    }
}

impl DeliveryService {
    /// These are durable and answered with success.
    pub(in crate::app) fn log_accepted<'a>(&self, messages: impl IntoIterator<Item = &'a Message>) {
        if !tracing::enabled!(Level::INFO) {
            return;
        }
        let sample = self.core.runtime_settings().log_sample;
        for message in messages.into_iter().filter(|message| sample.takes(message.id)) {
            let place = message.position;
            tracing::info!(
                message_id = %message.id,
                kind = message.kind().name(),
                priority = message.priority.name(),
                from = party(&message.sender),
                to = party(&message.recipient),
                conversation = place.map(|place| tracing::field::display(place.conversation)),
                seq = place.map(|place| place.seq),
                "message accepted"
            );
        }
    }

    /// This is what has become of these.
    pub(in crate::app) fn log_changed(&self, changed: &[Changed]) {
        if !tracing::enabled!(Level::INFO) {
            return;
        }
        let sample = self.core.runtime_settings().log_sample;
        for change in changed.iter().filter(|change| sample.takes(change.id)) {
            let after_ms = (change.at - change.created_at).whole_milliseconds();
            let after_ms = i64::try_from(after_ms).unwrap_or(i64::MAX);
            let message_id = change.id;
            match change.status {
                Status::Delivered => tracing::info!(%message_id, after_ms, "message delivered"),
                Status::Read => tracing::info!(%message_id, after_ms, "message read"),
                // Failures are told for themselves, and that it was sent says little.
                Status::Sent => tracing::debug!(%message_id, after_ms, "message sent"),
                Status::Pending | Status::Failed => {}
            }
        }
    }

    /// Those of these that were counted are tried again.
    pub(in crate::app) fn log_retried(&self, missed: &[Missed], counted: &[MessageId], most: u16) {
        let counted: HashSet<&MessageId> = counted.iter().collect();
        for missed in missed.iter().filter(|missed| counted.contains(&missed.attempt.id)) {
            let after_ms = (missed.next_attempt_at - missed.at).whole_milliseconds();
            let (retry, message_id) = (missed.retry_count, missed.attempt.id);
            tracing::warn!(
                %message_id,
                retry,
                of = most,
                after_ms = i64::try_from(after_ms).unwrap_or(i64::MAX),
                "message not acknowledged in time: retry {retry} of {most}"
            );
        }
    }

    pub(in crate::app) fn log_given_up(ids: impl IntoIterator<Item = MessageId>, reason: &str) {
        for message_id in ids {
            tracing::error!(%message_id, reason, "message given up");
        }
    }

    /// An administrator put these back.
    pub(in crate::app) fn log_requeued(ids: impl IntoIterator<Item = MessageId>) {
        for message_id in ids {
            tracing::info!(%message_id, "message requeued");
        }
    }

    pub(in crate::app) fn log_opened(&self, conversation: &Conversation) {
        if self.core.runtime_settings().log_sample.takes(MessageId(conversation.id.0)) {
            tracing::info!(
                conversation = %conversation.id,
                business_user = %conversation.business,
                "conversation opened"
            );
        }
    }
}
