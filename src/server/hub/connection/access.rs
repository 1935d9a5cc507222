//! What the caller of a connection may do now: permissions change while it is open.

use super::Driver;
use crate::presence::{Outbound, Registration};

impl Driver {
    /// Takes over the permissions that the caller's user has now. Closes the connection when its hub no longer
    /// admits the caller.
    pub(super) fn refresh_access(&mut self) {
        let Some(now) = self.registration.as_ref().and_then(Registration::permissions) else {
            return;
        };
        if self.caller.set_permissions(now) && !self.service.admits(&self.caller) {
            let reason = Some("The permission to use this hub was withdrawn.");
            self.session.close(reason, false, &mut self.actions);
        }
    }

    /// Whether the client is not sent this now. A business user without the permission to chat is sent nothing
    /// of its conversations. Messages to it wait, and are read when it has the permission again; of the rest it
    /// is then told that it was missed.
    pub(super) fn withholds(&mut self, outbound: &Outbound) -> bool {
        if self.caller.may_receive() {
            return false;
        }
        let since = match outbound {
            Outbound::Own { delivery, .. } => {
                let Some(place) = delivery.message.position else { return false };
                if let Some(feed) = &mut self.feed {
                    feed.on_own_message(place);
                }
                delivery.message.created_at
            }
            Outbound::ConversationChanged(conversation) => conversation.last_at,
            Outbound::Typing { .. } => return true,
            // The feed holds it back.
            Outbound::Deliver(_)
            | Outbound::StatusChanged { .. }
            | Outbound::Acknowledged(_)
            | Outbound::Deleted { .. }
            | Outbound::Resync(_)
            | Outbound::Close { .. } => return false,
        };
        self.withheld_since = Some(self.withheld_since.map_or(since, |known| known.min(since)));
        true
    }

    /// What was withheld counts as missed when the client may be sent it again.
    pub(super) fn count_withheld(&mut self) {
        if self.caller.may_receive()
            && let Some(since) = self.withheld_since.take()
        {
            self.note_missed_since(since);
        }
    }
}
