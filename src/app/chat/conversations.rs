//! Chat: conversations, what is said in them, and what was read.

use super::{ChatService, writer};
use crate::{
    app::{Caller, Error, clock::new_id},
    domain::{
        Conversation, ConversationId, ConversationStatus, Message, MessageId, Party, Permission,
        Phone, UserId,
        conversation::{self, ConversationKeyset, Side},
        limits::RateClass,
        message::MessageDraft,
    },
    store::{
        ListPage, accounts,
        chat::{self, AppendResult, NewChat, ReadRange},
        conversations, messages,
    },
};

#[derive(Clone, Debug, Default)]
pub struct ChatRequest {
    pub draft: MessageDraft,
    /// The sender's own name for it, which makes a repeat harmless.
    pub client_message_id: Option<String>,
}

/// Which messages of a conversation are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Page {
    /// Only those before this `seq`, newest first.
    pub before: Option<i64>,
    /// Only those after this `seq`, oldest first.
    pub after: Option<i64>,
    pub limit: usize,
}

impl Page {
    /// Whether it is the newest messages, wherever they are.
    pub fn is_latest(&self) -> bool {
        self.before.is_none() && self.after.is_none()
    }
}

impl ChatService {
    /// The caller's conversation with the user of a phone number: a mobile user's, or, for a mobile
    /// user, that of a business user. Begins it if there is none. Whether it was begun now.
    ///
    /// # Errors
    /// Not permitted, no such user, no number; the caller has begun as many as it may.
    pub async fn open(&self, caller: &Caller, phone: &str) -> Result<(Conversation, bool), Error> {
        let party = caller.chat_party()?;
        let phone = self.identity.parse_phone("phone", phone)?;
        let client = self.core.conversations_client(&party).await?;
        let (business, phone) = match party {
            Party::Business(id) => (id, phone),
            Party::Mobile(own) => {
                let business = accounts::user_by_phone(&client, &phone).await?;
                (business.ok_or(Error::NotFound("business user"))?, own)
            }
        };
        if let Some(found) = conversations::of_pair(&client, business, &phone).await? {
            return Ok((found, false));
        }
        // Nobody waits for this connection while Redis is asked.
        drop(client);
        let (limiter, caller) = (self.limits.limiter(), caller.party());
        limiter.admit_one(RateClass::Conversations, &caller).await?;
        let opened = self.begin_conversation(&caller, business, &phone).await;
        if !matches!(opened, Ok((_, true))) {
            limiter.give_back_to(RateClass::Conversations, &caller, 1).await;
        }
        let (conversation, new) = opened?;
        metrics::counter!("esh3ar_conversations_opened_total").increment(new.into());
        if new {
            self.delivery.log_opened(&conversation);
        }
        Ok((conversation, new))
    }

    async fn begin_conversation(
        &self,
        caller: &Party,
        business: UserId,
        phone: &Phone,
    ) -> Result<(Conversation, bool), Error> {
        let client = self.core.conversations_client(caller).await?;
        let (id, now) = (ConversationId(new_id()), self.core.clock().now());
        Ok(conversations::open(&client, id, business, phone, now).await?)
    }

    /// The caller's conversations after a place in the list, those with the newest messages first, one more than
    /// `limit` if there are more. The first page is [`ChatService::first_page`].
    ///
    /// # Errors
    /// Not permitted; failures of the database.
    pub async fn list(
        &self,
        caller: &Caller,
        status: Option<ConversationStatus>,
        after: ConversationKeyset,
        limit: usize,
    ) -> Result<ListPage<Conversation>, Error> {
        let party = caller.chat_party()?;
        let party = &party;
        let list = |client| async move {
            conversations::list(&client, party, status, Some(after), limit + 1).await
        };
        Ok(self.core.store().of(party).read(list).await?)
    }

    /// One of the caller's conversations.
    ///
    /// # Errors
    /// Not permitted; [`Error::NotFound`] also for those of others.
    pub async fn get(&self, caller: &Caller, id: ConversationId) -> Result<Conversation, Error> {
        Ok(self.identity.conversation_of(caller, id).await?.0)
    }

    /// The caller's side of a conversation in which it may send a message, and the other party, as far as that
    /// is known before the message is stored. The id of a one-way message of the caller's is refused with the
    /// reason (property 12).
    ///
    /// # Errors
    /// Not permitted, [`Error::ReadOnly`], [`Error::NotFound`] also for those of others.
    pub async fn answerable(
        &self,
        caller: &Caller,
        id: ConversationId,
    ) -> Result<(Side, Party), Error> {
        let found = self.side_in(caller, id).await;
        if let Err(Error::NotFound(_)) = &found {
            let client = self.core.conversations_client(&caller.party()).await?;
            let message = messages::get(&client, MessageId(id.0)).await?;
            if message.is_some_and(|message| message.position.is_none() && caller.may_see(&message))
            {
                return Err(Error::ReadOnly);
            }
        }
        found
    }

