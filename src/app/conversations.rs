//! Chat: conversations, what is said in them, and what was read.

use std::sync::Arc;

use uuid::Uuid;

use super::{App, Caller, Error, chat_intake, clock::new_id, ledger::Said};
use crate::{
    domain::{
        Conversation, ConversationId, ConversationStatus, Message, MessageId, Party, Permission,
        Phone, UserId,
        conversation::{self, Cursor, Side},
        limits::RateClass,
        message::Draft,
    },
    presence::{Delivery, Outbound},
    store::{
        Client, Group, Slice, accounts,
        chat::{self, Appended, NewChat, Reading},
        conversations, messages,
    },
};

/// What somebody says.
#[derive(Clone, Debug, Default)]
pub struct ChatRequest {
    /// What.
    pub draft: Draft,
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
    /// How many.
    pub limit: usize,
}

impl Page {
    /// Whether it is the newest messages, wherever they are.
    pub fn is_latest(&self) -> bool {
        self.before.is_none() && self.after.is_none()
    }
}

impl App {
    /// A connection for what a party does with its conversations.
    pub(super) async fn conversations_client(&self, party: &Party) -> Result<Client, Error> {
        Ok(self.store().of(party).client_for(Group::Conversations).await?)
    }

    /// Whether the caller may talk at all.
    pub(super) fn talker(caller: &Caller) -> Result<Party, Error> {
        if let Party::Business(_) = caller.party() {
            caller.business(Permission::Chat)?;
        }
        Ok(caller.party())
    }

    /// A conversation that the caller takes part in, and on which side.
    pub(super) async fn taking_part(
        &self,
        caller: &Caller,
        id: ConversationId,
    ) -> Result<(Conversation, Side), Error> {
        let party = App::talker(caller)?;
        let found = conversations::get(&self.conversations_client(&party).await?, id).await?;
        let found = found.and_then(|conversation| {
            let side = conversation.side(&party)?;
            Some((conversation, side))
        });
        found.ok_or(Error::NotFound("conversation"))
    }

    /// The caller's conversation with the user of a phone number: a mobile user's, or, for a mobile
    /// user, that of a business user. Begins it if there is none. Whether it was begun now.
    ///
    /// # Errors
    /// Not permitted, no such user, no number; the caller has begun as many as it may.
    pub async fn open_conversation(
        &self,
        caller: &Caller,
        phone: &str,
    ) -> Result<(Conversation, bool), Error> {
        let party = App::talker(caller)?;
        let phone = self.parse_phone("phone", phone)?;
        let client = self.conversations_client(&party).await?;
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
        let (limiter, caller) = (&self.inner.limiter, caller.party());
        limiter.admit_one(RateClass::Conversations, &caller).await?;
        let opened = self.begin_conversation(&caller, business, &phone).await;
        if !matches!(opened, Ok((_, true))) {
            limiter.give_back_to(RateClass::Conversations, &caller, 1).await;
        }
        let (conversation, new) = opened?;
        metrics::counter!("esh3ar_conversations_opened_total").increment(new.into());
        if new {
            self.log_opened(&conversation);
        }
        Ok((conversation, new))
    }

    async fn begin_conversation(
        &self,
        caller: &Party,
        business: UserId,
        phone: &Phone,
    ) -> Result<(Conversation, bool), Error> {
        let client = self.conversations_client(caller).await?;
        let (id, now) = (ConversationId(new_id()), self.clock().now());
        Ok(conversations::open(&client, id, business, phone, now).await?)
    }

    /// The caller's conversations after a place in the list, those with the newest messages first, one more than
    /// `limit` if there are more. The first page is [`App::newest_conversations`].
    ///
    /// # Errors
    /// Not permitted; failures of the database.
    pub async fn conversations(
        &self,
        caller: &Caller,
        status: Option<ConversationStatus>,
        after: Cursor,
        limit: usize,
    ) -> Result<Slice<Conversation>, Error> {
        let party = App::talker(caller)?;
        let party = &party;
        let list = |client| async move {
            conversations::list(&client, party, status, Some(after), limit + 1).await
        };
        Ok(self.store().of(party).read(list).await?)
    }

