//! Conversations as an administrator on the server sees them: everybody's.

use super::{App, Error};
use crate::{
    domain::{Conversation, ConversationId, ConversationStatus, Message, Status},
    store::{
        chat,
        conversations::{self, Filter},
    },
};

impl App {
    /// Everybody's conversations, those with the newest messages first.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn all_conversations(
        &self,
        filter: &Filter,
        limit: usize,
    ) -> Result<Vec<Conversation>, Error> {
        Ok(conversations::list_all(&self.store().client().await?, filter, limit).await?)
    }

    /// Anybody's conversation.
    ///
    /// # Errors
    /// [`Error::NotFound`]; failures of the database.
    pub async fn any_conversation(&self, id: ConversationId) -> Result<Conversation, Error> {
        let found = conversations::get(&self.store().client().await?, id).await?;
        found.ok_or(Error::NotFound("conversation"))
    }

    /// How many of its messages are in each status.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn count_of_conversation(
        &self,
        id: ConversationId,
    ) -> Result<Vec<(Status, i64)>, Error> {
        Ok(conversations::count_messages(&self.store().client().await?, id).await?)
    }

    /// Its messages: the newest, or with `after` those after a `seq`, oldest first.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn any_history(
        &self,
        id: ConversationId,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<Message>, Error> {
        Ok(chat::history(&self.store().client().await?, id, None, after, limit).await?)
    }

    /// Archives or closes anybody's conversation, or makes it active again.
    ///
    /// # Errors
    /// [`Error::NotFound`]; failures of the database.
    pub async fn put_conversation(
        &self,
        id: ConversationId,
        status: ConversationStatus,
    ) -> Result<Conversation, Error> {
        let client = self.store().client().await?;
        let changed = conversations::set_status(&client, id, status).await?;
        let found = conversations::get(&client, id).await?;
        let conversation = found.ok_or(Error::NotFound("conversation"))?;
        if changed {
            self.tell_conversation(conversation.clone());
        }
        Ok(conversation)
    }
}
