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

    /// Whether the client may be sent this now. A business user without the permission to chat is sent nothing
    /// of its conversations; its messages wait, and are read when it has the permission again.
    pub(super) fn may_be_sent(&self, outbound: &Outbound) -> bool {
        if self.caller.may_receive() {
            return true;
        }
        match outbound {
            Outbound::Own { delivery, .. } => delivery.message.position.is_none(),
            Outbound::ConversationChanged(_) | Outbound::Typing { .. } => false,
            // The feed holds it back.
            Outbound::Deliver(_)
            | Outbound::StatusChanged { .. }
            | Outbound::Acknowledged(_)
            | Outbound::Deleted { .. }
            | Outbound::Resync(_)
            | Outbound::Close { .. } => true,
        }
    }
}
