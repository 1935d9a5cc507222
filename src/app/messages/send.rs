//! Sending one-way messages.

use std::sync::Arc;

use uuid::Uuid;

use super::{
    MessageService,
    idempotency::{RequestKey, keyed},
    writer::Accepted,
};
use crate::{
    app::{
        By, Caller, Error, blocking::run_blocking, clock::new_id, identity::access::Identity,
        limits::Limited,
    },
    domain::{
        Message, MessageId, Priority, TokenId, UserId,
        audit::{AuditAction, AuditEntry, AuditOutcome},
        content_policy::ContentPolicy,
        message::{FieldError, MessageDraft, OneWayMessage},
    },
    store::idempotency::StoredResponse,
};

/// The longest answer to a batch that is kept for its key, in bytes. One that is longer says of each item no
/// more than what became of it.
pub const MAX_KEPT_ANSWER_LEN: usize = 256 * 1024;

/// What a business user asks to send to a phone.
#[derive(Clone, Debug)]
pub struct SendRequest {
    /// The phone number as it was written.
    pub to: String,
    pub draft: MessageDraft,
}

pub enum Sent<T> {
    Now(T),
    /// The same request was answered before: give that answer again.
    Before(StoredResponse),
}

/// One item of a batch: what was accepted, or why it was not.
pub type Item = Result<Message, Refusal>;

/// Why one item of a batch was not accepted.
#[derive(Clone, Debug)]
pub enum Refusal {
    Invalid(Vec<FieldError>),
    /// The sender's content policy refuses it.
    Content(Vec<FieldError>),
    /// The sender's limit is reached.
    Limited(Limited),
}

impl Refusal {
    /// The same as the answer to a request of its own.
    pub fn into_error(self) -> Error {
        match self {
            Refusal::Invalid(broken) => Error::Invalid(broken),
            Refusal::Content(rules) => Error::ContentRefused(rules),
            Refusal::Limited(limited) => limited.into(),
        }
    }
}

/// The message with the rules that mark it, or those that refuse it.
fn judged(policy: &ContentPolicy, mut message: Message) -> Item {
    let Message { subject, content, content_type, .. } = &message;
    let flags = policy.judge_message(subject.as_deref(), content, *content_type);
    message.flags = flags.map_err(Refusal::Content)?;
    Ok(message)
}

