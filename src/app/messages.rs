//! Sending, reading and acknowledging messages.

use std::sync::Arc;

use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    App, By, Caller, Error, access::Identity, audit::Listing, clock::new_id, intake::Accepted,
    ledger::ReceiptKind, limits::Limited, off_loop::off_loop,
};
use crate::{
    domain::{
        Message, MessageId, Party, Priority, Status, TokenId, UserId,
        audit::{Action, Entry, Outcome},
        message::{Draft, FieldError, OneWay},
    },
    store::{
        idempotency::{Earlier, Keyed},
        message_status::Receipt,
        messages::{self, Filter},
        story::{self, Story},
    },
};

/// The most ids in one acknowledgement.
pub const ACKNOWLEDGE_LIMIT: usize = 1000;

/// The longest answer to a batch that is kept for its key, in bytes. One that is longer says of each item no
/// more than what became of it.
pub const LONGEST_KEPT_ANSWER: usize = 256 * 1024;

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
    /// SHA-256 of route and body, whose fields may come in any order.
    pub request_hash: [u8; 32],
    /// The same of the body as it was written, which earlier versions kept.
    pub written_hash: [u8; 32],
}

/// How a send went.
pub enum Sent<T> {
    /// It was done now.
    Now(T),
    /// The same request was answered before: give that answer again.
    Before(Earlier),
}

/// One item of a batch: what was accepted, or why it was not.
pub type Item = Result<Message, Refusal>;

/// Why one item of a batch was not accepted.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// It breaks rules.
    Invalid(Vec<FieldError>),
    /// The sender's limit is reached.
    Limited(Limited),
}

impl Refusal {
    /// The same as the answer to a request of its own.
    pub fn into_error(self) -> Error {
        match self {
            Refusal::Invalid(broken) => Error::Invalid(broken),
            Refusal::Limited(limited) => limited.into(),
        }
    }
}

impl App {
    fn judge(&self, sender: (UserId, &Arc<str>), request: SendRequest) -> Item {
        let to = self.parse_phone("to", &request.to);
        let id = MessageId(new_id());
        match to {
            Ok(to) => OneWay::new(id, sender.0, to, request.draft)
                .map_err(Refusal::Invalid)
                .map(|one_way| one_way.accepted(Arc::clone(sender.1), self.clock().now())),
            // Every broken rule at once, the phone number's first.
            Err(Error::Invalid(mut broken)) => {
                broken.extend(request.draft.broken_rules());
                Err(Refusal::Invalid(broken))
            }
            Err(_) => {
                let broken = FieldError::new("to", "invalid_phone", "to is not usable");
                Err(Refusal::Invalid(vec![broken]))
            }
        }
    }

    /// The rules that a message would break.
    pub fn broken_rules(&self, request: &SendRequest) -> Vec<FieldError> {
        let mut broken = match self.parse_phone("to", &request.to) {
            Ok(_) => Vec::new(),
            Err(Error::Invalid(broken)) => broken,
            Err(_) => vec![FieldError::new("to", "invalid_phone", "to is not usable")],
        };
        broken.extend(request.draft.broken_rules());
        broken
    }

    /// Sends one one-way message. `answer` gives the status and body that a repeat with the same key
    /// is to get.
    ///
    /// # Errors
    /// Not permitted, invalid, over a limit, overloaded, unavailable, or a key used for something
    /// else.
    pub async fn send(
        &self,
        caller: &Caller,
        request: SendRequest,
        key: Option<RequestKey>,
        answer: impl FnOnce(&Message) -> (u16, String),
    ) -> Result<Sent<Message>, Error> {
        self.send_after(caller, request, key, answer, async |_| Ok(())).await
    }

    /// The same; `before` is done with the message before it is stored, and may prevent that.
    async fn send_after(
        &self,
        caller: &Caller,
        request: SendRequest,
        key: Option<RequestKey>,
        answer: impl FnOnce(&Message) -> (u16, String),
        before: impl AsyncFnOnce(&Message) -> Result<(), Error>,
    ) -> Result<Sent<Message>, Error> {
        let sender = caller.sender()?;
        let message = self.judge(sender, request).map_err(Refusal::into_error)?;
        if let Err(refused) = self.admit(caller, message.priority).await {
            return self.repeat_or(sender.0, key.as_ref(), refused).await;
        }
        if let Err(prevented) = before(&message).await {
            self.inner.limiter.give_back(&caller.party(), 1).await;
            return Err(prevented);
        }
        let keyed = key.map(|key| keyed(sender.0, key, answer(&message)));
        let accepted = self.accept(caller.party(), vec![message.clone()], keyed).await;
        self.settle(caller, 1, &accepted).await;
        Ok(match accepted? {
            Accepted::New => Sent::Now(message),
            Accepted::Earlier(earlier) => Sent::Before(earlier),
        })
    }

