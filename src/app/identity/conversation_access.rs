//! Who takes part in a conversation.

use super::IdentityService;
use crate::{
    app::{Caller, Error},
    domain::{Conversation, ConversationId, conversation::Side},
    store::conversations,
};

impl IdentityService {
    /// A conversation that the caller takes part in, and on which side.
    pub(in crate::app) async fn conversation_of(
        &self,
        caller: &Caller,
        id: ConversationId,
    ) -> Result<(Conversation, Side), Error> {
        let party = caller.chat_party()?;
        let found = conversations::get(&self.core.conversations_client(&party).await?, id).await?;
        let found = found.and_then(|conversation| {
            let side = conversation.side(&party)?;
            Some((conversation, side))
        });
        found.ok_or(Error::NotFound("conversation"))
    }
}
