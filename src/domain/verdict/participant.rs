//! The verdict for the sender and the recipient of a message.
//!
//! It follows from the message alone: not from whether the number is registered, when the phone was connected,
//! or what happened to the installation.

use time::OffsetDateTime;

use super::{Message, MessageImport, Status, Verdict, imported, span};

impl Verdict {
    /// What a participant is told of a message.
    pub fn for_participant(message: &Message, import: Option<&MessageImport>) -> Verdict {
        if let Some(verdict) = import.and_then(|import| imported::ended_elsewhere(message, import))
        {
            return Verdict { next: None, ..verdict };
        }
        let mut verdict = match message.status {
            Status::Pending => {
                Verdict::new("pending", "It is accepted and durable, and waits for its recipient.")
            }
            Status::Sent => Verdict::new(
                "sent",
                "It was written to a connection of its recipient, and is not acknowledged yet.",
            ),
            Status::Delivered | Status::Read => arrived(message, import),
            Status::Failed => {
                let reason = message.failure_reason.as_deref().unwrap_or("no reason was kept");
                Verdict::new("failed", format!("It failed: {reason}."))
            }
        };
        if let Some(import) = import {
            verdict.sentence = format!("{} {}", import.text(), verdict.sentence);
        }
        verdict
    }
}

fn arrived(message: &Message, import: Option<&MessageImport>) -> Verdict {
    let read = if message.status == Status::Read { " and was opened" } else { "" };
    let begun = import.map_or("accepted", |_| "imported");
    let from = import.map_or(message.created_at, |import| import.at);
    let after = |at: OffsetDateTime| format!(" {} after it was {begun}", span(at - from));
    let after = message.delivered_at.map(after).unwrap_or_default();
    Verdict::new("delivered", format!("It was delivered{after}{read}."))
}