    /// One of the caller's conversations.
    ///
    /// # Errors
    /// Not permitted; [`Error::NotFound`] also for those of others.
    pub async fn conversation(
        &self,
        caller: &Caller,
        id: ConversationId,
    ) -> Result<Conversation, Error> {
        Ok(self.taking_part(caller, id).await?.0)
    }

    /// The caller's side of a conversation in which it may say something, as far as can be told before it
    /// is said, and who is on the other. What
    /// names a one-way message of the caller's instead is refused with the reason (property 12).
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
            let client = self.conversations_client(&caller.party()).await?;
            let message = messages::get(&client, MessageId(id.0)).await?;
            if message.is_some_and(|message| message.place.is_none() && caller.may_see(&message)) {
                return Err(Error::ReadOnly);
            }
        }
        found
    }

    /// Whether this can be said at all: what is refused must not begin a conversation.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_said(request: &ChatRequest) -> Result<(), Error> {
        let name = request.client_message_id.as_deref();
        let broken = conversation::broken_rules(&request.draft, name);
        if broken.is_empty() { Ok(()) } else { Err(Error::Invalid(broken)) }
    }

    /// Says something in a conversation. `said_by` is the connection that says it, 0 for none. The
    /// message, and whether it was stored now and not before.
    ///
    /// # Errors
    /// Not permitted, not found, closed, invalid, over a limit, overloaded, unavailable.
    pub async fn say_in(
        &self,
        caller: &Caller,
        id: ConversationId,
        request: ChatRequest,
        said_by: u64,
    ) -> Result<(Message, bool), Error> {
        let (side, recipient) = self.answerable(caller, id).await?;
        App::check_said(&request)?;
        let ChatRequest { draft, client_message_id } = request;
        let (priority, said) = (draft.priority, (draft.content.clone(), draft.content_type));
        self.admit(caller, priority).await?;
        let new = NewChat {
            id: MessageId(new_id()),
            conversation: id,
            side,
            draft,
            client_message_id,
            created_at: self.clock().now(),
        };
        let request = chat_intake::Request::new(new, caller.party(), recipient, said_by);
        let appended = self.inner.chat_intake.write(request).await;
        if !matches!(appended, Ok(Appended::New(_))) {
            self.inner.limiter.give_back(&caller.party(), 1).await;
        }
        match appended? {
            Appended::New(message) => Ok((message, true)),
            Appended::Before(message) => {
                let same_place = message.place.is_some_and(|place| place.conversation == id);
                // The old message is no answer to who says something else: that would be lost.
                if !same_place || (&message.content, message.content_type) != (&said.0, said.1) {
                    return Err(Error::ClientMessageIdReused);
                }
                Ok((message, false))
            }
            Appended::Deleted => {
                let text = "the message with this clientMessageId was deleted";
                Err(Error::Conflict(text.to_owned()))
            }
            Appended::Closed => Err(Error::Conflict("the conversation is closed".to_owned())),
            Appended::Nowhere => Err(Error::NotFound("conversation")),
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
        self.taking_part(caller, id).await?;
        let Page { before, after, limit } = page;
        let history =
            |client| async move { chat::history(&client, id, before, after, limit).await };
        Ok(self.store().of(&caller.party()).read(history).await?)
    }

    /// The caller has read a conversation, up to a `seq` or whole. Gives how many messages that
    /// changed, and the conversation as it is now.
    ///
    /// # Errors
    /// Not permitted, not found; the caller has said so of conversations without anything unread as often as it
    /// may.
    pub async fn read_conversation(
        &self,
        caller: &Caller,
        id: ConversationId,
        up_to: Option<i64>,
    ) -> Result<(usize, Conversation), Error> {
        let (side, _) = self.side_in(caller, id).await?;
        let reading = Reading::UpTo(up_to.unwrap_or(i64::MAX));
        let party = caller.party();
        self.count_receipt(&party)?;
        let changed = self.mark_read(caller, id, side, &reading).await;
        if !matches!(&changed, Ok(Some((read, _))) if read.is_empty()) {
            self.discount_receipt(&party);
        }
        let (read, conversation) = changed?.ok_or(Error::NotFound("conversation"))?;
        Ok((read.len(), conversation))
    }

    async fn mark_read(
        &self,
        caller: &Caller,
        id: ConversationId,
        side: Side,
        reading: &Reading,
    ) -> Result<Option<(Vec<MessageId>, Conversation)>, Error> {
        let mut all = Vec::new();
        loop {
            let mut client = self.conversations_client(&caller.party()).await?;
            let now = self.clock().now();
            let Some(read) = chat::mark_read(&mut client, id, side, reading, now).await? else {
                return Ok(None);
            };
            drop(client);
            if !read.changed.is_empty() {
                let ids: Vec<MessageId> = read.changed.iter().map(|change| change.id).collect();
                let party = read.conversation.party(side);
                self.presence().send(&party, &Outbound::Acknowledged(ids.as_slice().into()));
                self.tell_senders(&read.changed);
                self.tell_conversation(read.conversation.clone());
                all.extend(ids);
            }
            if !read.more {
                return Ok(Some((all, read.conversation)));
            }
        }
    }

    /// The caller has opened these messages, of any kind. Those of conversations move their counts.
    ///
    /// # Errors
    /// Failures of the database.
    pub(super) async fn opened(
        &self,
        caller: &Caller,
        ids: &[MessageId],
    ) -> Result<(Vec<MessageId>, Vec<MessageId>), Error> {
        let places = {
            let client = self.conversations_client(&caller.party()).await?;
            chat::places(&client, ids).await?
        };
        let mut changed = Vec::new();
        let mut of: std::collections::BTreeMap<Uuid, Vec<i64>> = Default::default();
        for (_, place) in &places {
            of.entry(place.conversation.0).or_default().push(place.seq);
        }
        for (conversation, seqs) in of {
            let id = ConversationId(conversation);
            let Ok((_, side)) = self.taking_part(caller, id).await else { continue };
            if let Some((read, _)) = self.mark_read(caller, id, side, &Reading::Those(seqs)).await?
            {
                changed.extend(read);
            }
        }
        let chat: std::collections::HashSet<MessageId> = places.iter().map(|(id, _)| *id).collect();
        Ok((changed, ids.iter().copied().filter(|id| !chat.contains(id)).collect()))
    }

    /// Archives or closes a conversation, or makes it active again. Only its business user may.
    ///
    /// # Errors
    /// Not permitted, not found.
    pub async fn set_conversation_status(
        &self,
        caller: &Caller,
        id: ConversationId,
        status: ConversationStatus,
    ) -> Result<Conversation, Error> {
        caller.business(Permission::Chat)?;
        let (mut conversation, _) = self.taking_part(caller, id).await?;
        let client = self.conversations_client(&caller.party()).await?;
        let changed = conversations::set_status(&client, id, status).await?;
        drop(client);
        if changed {
            conversation.status = status;
            self.tell_conversation(conversation.clone());
        }
        Ok(conversation)
    }

    /// Shows messages to their senders' other connections.
    pub(super) fn tell_own(&self, accepted: &[(Message, u64)]) {
        for (message, said_by) in accepted {
            let delivery = Delivery::new(message.clone());
            self.presence()
                .send(&message.sender, &Outbound::Own { delivery, sender_connection: *said_by });
        }
    }

    /// Shows both sides what has become of their conversation.
    pub(super) fn tell_conversation(&self, conversation: Conversation) {
        let told = Arc::new(conversation);
        for side in [Side::Business, Side::Mobile] {
            let changed = Outbound::ConversationChanged(Arc::clone(&told));
            self.presence().send(&told.party(side), &changed);
        }
    }

    /// What [`Said`] means for a message of either kind.
    pub(super) async fn say_of_any(
        &self,
        caller: &Caller,
        ids: &[MessageId],
    ) -> Result<Vec<MessageId>, Error> {
        let (mut changed, one_way) = self.opened(caller, ids).await?;
        let words = one_way.into_iter().map(|id| (id, None)).collect();
        changed.extend(self.say_words(caller, Said::Opened, words).await?);
        Ok(changed)
    }
}
