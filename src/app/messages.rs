//! Sending, reading and acknowledging messages.

use std::sync::Arc;

use uuid::Uuid;

use super::{App, Caller, Error, intake::Accepted, ledger::Said};
use crate::{
    domain::{
        Message, MessageId, Permission,
        message::{Draft, FieldError, OneWay},
    },
    store::{
        idempotency::{Earlier, Keyed},
        messages::{self, Filter},
        outcome::Word,
        story::{self, Event},
    },
};

/// The most ids in one acknowledgement.
pub const ACKNOWLEDGE_LIMIT: usize = 1000;

/// What a business user asks to send to a phone.
#[derive(Clone, Debug)]
pub struct SendRequest {
    /// The phone number as it was written.
    pub to: String,
    /// The rest.
    pub draft: Draft,
}

/// The idempotency key of a request.
#[derive(Clone, Debug)]
pub struct RequestKey {
    /// 1 to 255 characters.
    pub key: String,
    /// SHA-256 of route and body.
    pub request_hash: [u8; 32],
}

/// How a send went.
pub enum Sent<T> {
    /// It was done now.
    Now(T),
    /// The same request was answered before: give that answer again.
    Before(Earlier),
}

/// One item of a batch: what was accepted, or which rules it breaks.
pub type Item = Result<Message, Vec<FieldError>>;

impl App {
    fn judge(&self, sender: (crate::domain::UserId, &Arc<str>), request: SendRequest) -> Item {
        let to = self.parse_phone("to", &request.to);
        let id = MessageId(Uuid::now_v7());
        match to {
            Ok(to) => OneWay::new(id, sender.0, to, request.draft)
                .map(|one_way| one_way.accepted(Arc::clone(sender.1), self.clock().now())),
            // Every broken rule at once, the phone number's first.
            Err(Error::Invalid(mut broken)) => {
                broken.extend(request.draft.broken_rules());
                Err(broken)
            }
            Err(_) => Err(vec![FieldError::new("to", "invalid_phone", "to is not usable")]),
        }
    }

    /// Sends one one-way message. `answer` gives the status and body that a repeat with the same key
    /// is to get.
    ///
    /// # Errors
    /// Not permitted, invalid, overloaded, unavailable, or a key used for something else.
    pub async fn send(
        &self,
        caller: &Caller,
        request: SendRequest,
        key: Option<RequestKey>,
        answer: impl FnOnce(&Message) -> (u16, String),
    ) -> Result<Sent<Message>, Error> {
        let sender = caller.business(Permission::SendMessages)?;
        let message = self.judge(sender, request).map_err(Error::Invalid)?;
        let keyed = key.map(|key| keyed(sender.0, key, answer(&message)));
        Ok(match self.inner.intake.accept(vec![message.clone()], keyed).await? {
            Accepted::New => Sent::Now(message),
            Accepted::Earlier(earlier) => Sent::Before(earlier),
        })
    }

    /// Sends many one-way messages; each answers for itself.
    ///
    /// # Errors
    /// As [`App::send`], for what concerns all of them.
    pub async fn send_batch(
        &self,
        caller: &Caller,
        requests: Vec<SendRequest>,
        key: Option<RequestKey>,
        answer: impl FnOnce(&[Item]) -> (u16, String),
    ) -> Result<Sent<Vec<Item>>, Error> {
        let sender = caller.business(Permission::SendMessages)?;
        let items: Vec<Item> =
            requests.into_iter().map(|request| self.judge(sender, request)).collect();
        let good: Vec<Message> =
            items.iter().filter_map(|item| item.as_ref().ok().cloned()).collect();
        let keyed = key.map(|key| keyed(sender.0, key, answer(&items)));
        if good.is_empty() && keyed.is_none() {
            return Ok(Sent::Now(items));
        }
        Ok(match self.inner.intake.accept(good, keyed).await? {
            Accepted::New => Sent::Now(items),
            Accepted::Earlier(earlier) => Sent::Before(earlier),
        })
    }

