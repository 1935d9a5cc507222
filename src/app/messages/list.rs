//! Messages as their sender, their recipient or an administrator sees them.

use super::MessageService;
use crate::{
    app::{By, Caller, Error, audit_log::Listing, delivery::receipts::ReceiptKind},
    domain::{Message, MessageId, Party, Status, audit::AuditAction, message::MessageKind},
    store::{
        messages::{self, MessageFilter},
        timeline::{self, MessageTimeline},
    },
};

impl MessageService {
    /// One message that the caller may see.
    ///
    /// # Errors
    /// [`Error::NotFound`] also for a message that exists and is none of the caller's business.
    pub async fn get(&self, caller: &Caller, id: MessageId) -> Result<Message, Error> {
        let message =
            messages::get(&self.core.store().of(&caller.party()).client().await?, id).await?;
        message.filter(|message| caller.may_see(message)).ok_or(Error::NotFound("message"))
    }

    /// The caller's messages, newest first: those a business user sent, those a phone is to get. A business user
    /// that may not chat sees one-way messages only.
    ///
    /// # Errors
    /// [`Error::Forbidden`] for chat messages; failures of the database.
    pub async fn list(
        &self,
        caller: &Caller,
        mut filter: MessageFilter,
        limit: usize,
    ) -> Result<Listing<Message>, Error> {
        let party = caller.party();
        if !caller.may_receive() {
            if filter.kind == Some(MessageKind::Chat) {
                caller.chat_party()?;
            }
            filter.kind = Some(MessageKind::OneWay);
        }
        match &party {
            Party::Business(id) => filter.sender = Some(*id),
            Party::Mobile(phone) => filter.recipient = Some(phone.clone()),
        }
        self.listed(Some(&party), &filter, limit).await
    }

    /// How many messages the caller has sent, counted up to `most`.
    ///
    /// # Errors
    /// Not a business user; failures of the database.
    pub async fn count(&self, caller: &Caller, most: i64) -> Result<i64, Error> {
        let Party::Business(id) = caller.party() else {
            return Err(Error::WrongAudience("business"));
        };
        let count = |client| async move { messages::count_of_sender(&client, id, most).await };
        Ok(self.core.store().of(&caller.party()).read(count).await?)
    }

    /// Messages for an administrator on the server: everybody's.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn list_all(
        &self,
        by: &By,
        filter: &MessageFilter,
        limit: usize,
    ) -> Result<Listing<Message>, Error> {
        let found = self.listed(by.party().as_ref(), filter, limit).await?;
        let entry = self
            .core
            .entry(by, AuditAction::MessageList)
            .about(found.items.iter().flat_map(Message::phones).chain(&filter.recipient))
            .with_some("status", filter.status.map(Status::name))
            .with_some("from", filter.sender.map(|id| id.to_string()))
            .with("shown", found.items.len());
        self.core.record(entry).await?;
        Ok(found)
    }

    async fn listed(
        &self,
        party: Option<&Party>,
        filter: &MessageFilter,
        limit: usize,
    ) -> Result<Listing<Message>, Error> {
        // One more, to know whether the list goes on.
        let list = |client| async move { messages::list(&client, filter, limit + 1).await };
        let found = self.core.store().of(party).read(list).await?;
        found.map(|found| Listing::of_slice(found, limit)).ok_or_else(|| {
            Error::Conflict(
                "the message from which the list goes on was removed, and its id does not tell the time: \
                 give the time as until instead"
                    .to_owned(),
            )
        })
    }

    /// One message and its story, for an administrator on the server.
    ///
    /// # Errors
    /// [`Error::NotFound`]; failures of the database.
    pub async fn show(&self, by: &By, id: MessageId) -> Result<(Message, MessageTimeline), Error> {
        let found = async {
            let client = self.core.store().of(by.party().as_ref()).client().await?;
            let message = messages::get_any(&client, id).await?;
            let message = message.ok_or(Error::NotFound("message"))?;
            Ok((message, timeline::of(&client, id).await?))
        }
        .await;
        let phones = found.iter().flat_map(|(message, _)| message.phones());
        let entry = self.core.entry(by, AuditAction::MessageShow).of(id).about(phones);
        self.core.record_end(entry, found).await
    }

    /// Takes a receipt for one message that must be the caller's, and returns it as it is then.
    ///
    /// # Errors
    /// As [`DeliveryService::acknowledge`](crate::app::delivery::DeliveryService::acknowledge), and
    /// [`Error::NotFound`].
    pub async fn acknowledge(
        &self,
        caller: &Caller,
        kind: ReceiptKind,
        id: MessageId,
    ) -> Result<Message, Error> {
        caller.mobile()?;
        let message = self.get(caller, id).await?;
        self.delivery.acknowledge(caller, kind, vec![(id, None)]).await?;
        self.get(caller, message.id).await
    }
}
