//! What a recipient has still to get, and what one of its connections has.

use time::OffsetDateTime;

use super::DeliveryService;
use crate::app::{Caller, Error};
use crate::{
    domain::{
        Message, MessageId,
        feed::{FeedRead, MAX_REMEMBERED_IDS},
    },
    store::{
        StatementGroup,
        messages::{self, AcknowledgedFilter},
    },
};

impl DeliveryService {
    /// What the caller has not acknowledged, oldest first; nothing for a business user that may not chat.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn pending(&self, caller: &Caller, limit: usize) -> Result<Vec<Message>, Error> {
        if !caller.may_receive() {
            return Ok(Vec::new());
        }
        let reading = FeedRead { catch_up: true, ..FeedRead::default() };
        self.unsent(caller, &reading, OffsetDateTime::UNIX_EPOCH, limit).await
    }

    /// What a connection of the caller's is to be sent, oldest first; of what was acknowledged elsewhere,
    /// what was at this time or later.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn unsent(
        &self,
        caller: &Caller,
        reading: &FeedRead,
        since: OffsetDateTime,
        limit: usize,
    ) -> Result<Vec<Message>, Error> {
        let client =
            self.core.store().of(&caller.party()).client_for(StatementGroup::Pending).await?;
        let now = self.core.clock().now();
        let (window, catch_up) = (&reading.in_window, reading.catch_up);
        let acknowledged =
            reading.acknowledged.as_ref().map(|elsewhere| AcknowledgedFilter { elsewhere, since });
        let party = caller.party();
        let (found, unreadable) =
            messages::pending(&client, &party, window, catch_up, acknowledged, now, limit).await?;
        if !unreadable.is_empty() {
            self.state.receipts.note_unreadable(unreadable);
        }
        Ok(found)
    }

    /// What the caller has acknowledged of its latest messages, those from this id on.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn latest_acknowledged(
        &self,
        caller: &Caller,
        from: MessageId,
    ) -> Result<Vec<MessageId>, Error> {
        let client =
            self.core.store().of(&caller.party()).client_for(StatementGroup::Pending).await?;
        let party = caller.party();
        Ok(messages::latest_acknowledged(&client, &party, from, MAX_REMEMBERED_IDS).await?)
    }

    /// The same by page: what comes after a message.
    ///
    /// # Errors
    /// [`Error::WrongAudience`]; failures of the database.
    pub async fn pending_after(
        &self,
        caller: &Caller,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<Message>, Error> {
        let client =
            self.core.store().of(&caller.party()).client_for(StatementGroup::Pending).await?;
        let (found, unreadable) =
            messages::pending_after(&client, &caller.party(), after, limit).await?;
        if !unreadable.is_empty() {
            self.state.receipts.note_unreadable(unreadable);
        }
        Ok(found)
    }
}