    /// One message that the caller may see.
    ///
    /// # Errors
    /// [`Error::NotFound`] also for a message that exists and is none of the caller's business.
    pub async fn message(&self, caller: &Caller, id: MessageId) -> Result<Message, Error> {
        let message = messages::get(&self.store().client().await?, id).await?;
        message.filter(|message| caller.may_see(message)).ok_or(Error::NotFound("message"))
    }

    /// The caller's messages, newest first: those a business user sent, those a phone is to get.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn list_messages(
        &self,
        caller: &Caller,
        mut filter: Filter,
        limit: usize,
    ) -> Result<Vec<Message>, Error> {
        match caller.party() {
            crate::domain::Party::Business(id) => filter.sender = Some(id),
            crate::domain::Party::Mobile(phone) => filter.recipient = Some(phone),
        }
        Ok(messages::list(&self.store().client().await?, &filter, limit).await?)
    }

    /// Messages for an administrator on the server: everybody's.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn list_all_messages(
        &self,
        filter: &Filter,
        limit: usize,
    ) -> Result<Vec<Message>, Error> {
        Ok(messages::list(&self.store().client().await?, filter, limit).await?)
    }

    /// One message and its unusual events, for an administrator on the server.
    ///
    /// # Errors
    /// [`Error::NotFound`]; failures of the database.
    pub async fn any_message(&self, id: MessageId) -> Result<(Message, Vec<Event>), Error> {
        let client = self.store().client().await?;
        let message = messages::get(&client, id).await?.ok_or(Error::NotFound("message"))?;
        Ok((message, story::events(&client, id).await?))
    }

    /// What the calling phone has not acknowledged, oldest first.
    ///
    /// # Errors
    /// [`Error::WrongAudience`]; failures of the database.
    pub async fn pending(
        &self,
        caller: &Caller,
        exclude: &[MessageId],
        waiting_for_retry: bool,
        limit: usize,
    ) -> Result<Vec<Message>, Error> {
        let phone = caller.mobile()?;
        let client = self.store().client().await?;
        let now = self.clock().now();
        Ok(messages::pending(&client, phone, exclude, waiting_for_retry, now, limit).await?)
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
        let phone = caller.mobile()?;
        let client = self.store().client().await?;
        Ok(messages::pending_after(&client, phone, after, limit).await?)
    }

    /// Takes the calling phone's word that it has, or has opened, these messages. Returns those that
    /// this changed; messages of others and repeats change nothing.
    ///
    /// # Errors
    /// [`Error::WrongAudience`], [`Error::Invalid`] with too many ids, [`Error::Unavailable`].
    pub async fn say(
        &self,
        caller: &Caller,
        said: Said,
        ids: Vec<(MessageId, Option<time::OffsetDateTime>)>,
    ) -> Result<Vec<MessageId>, Error> {
        let phone = caller.mobile()?;
        if ids.len() > ACKNOWLEDGE_LIMIT {
            let message = format!("at most {ACKNOWLEDGE_LIMIT} ids in one call");
            return Err(Error::field("ids", "too_many", message));
        }
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let at = self.clock().now();
        let words = ids
            .into_iter()
            .map(|(id, written_at)| Word { id, by: phone.clone(), at, written_at })
            .collect();
        self.inner.ledger.say(said, words).await
    }

    /// The same for one message that must be the caller's.
    ///
    /// # Errors
    /// As [`App::say`], and [`Error::NotFound`].
    pub async fn say_one(
        &self,
        caller: &Caller,
        said: Said,
        id: MessageId,
    ) -> Result<Message, Error> {
        caller.mobile()?;
        let message = self.message(caller, id).await?;
        self.say(caller, said, vec![(id, None)]).await?;
        self.message(caller, message.id).await
    }
}

fn keyed(user: crate::domain::UserId, key: RequestKey, answer: (u16, String)) -> Keyed {
    Keyed {
        user,
        key: key.key,
        request_hash: key.request_hash,
        status_code: answer.0,
        response: answer.1,
    }
}
