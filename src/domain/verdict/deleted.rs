//! The verdict on a message deleted by an administrator, whatever its status was.

use super::{MessageEvent, MessageFacts, Verdict, span};

impl MessageFacts {
    pub(super) fn deleted(&self) -> Option<Verdict> {
        let MessageEvent { at, detail, .. } = self.last("deleted")?;
        let after = span(*at - self.message.created_at);
        let status = self.message.status.name();
        let sentence = format!(
            "It was deleted {detail}. That was {after} after it was accepted, when it was {status}; it is not \
             shown to anyone any more."
        );
        Some(Verdict::new("deleted", sentence))
    }
}