    /// Whether this can be said at all: what is refused must not begin a conversation.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_message(request: &ChatRequest) -> Result<(), Error> {
        let name = request.client_message_id.as_deref();
        let broken = conversation::broken_rules(&request.draft, name);
        if broken.is_empty() { Ok(()) } else { Err(Error::Invalid(broken)) }
    }

    /// Judges a message by the content policy of the caller. Returns the rules that mark it.
    ///
    /// # Errors
    /// [`Error::ContentRefused`]; failures of the database.
    pub async fn check_content(
        &self,
        caller: &Caller,
        request: &ChatRequest,
    ) -> Result<Vec<String>, Error> {
        self.identity.judge_content(caller, &request.draft).await
    }

    /// Says something in a conversation. `said_by` is the connection that says it, 0 for none. The
    /// message, and whether it was stored now and not before.
    ///
    /// # Errors
    /// Not permitted, not found, closed, invalid, over a limit, overloaded, unavailable.
    pub async fn send(
        &self,
        caller: &Caller,
        id: ConversationId,
        request: ChatRequest,
        said_by: u64,
    ) -> Result<(Message, bool), Error> {
        let (side, recipient) = self.answerable(caller, id).await?;
        ChatService::check_message(&request)?;
        let flags = self.check_content(caller, &request).await?;
        let ChatRequest { draft, client_message_id } = request;
        let (priority, said) = (draft.priority, (draft.content.clone(), draft.content_type));
        self.limits.admit_message(caller, priority).await?;
        let new = NewChat {
            id: MessageId(new_id()),
            conversation: id,
            side,
            draft,
            client_message_id,
            created_at: self.core.clock().now(),
            flags,
        };
        let request = writer::Request::new(new, caller.party(), recipient, said_by);
        let appended = self.state.writer.write(request).await;
        if !matches!(appended, Ok(AppendResult::New(_))) {
            self.limits.limiter().give_back(&caller.party(), 1).await;
        }
        match appended? {
            AppendResult::New(message) => {
                self.identity.record_flagged(caller, std::slice::from_ref(&message)).await;
                Ok((message, true))
            }
            AppendResult::Before(message) => {
                let same_place = message.position.is_some_and(|place| place.conversation == id);
                // The old message is no answer to who says something else: that would be lost.
                if !same_place || (&message.content, message.content_type) != (&said.0, said.1) {
                    return Err(Error::ClientMessageIdReused);
                }
                Ok((message, false))
            }
            AppendResult::Deleted => {
                let text = "the message with this clientMessageId was deleted";
                Err(Error::Conflict(text.to_owned()))
            }
            AppendResult::Closed => Err(Error::Conflict("the conversation is closed".to_owned())),
            AppendResult::Nowhere => Err(Error::NotFound("conversation")),
        }
    }

    /// What was said in a conversation.
    ///
    /// # Errors
    /// Not permitted, not found.
    pub async fn history(
        &self,
        caller: &Caller,
        id: ConversationId,
        page: Page,
    ) -> Result<Vec<Message>, Error> {
        self.identity.conversation_of(caller, id).await?;
        let Page { before, after, limit } = page;
        let history =
            |client| async move { chat::history(&client, id, before, after, limit).await };
        Ok(self.core.store().of(&caller.party()).read(history).await?)
    }

    /// The caller has read a conversation, up to a `seq` or whole. Gives how many messages that
    /// changed, and the conversation as it is now.
    ///
    /// # Errors
    /// Not permitted, not found; the caller has said so of conversations without anything unread as often as it
    /// may.
    pub async fn mark_read(
        &self,
        caller: &Caller,
        id: ConversationId,
        up_to: Option<i64>,
    ) -> Result<(usize, Conversation), Error> {
        let (side, _) = self.side_in(caller, id).await?;
        let reading = ReadRange::UpTo(up_to.unwrap_or(i64::MAX));
        let party = caller.party();
        self.limits.count_receipt(&party)?;
        let changed = self.delivery.mark_conversation_read(caller, id, side, &reading).await;
        if !matches!(&changed, Ok(Some((read, _))) if read.is_empty()) {
            self.limits.refund_receipt(&party);
        }
        let (read, conversation) = changed?.ok_or(Error::NotFound("conversation"))?;
        Ok((read.len(), conversation))
    }

    /// Archives or closes a conversation, or makes it active again. Only its business user may.
    ///
    /// # Errors
    /// Not permitted, not found.
    pub async fn set_status(
        &self,
        caller: &Caller,
        id: ConversationId,
        status: ConversationStatus,
    ) -> Result<Conversation, Error> {
        caller.business(Permission::Chat)?;
        let (mut conversation, _) = self.identity.conversation_of(caller, id).await?;
        let client = self.core.conversations_client(&caller.party()).await?;
        let changed = conversations::set_status(&client, id, status).await?;
        drop(client);
        if changed {
            conversation.status = status;
            self.delivery.notify_conversation(conversation.clone());
        }
        Ok(conversation)
    }
}
