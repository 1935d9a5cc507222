//! Chat messages that were read, and what both sides of a conversation are shown of it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use uuid::Uuid;

use super::DeliveryService;
use crate::{
    app::{Caller, Error},
    domain::{Conversation, ConversationId, Message, MessageId, conversation::Side},
    presence::{Delivery, Outbound},
    store::chat::{self, ReadRange},
};

impl DeliveryService {
    /// Marks messages of a conversation as read by one side, and tells both sides. `None` without such a
    /// conversation.
    ///
    /// # Errors
    /// Failures of the database.
    pub(in crate::app) async fn mark_conversation_read(
        &self,
        caller: &Caller,
        id: ConversationId,
        side: Side,
        reading: &ReadRange,
    ) -> Result<Option<(Vec<MessageId>, Conversation)>, Error> {
        let mut all = Vec::new();
        loop {
            let mut client = self.core.conversations_client(&caller.party()).await?;
            let now = self.core.clock().now();
            let Some(read) = chat::mark_read(&mut client, id, side, reading, now).await? else {
                return Ok(None);
            };
            drop(client);
            if !read.changed.is_empty() {
                let ids: Vec<MessageId> = read.changed.iter().map(|change| change.id).collect();
                let party = read.conversation.party(side);
                self.core.presence().send(&party, &Outbound::Acknowledged(ids.as_slice().into()));
                self.notify_senders(&read.changed);
                self.notify_conversation(read.conversation.clone());
                all.extend(ids);
            }
            if !read.more {
                return Ok(Some((all, read.conversation)));
            }
        }
    }

    /// The caller has opened these messages, of any kind: those of conversations are marked here, which moves
    /// their counts. Returns what that changed, and the ids of the one-way messages.
    ///
    /// # Errors
    /// Failures of the database.
    pub(super) async fn mark_chat_read(
        &self,
        caller: &Caller,
        ids: &[MessageId],
    ) -> Result<(Vec<MessageId>, Vec<MessageId>), Error> {
        let places = {
            let client = self.core.conversations_client(&caller.party()).await?;
            chat::positions(&client, ids).await?
        };
        let mut changed = Vec::new();
        let mut of: BTreeMap<Uuid, Vec<i64>> = Default::default();
        for (_, place) in &places {
            of.entry(place.conversation.0).or_default().push(place.seq);
        }
        for (conversation, seqs) in of {
            let id = ConversationId(conversation);
            let Ok((_, side)) = self.identity.conversation_of(caller, id).await else { continue };
            if let Some((read, _)) =
                self.mark_conversation_read(caller, id, side, &ReadRange::Those(seqs)).await?
            {
                changed.extend(read);
            }
        }
        let chat: HashSet<MessageId> = places.iter().map(|(id, _)| *id).collect();
        Ok((changed, ids.iter().copied().filter(|id| !chat.contains(id)).collect()))
    }

    /// Shows messages to their senders' other connections.
    pub(in crate::app) fn notify_own_connections(&self, accepted: &[(Message, u64)]) {
        for (message, said_by) in accepted {
            let delivery = Delivery::new(message.clone());
            self.core
                .presence()
                .send(&message.sender, &Outbound::Own { delivery, sender_connection: *said_by });
        }
    }

    /// Shows both sides what has become of their conversation.
    pub(in crate::app) fn notify_conversation(&self, conversation: Conversation) {
        let told = Arc::new(conversation);
        for side in [Side::Business, Side::Mobile] {
            let changed = Outbound::ConversationChanged(Arc::clone(&told));
            self.core.presence().send(&told.party(side), &changed);
        }
    }
}