impl MessageService {
    fn judge(
        &self,
        sender: (UserId, &Arc<str>),
        policy: Option<&ContentPolicy>,
        request: SendRequest,
    ) -> Item {
        let to = self.identity.parse_phone("to", &request.to);
        let id = MessageId(new_id());
        match to {
            Ok(to) => OneWayMessage::new(id, sender.0, to, request.draft)
                .map_err(Refusal::Invalid)
                .map(|one_way| one_way.accepted(Arc::clone(sender.1), self.core.clock().now()))
                .and_then(|message| match policy {
                    Some(policy) => judged(policy, message),
                    None => Ok(message),
                }),
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
        let mut broken = match self.identity.parse_phone("to", &request.to) {
            Ok(_) => Vec::new(),
            Err(Error::Invalid(broken)) => broken,
            Err(_) => vec![FieldError::new("to", "invalid_phone", "to is not usable")],
        };
        broken.extend(request.draft.broken_rules());
        broken
    }

    /// Judges all of these messages before any of them is sent.
    ///
    /// # Errors
    /// [`Error::ContentRefused`] for the first one that is refused; failures of the database.
    pub async fn check_contents(
        &self,
        caller: &Caller,
        requests: &[SendRequest],
    ) -> Result<(), Error> {
        if self.identity.content_policy(caller).await?.is_none() {
            return Ok(());
        }
        for request in requests {
            self.identity.judge_content(caller, &request.draft).await?;
        }
        Ok(())
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
        let policy = self.identity.content_policy(caller).await?;
        let message = match self.judge(sender, policy.as_deref(), request) {
            Ok(message) => message,
            Err(Refusal::Content(rules)) => {
                self.identity.record_refused(caller, &rules, 1).await;
                return self.repeat_or(sender.0, key.as_ref(), Error::ContentRefused(rules)).await;
            }
            Err(refusal) => return Err(refusal.into_error()),
        };
        if let Err(refused) = self.limits.admit_message(caller, message.priority).await {
            return self.repeat_or(sender.0, key.as_ref(), refused).await;
        }
        if let Err(prevented) = before(&message).await {
            self.limits.limiter().give_back(&caller.party(), 1).await;
            return Err(prevented);
        }
        let keyed = key.map(|key| keyed(sender.0, key, answer(&message)));
        let accepted = self.accept(caller.party(), vec![message.clone()], keyed).await;
        self.settle(caller, 1, &accepted).await;
        Ok(match accepted? {
            Accepted::New => {
                self.identity.record_flagged(caller, std::slice::from_ref(&message)).await;
                Sent::Now(message)
            }
            Accepted::Earlier(earlier) => Sent::Before(earlier),
        })
    }

    /// Sends one message in the name of a business user, by name or id, and with its permissions. That is
    /// recorded before it is accepted: what cannot be recorded is not sent.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`] for a user that is disabled, and as [`MessageService::send`].
    pub async fn send_as(
        &self,
        by: &By,
        from: &str,
        request: SendRequest,
        key: Option<RequestKey>,
        answer: impl FnOnce(&Message) -> (u16, String),
    ) -> Result<Sent<Message>, Error> {
        let user = self.identity.find_user(from).await?;
        self.identity.note_policy(user.id, user.content_policy_id);
        let entry = self.core.entry(by, AuditAction::MessageSend).with("user", user.id.to_string());
        if user.disabled_at.is_some() {
            let refused = Error::Conflict(format!("{} is disabled", user.name));
            return self.core.record_end(entry, Err(refused)).await;
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
            return self
                .core
                .record_end(entry.with("repeated", true), Ok(Sent::Before(earlier)))
                .await;
        }
        let mut recorded = None;
        let sent = self
            .send_after(&caller, request, key, answer, async |message| {
                let entry = entry.clone().of(message.id).about(message.phones());
                self.core.record(entry.clone()).await?;
                recorded = Some(entry);
                Ok(())
            })
            .await;
        let Some(recorded) = recorded else { return self.core.record_end(entry, sent).await };
        // What was recorded did not come about; how it ended tells more than a failure to say so.
        let again = AuditEntry { id: new_id(), at: self.core.clock().now(), ..recorded };
        let _ = match &sent {
            Ok(Sent::Now(_)) => Ok(()),
            Ok(Sent::Before(_)) => self.core.record(again.with("repeated", true)).await,
            Err(_) => self.core.record(again.ended(AuditOutcome::Failed)).await,
        };
        sent
    }

    /// Sends many one-way messages; each answers for itself, those that are over the sender's limit
    /// included. When none is accepted, nothing is kept for the key.
    ///
    /// # Errors
    /// As [`MessageService::send`], for what concerns all of them.
    pub async fn send_batch(
        &self,
        caller: &Caller,
        requests: Vec<SendRequest>,
        key: Option<RequestKey>,
        answer: impl FnOnce(&[Item]) -> (u16, String),
    ) -> Result<Sent<Vec<Item>>, Error> {
        let sender = caller.sender()?;
        let policy = self.identity.content_policy(caller).await?;
        let judge = |request| self.judge(sender, policy.as_deref(), request);
        // A phone number takes as long to read as some text.
        let size = requests.iter().map(|request| request.draft.content.len() + 256).sum();
        let mut items: Vec<Item> = run_blocking(size, || requests.into_iter().map(judge).collect());
        let refused: Vec<&Vec<FieldError>> = items
            .iter()
            .filter_map(|item| match item {
                Err(Refusal::Content(rules)) => Some(rules),
                _ => None,
            })
            .collect();
        if let Some(first) = refused.first() {
            self.identity.record_refused(caller, first, refused.len() as u64).await;
        }
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
            Accepted::New => {
                if policy.is_some() {
                    let stored: Vec<Message> =
                        items.iter().filter_map(|item| item.as_ref().ok().cloned()).collect();
                    self.identity.record_flagged(caller, &stored).await;
                }
                Sent::Now(items)
            }
            Accepted::Earlier(earlier) => Sent::Before(earlier),
        })
    }

    /// Counts messages of a batch: as many as there is room for, in their order; the rest is refused each
    /// for itself. Returns how many were counted.
    async fn admit_many(&self, caller: &Caller, items: &mut [Item]) -> Result<u32, Error> {
        let limiter = self.limits.limiter();
        let wanted = items.iter().filter(|item| item.is_ok()).count();
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        if wanted == 0 {
            return Ok(0);
        }
        limiter.admit_backpressure(true, Priority::default())?;
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
            self.limits.limiter().give_back(&caller.party(), admitted).await;
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
}
