//! Messages that an administrator deletes, and the screens that show them.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::AdminService;
use crate::app::{By, Error};
use crate::{
    domain::{MessageId, audit::AuditAction, message::FieldError},
    presence::Outbound,
    store::{
        audit, conversations,
        deleted::{self, DeletedMessage},
    },
};

/// How far back gateways look for what was deleted: a transaction takes less, and so does a database that
/// is away for a moment. What was told is not told again.
const LOOK_BACK: Duration = Duration::from_secs(60);

/// What the connections of this process were told of.
#[derive(Default)]
pub(in crate::app) struct Deletions {
    told: Mutex<HashMap<MessageId, Instant>>,
}

impl Deletions {
    /// Those that were not told yet.
    fn untold(&self, found: Vec<DeletedMessage>) -> Vec<DeletedMessage> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, since| since.elapsed() < 2 * LOOK_BACK);
        found.into_iter().filter(|one| !told.contains_key(&one.id)).collect()
    }

    fn note(&self, id: MessageId) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.insert(id, Instant::now());
    }
}

impl AdminService {
    /// Deletes a message, which is recorded with who did it and why. Every screen that shows it hears of it
    /// within a second, wherever this is done.
    ///
    /// # Errors
    /// [`Error::Invalid`] without a reason, [`Error::NotFound`]; failures of the database.
    pub async fn delete_message(&self, by: &By, id: MessageId) -> Result<(), Error> {
        let (_, _, reason) = by.identity();
        let Some(reason) = reason else {
            let missing = FieldError::new("reason", "required", "say why it is deleted");
            return Err(Error::Invalid(vec![missing]));
        };
        let entry = self.core.entry(by, AuditAction::MessageDelete).of(id);
        let mut client = self.core.store().client().await?;
        let transaction = audit::begin(&mut client).await?;
        let told = format!("by {}: {reason}", by.told());
        let Some(deleted) = deleted::delete(&transaction, id, &told).await? else {
            drop(transaction);
            drop(client);
            return self.core.record_end(entry, Err(Error::NotFound("message"))).await;
        };
        audit::commit(transaction, &[entry.about(deleted.phones())]).await?;
        metrics::counter!("esh3ar_deleted_total").increment(1);
        Ok(())
    }

    /// Tells the connections of this process of the messages that were deleted, by whatever process, and
    /// shows them their conversations as they are now.
    ///
    /// # Errors
    /// Failures of the database; then the next look tells them.
    pub async fn notify_deleted(&self) -> Result<(), Error> {
        let client = self.core.store().client().await?;
        let found = deleted::recent(&client, LOOK_BACK.as_secs_f64()).await?;
        for DeletedMessage { id, position: place, sender, recipient, at } in
            self.state.deletions.untold(found)
        {
            // Before it is told: what fails here is told whole by the next look.
            let conversation = match place {
                Some(place) => conversations::get(&client, place.conversation).await?,
                None => None,
            };
            let deleted = Outbound::Deleted { id, place, at };
            let changed = conversation.map(|found| Outbound::ConversationChanged(found.into()));
            for party in [&sender, &recipient] {
                for outbound in std::iter::once(&deleted).chain(&changed) {
                    self.core.presence().local().send(party, outbound);
                }
            }
            // Here, because a command that deletes has no log of its own.
            tracing::info!(message_id = %id, "message deleted");
            self.state.deletions.note(id);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::{Party, Phone, UserId};

    #[test]
    fn a_deletion_is_told_once() {
        let one = |n: u128| DeletedMessage {
            id: MessageId(Uuid::from_u128(n)),
            position: None,
            sender: Party::Business(UserId(Uuid::from_u128(9))),
            recipient: Party::Mobile(Phone::from_stored("+967771234567")),
            at: time::OffsetDateTime::UNIX_EPOCH,
        };
        let deletions = Deletions::default();
        let untold = |all: &[u128]| {
            let found = deletions.untold(all.iter().copied().map(one).collect());
            found.iter().map(|one| one.id.0.as_u128()).collect::<Vec<_>>()
        };
        assert_eq!(untold(&[1, 2]), [1, 2]);
        deletions.note(MessageId(Uuid::from_u128(1)));
        assert_eq!(untold(&[1, 3, 2]), [3, 2], "what failed on the way is told the next time");
        deletions.note(MessageId(Uuid::from_u128(3)));
        assert_eq!(untold(&[3]), [0u128; 0]);
    }
}
