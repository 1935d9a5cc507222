//! Verdicts on imported messages: the previous system's data is reported as such.

use time::OffsetDateTime;

use super::{Message, MessageFacts, Status, Verdict, clock};

/// Prefix of failure reasons from the previous system, which has no dead letters.
pub const FAILED_BEFORE: &str = "failed in the previous system";

/// An import of messages.
#[derive(Clone, Debug)]
pub struct MessageImport {
    /// When it began.
    pub at: OffsetDateTime,
    /// Who ran it.
    pub by: String,
    /// The file name.
    pub file: String,
}

impl MessageImport {
    /// The time, for everybody who may see the message; who ran it and the file are for administrators.
    pub(super) fn text(&self) -> String {
        format!("It was imported at {}.", clock(self.at))
    }
}

impl MessageFacts {
    /// The verdict on a message that was finished before the import.
    pub(super) fn ended_elsewhere(&self) -> Option<Verdict> {
        ended_elsewhere(&self.message, self.import.as_ref()?)
    }

    /// Since when the message is here, and how it came.
    pub(super) fn beginning(&self) -> (OffsetDateTime, &'static str) {
        match &self.import {
            Some(import) => (import.at, "imported"),
            None => (self.message.created_at, "accepted"),
        }
    }
}

/// The verdict on a message that was finished before the import.
pub(super) fn ended_elsewhere(message: &Message, import: &MessageImport) -> Option<Verdict> {
    let before = |at: Option<OffsetDateTime>| at.is_some_and(|at| at <= import.at);
    let text = import.text();
    match message.status {
        Status::Delivered | Status::Read if before(message.delivered_at) => {
            let delivered = message.delivered_at.map_or_else(String::new, clock);
            let opened = message.read_at.map_or_else(String::new, |at| {
                let here = if before(Some(at)) { "there" } else { "here" };
                format!(" and was opened {here} at {}", clock(at))
            });
            let sentence = format!(
                "{text} It was delivered by the previous system at {delivered}{opened}; nothing is \
                 left to do here."
            );
            Some(Verdict::new("imported_delivered", sentence))
        }
        Status::Failed => {
            let reason = message.failure_reason.as_deref()?;
            if !reason.starts_with(FAILED_BEFORE) {
                return None;
            }
            let sentence =
                format!("{text} It had {reason}. It was never tried here and has no dead letter.");
            let verdict = Verdict::new("imported_failed", sentence);
            Some(verdict.next("send it again, as a new message"))
        }
        _ => None,
    }
}
