//! Conversations as an administrator sees them: everybody's.

use super::AdminService;
use crate::app::{By, Error, audit_log::Listing};
use crate::{
    domain::{
        Conversation, ConversationId, ConversationStatus, Message, Status, audit::AuditAction,
    },
    store::{
        audit, chat,
        conversations::{self, ConversationFilter},
    },
};

/// A conversation as its administrator looks at it.
pub struct Overview {
    pub conversation: Conversation,
    /// How many of its messages are in each status that some are in.
    pub counts: Vec<(Status, i64)>,
    /// Its last messages, oldest first.
    pub last: Vec<Message>,
}

impl AdminService {
    /// Everybody's conversations, those with the newest messages first.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn list_conversations(
        &self,
        by: &By,
        filter: &ConversationFilter,
        limit: usize,
    ) -> Result<Listing<Conversation>, Error> {
        let list =
            |client| async move { conversations::list_all(&client, filter, limit + 1).await };
        let found = self.core.store().of(by.party().as_ref()).read(list).await?;
        let found = Listing::of_slice(found, limit);
        let entry = self
            .core
            .entry(by, AuditAction::ConversationList)
            .about(found.items.iter().map(|conversation| &conversation.phone).chain(&filter.phone))
            .with_some("status", filter.status.map(ConversationStatus::name))
            .with_some("user", filter.business.map(|id| id.to_string()))
            .with("shown", found.items.len());
        self.core.record(entry).await?;
        Ok(found)
    }

    /// Anybody's conversation, with its counts and its `last` messages.
    ///
    /// # Errors
    /// [`Error::NotFound`]; failures of the database.
    pub async fn show_conversation(
        &self,
        by: &By,
        id: ConversationId,
        last: usize,
    ) -> Result<Overview, Error> {
        let found = async {
            let client = self.core.store().of(by.party().as_ref()).client().await?;
            let found = conversations::get(&client, id).await?;
            let conversation = found.ok_or(Error::NotFound("conversation"))?;
            let counts = conversations::count_messages(&client, id).await?;
            let mut last = chat::history(&client, id, None, None, last).await?;
            last.reverse();
            Ok(Overview { conversation, counts, last })
        }
        .await;
        let phone = found.iter().map(|overview| &overview.conversation.phone);
        let shown = found.iter().map(|overview| overview.last.len()).sum::<usize>();
        let entry = self.core.entry(by, AuditAction::ConversationShow).of(id).about(phone);
        self.core.record_end(entry.with("messages", shown), found).await
    }

    /// A page of anybody's conversation: the messages after a `seq`, oldest first.
    ///
    /// # Errors
    /// [`Error::NotFound`]; failures of the database.
    pub async fn show_history(
        &self,
        by: &By,
        id: ConversationId,
        after: i64,
        limit: usize,
    ) -> Result<Vec<Message>, Error> {
        let found = async {
            let client = self.core.store().of(by.party().as_ref()).client().await?;
            let found = conversations::get(&client, id).await?;
            let conversation = found.ok_or(Error::NotFound("conversation"))?;
            let page = chat::history(&client, id, None, Some(after), limit).await?;
            Ok((conversation, page))
        }
        .await;
        let phone = found.iter().map(|(conversation, _)| &conversation.phone);
        let shown = found.iter().map(|(_, page)| page.len()).sum::<usize>();
        let entry = self
            .core
            .entry(by, AuditAction::ConversationHistory)
            .of(id)
            .about(phone)
            .with("afterSeq", usize::try_from(after).unwrap_or_default())
            .with("shown", shown);
        Ok(self.core.record_end(entry, found).await?.1)
    }

    /// Archives or closes anybody's conversation, or makes it active again.
    ///
    /// # Errors
    /// [`Error::NotFound`]; failures of the database.
    pub async fn set_conversation_status(
        &self,
        by: &By,
        id: ConversationId,
        status: ConversationStatus,
    ) -> Result<Conversation, Error> {
        let action = match status {
            ConversationStatus::Active => AuditAction::ConversationActivate,
            ConversationStatus::Archived => AuditAction::ConversationArchive,
            ConversationStatus::Closed => AuditAction::ConversationClose,
        };
        let entry = self.core.entry(by, action).of(id);
        let mut client = self.core.store().client().await?;
        let transaction = audit::begin(&mut client).await?;
        let changed = conversations::set_status(&transaction, id, status).await?;
        let Some(conversation) = conversations::get(&transaction, id).await? else {
            drop(transaction);
            drop(client);
            return self.core.record_end(entry, Err(Error::NotFound("conversation"))).await;
        };
        let entry = entry.about([&conversation.phone]).with("changed", changed);
        audit::commit(transaction, &[entry]).await?;
        if changed {
            self.delivery.notify_conversation(conversation.clone());
        }
        Ok(conversation)
    }
}
