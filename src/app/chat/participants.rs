//! Who takes part in which conversation: that never changes, so it is read once.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use super::ChatService;
use crate::app::{Caller, Error};
use crate::domain::{
    BoundedMap, Conversation, ConversationId, Party, Phone, UserId, WhenFull, conversation::Side,
};

/// How many conversations are remembered.
const MAX_CONVERSATIONS: usize = 65_536;

/// Conversations that were looked up lately. One that has gone meanwhile is found to be gone by the
/// statement that would write to it.
pub(in crate::app) struct Participants {
    known: Mutex<BoundedMap<ConversationId, (UserId, Phone)>>,
}

impl Default for Participants {
    fn default() -> Self {
        let known = BoundedMap::new(MAX_CONVERSATIONS, WhenFull::DropOldest);
        Participants { known: Mutex::new(known) }
    }
}

impl Participants {
    fn get(&self, id: ConversationId) -> Option<(UserId, Phone)> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&id, Instant::now()).cloned()
    }

    fn put(&self, conversation: &Conversation) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let participants = (conversation.business, conversation.phone.clone());
        known.insert(conversation.id, participants, None, Instant::now());
    }
}

impl ChatService {
    /// On which side of a conversation the caller is, and who is on the other, for what is about to be
    /// written to it.
    ///
    /// # Errors
    /// Not permitted, [`Error::NotFound`] also for those of others.
    pub(in crate::app) async fn side_in(
        &self,
        caller: &Caller,
        id: ConversationId,
    ) -> Result<(Side, Party), Error> {
        let party = caller.chat_party()?;
        if let Some((business, phone)) = self.state.participants.get(id) {
            let side = Conversation::side_of(business, &phone, &party);
            let side = side.ok_or(Error::NotFound("conversation"))?;
            let other = match side {
                Side::Business => Party::Mobile(phone),
                Side::Mobile => Party::Business(business),
            };
            return Ok((side, other));
        }
        let (conversation, side) = self.identity.conversation_of(caller, id).await?;
        self.state.participants.put(&conversation);
        Ok((side, conversation.party(side.other())))
    }
}