    /// Sends one message in the name of a business user, by name or id, and with its permissions. That is
    /// recorded before it is accepted: what cannot be recorded is not sent.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`] for a user that is disabled, and as [`App::send`].
    pub async fn send_as(
        &self,
        by: &By,
        from: &str,
        request: SendRequest,
        key: Option<RequestKey>,
        answer: impl FnOnce(&Message) -> (u16, String),
    ) -> Result<Sent<Message>, Error> {
        let user = self.find_user(from).await?;
        let entry = self.entry(by, Action::MessageSend).with("user", user.id.to_string());
        if user.disabled_at.is_some() {
            let refused = Error::Conflict(format!("{} is disabled", user.name));
            return self.record_end(entry, Err(refused)).await;
        }
        let caller = Caller {
            token: TokenId(Uuid::nil()),
            expires_at: None,
            identity: Identity::Business {
                id: user.id,
                name: user.name.into(),
                permissions: user.permissions,
            },
        };
        // What was answered before is not sent again.
        if let Some(key) = &key
            && let Some(earlier) = self.answered_before(user.id, key).await?
        {
            return self.record_end(entry.with("repeated", true), Ok(Sent::Before(earlier))).await;
        }
        let mut recorded = None;
        let sent = self
            .send_after(&caller, request, key, answer, async |message| {
                let entry = entry.clone().of(message.id).about(message.phones());
                self.record(entry.clone()).await?;
                recorded = Some(entry);
                Ok(())
            })
            .await;
        let Some(recorded) = recorded else { return self.record_end(entry, sent).await };
        // What was recorded did not come about; how it ended tells more than a failure to say so.
        let again = Entry { id: new_id(), at: self.clock().now(), ..recorded };
        let _ = match &sent {
            Ok(Sent::Now(_)) => Ok(()),
            Ok(Sent::Before(_)) => self.record(again.with("repeated", true)).await,
            Err(_) => self.record(again.ended(Outcome::Failed)).await,
        };
        sent
    }

