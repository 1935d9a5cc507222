//! Who takes part in which conversation: that never changes, so it is read once.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::{App, Caller, Error};
use crate::domain::{Conversation, ConversationId, Party, Phone, UserId, conversation::Side};

/// How many conversations are remembered.
const REMEMBERED: usize = 65_536;

/// Conversations that were looked up lately. One that has gone meanwhile is found to be gone by the
/// statement that would write to it.
#[derive(Default)]
pub(super) struct Participants {
    known: Mutex<HashMap<ConversationId, (UserId, Phone)>>,
}

impl Participants {
    fn get(&self, id: ConversationId) -> Option<(UserId, Phone)> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn put(&self, conversation: &Conversation) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(conversation.id, (conversation.business, conversation.phone.clone()));
    }
}

impl App {
    /// On which side of a conversation the caller is, and who is on the other, for what is about to be
    /// written to it.
    ///
    /// # Errors
    /// Not permitted, [`Error::NotFound`] also for those of others.
    pub(super) async fn side_in(
        &self,
        caller: &Caller,
        id: ConversationId,
    ) -> Result<(Side, Party), Error> {
        let party = App::talker(caller)?;
        if let Some((business, phone)) = self.inner.participants.get(id) {
            let side = Conversation::side_of(business, &phone, &party);
            let side = side.ok_or(Error::NotFound("conversation"))?;
            let other = match side {
                Side::Business => Party::Mobile(phone),
                Side::Mobile => Party::Business(business),
            };
            return Ok((side, other));
        }
        let (conversation, side) = self.taking_part(caller, id).await?;
        self.inner.participants.put(&conversation);
        Ok((side, conversation.party(side.other())))
    }
}