    /// Sends many one-way messages; each answers for itself, those that are over the sender's limit
    /// included. When none is accepted, nothing is kept for the key.
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
        let sender = caller.sender()?;
        let judge = |request| self.judge(sender, request);
        // A phone number takes as long to read as some text.
        let size = requests.iter().map(|request| request.draft.content.len() + 256).sum();
        let mut items: Vec<Item> = off_loop(size, || requests.into_iter().map(judge).collect());
        let admitted = match self.admit_many(caller, &mut items).await {
            Ok(admitted) => admitted,
            Err(refused) => return self.repeat_or(sender.0, key.as_ref(), refused).await,
        };
        let good: Vec<Message> =
            items.iter().filter_map(|item| item.as_ref().ok().cloned()).collect();
        if good.is_empty() {
            // Nothing is stored, the key included: the same again is judged again.
            let earlier = match &key {
                Some(key) => self.answered_before(sender.0, key).await?,
                None => None,
            };
            return Ok(earlier.map_or(Sent::Now(items), Sent::Before));
        }
        let keyed = key.map(|key| keyed(sender.0, key, answer(&items)));
        let accepted = self.accept(caller.party(), good, keyed).await;
        self.settle(caller, admitted, &accepted).await;
        Ok(match accepted? {
            Accepted::New => Sent::Now(items),
            Accepted::Earlier(earlier) => Sent::Before(earlier),
        })
    }

    /// Whether there is room for one message of the caller's.
    pub(super) async fn admit(&self, caller: &Caller, priority: Priority) -> Result<(), Error> {
        let limiter = &self.inner.limiter;
        limiter.admit_depth(false, priority)?;
        limiter.admit(&caller.party(), 1).await.map(|_| ())
    }

    /// The same for many: as many as there is room for, in their order; the rest is refused each for
    /// itself. Returns how many were counted.
    async fn admit_many(&self, caller: &Caller, items: &mut [Item]) -> Result<u32, Error> {
        let limiter = &self.inner.limiter;
        let wanted = items.iter().filter(|item| item.is_ok()).count();
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        if wanted == 0 {
            return Ok(0);
        }
        limiter.admit_depth(true, Priority::default())?;
        let party = caller.party();
        let admitted = limiter.admit(&party, wanted).await?;
        if admitted < wanted {
            let limited = limiter.wait_of_user(&party).await;
            let over = items.iter_mut().filter(|item| item.is_ok()).skip(admitted as usize);
            over.for_each(|item| *item = Err(Refusal::Limited(limited)));
        }
        Ok(admitted)
    }

    /// What was not stored, because it had been before or could not be, counts nothing.
    async fn settle(&self, caller: &Caller, admitted: u32, accepted: &Result<Accepted, Error>) {
        if !matches!(accepted, Ok(Accepted::New)) {
            self.inner.limiter.give_back(&caller.party(), admitted).await;
        }
    }

    /// A repeat gets its first answer, whatever the limits say now.
    async fn repeat_or<T>(
        &self,
        user: UserId,
        key: Option<&RequestKey>,
        refused: Error,
    ) -> Result<Sent<T>, Error> {
        let Some(key) = key else { return Err(refused) };
        let found = self.answered_before(user, key).await?;
        found.map(Sent::Before).ok_or(refused)
    }

    /// One message that the caller may see.
    ///
    /// # Errors
    /// [`Error::NotFound`] also for a message that exists and is none of the caller's business.
    pub async fn message(&self, caller: &Caller, id: MessageId) -> Result<Message, Error> {
        let message = messages::get(&self.store().of(&caller.party()).client().await?, id).await?;
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
    ) -> Result<Listing<Message>, Error> {
        let party = caller.party();
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
    pub async fn count_messages(&self, caller: &Caller, most: i64) -> Result<i64, Error> {
        let Party::Business(id) = caller.party() else {
            return Err(Error::WrongAudience("business"));
        };
        let count = |client| async move { messages::count_of_sender(&client, id, most).await };
        Ok(self.store().of(&caller.party()).read(count).await?)
    }

    /// Messages for an administrator on the server: everybody's.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn list_all_messages(
        &self,
        by: &By,
        filter: &Filter,
        limit: usize,
    ) -> Result<Listing<Message>, Error> {
        let found = self.listed(by.party().as_ref(), filter, limit).await?;
        let entry = self
            .entry(by, Action::MessageList)
            .about(found.items.iter().flat_map(Message::phones).chain(&filter.recipient))
            .with_some("status", filter.status.map(Status::name))
            .with_some("from", filter.sender.map(|id| id.to_string()))
            .with("shown", found.items.len());
        self.record(entry).await?;
        Ok(found)
    }

    async fn listed(
        &self,
        party: Option<&Party>,
        filter: &Filter,
        limit: usize,
    ) -> Result<Listing<Message>, Error> {
        // One more, to know whether the list goes on.
        let list = |client| async move { messages::list(&client, filter, limit + 1).await };
        let found = self.store().of(party).read(list).await?;
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
    pub async fn any_message(&self, by: &By, id: MessageId) -> Result<(Message, Story), Error> {
        let found = async {
            let client = self.store().of(by.party().as_ref()).client().await?;
            let message = messages::get_any(&client, id).await?;
            let message = message.ok_or(Error::NotFound("message"))?;
            Ok((message, story::of(&client, id).await?))
        }
        .await;
        let phones = found.iter().flat_map(|(message, _)| message.phones());
        let entry = self.entry(by, Action::MessageShow).of(id).about(phones);
        self.record_end(entry, found).await
    }

    /// Takes the caller's word that it has, or has opened, these messages. Returns those that this
    /// changed; messages of others and repeats change nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] with too many ids, [`Error::Unavailable`]; [`Error::RateLimited`] after too many that
    /// changed nothing.
    pub async fn say(
        &self,
        caller: &Caller,
        said: ReceiptKind,
        ids: Vec<(MessageId, Option<OffsetDateTime>)>,
    ) -> Result<Vec<MessageId>, Error> {
        if ids.len() > ACKNOWLEDGE_LIMIT {
            let message = format!("at most {ACKNOWLEDGE_LIMIT} ids in one call");
            return Err(Error::field("ids", "too_many", message));
        }
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        // What was written to the caller's connection and is not acknowledged yet can be acknowledged once.
        let counts = ids.iter().all(|(_, written_at)| written_at.is_none());
        let party = caller.party();
        if counts {
            self.count_receipt(&party)?;
        }
        let changed = if said == ReceiptKind::Read {
            // What was read in a conversation moves its counts.
            let ids: Vec<MessageId> = ids.into_iter().map(|(id, _)| id).collect();
            self.say_of_any(caller, &ids).await
        } else {
            self.say_words(caller, said, ids).await
        };
        if counts && !matches!(&changed, Ok(changed) if changed.is_empty()) {
            self.discount_receipt(&party);
        }
        changed
    }

    pub(super) async fn say_words(
        &self,
        caller: &Caller,
        said: ReceiptKind,
        ids: Vec<(MessageId, Option<OffsetDateTime>)>,
    ) -> Result<Vec<MessageId>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let at = self.clock().now();
        let by = caller.party();
        let words = ids
            .into_iter()
            .map(|(id, written_at)| Receipt { id, by: by.clone(), at, written_at })
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
        said: ReceiptKind,
        id: MessageId,
    ) -> Result<Message, Error> {
        caller.mobile()?;
        let message = self.message(caller, id).await?;
        self.say(caller, said, vec![(id, None)]).await?;
        self.message(caller, message.id).await
    }
}

fn keyed(user: UserId, key: RequestKey, answer: (u16, String)) -> Keyed {
    let RequestKey { key, request_hash, written_hash } = key;
    Keyed { user, key, request_hash, written_hash, status_code: answer.0, response: answer.1 }
}
