//! The audit log: who looked at whose data, who changed what, and why.
//!
//! Everything that an administrator does passes here, over the API or by command: a change is recorded
//! in its own transaction, and what is read is not handed out before it is recorded. What a business
//! user or a phone reads of its own messages and conversations is not recorded: it is a side of them.
//! What is read at the same moment is recorded together, by one writer over one connection, so that no
//! number of readers stands in the way of messages.

use std::net::IpAddr;

use time::OffsetDateTime;

use super::{
    Error,
    batch_writer::{Batch, BatchWriter, Reply, Retry},
    clock::new_id,
};
use crate::{
    domain::{
        Party, TokenId,
        audit::{Actor, AuditAction, AuditEntry, AuditOutcome, reason},
    },
    store::{self, ListPage, ScanPosition, StatementGroup, Store, audit},
};

/// On whose behalf something is done, and why.
#[derive(Clone, Debug)]
pub struct By {
    actor: Actor,
    reason: Option<String>,
    request: Option<String>,
    peer: Option<IpAddr>,
}

impl By {
    /// Somebody at a shell of the server.
    pub fn command(user: &str, host: &str) -> By {
        let actor = Actor::Command { user: user.into(), host: host.into() };
        By::new(actor)
    }

    pub(super) fn new(actor: Actor) -> By {
        By { actor, reason: None, request: None, peer: None }
    }

    /// What is being done at a time, to be completed and recorded.
    pub(super) fn entry(&self, action: AuditAction, at: OffsetDateTime) -> AuditEntry {
        AuditEntry {
            id: new_id(),
            at,
            actor: self.actor.clone(),
            action,
            subject: None,
            phones: Vec::new(),
            reason: self.reason.clone(),
            request: self.request.clone(),
            peer: self.peer,
            details: Vec::new(),
            outcome: AuditOutcome::Done,
        }
    }

    /// The same with why; blank is none.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is too long or no line of text.
    pub fn because(self, text: Option<&str>) -> Result<By, Error> {
        let reason = match text {
            Some(text) => reason(text).map_err(|broken| Error::Invalid(vec![broken]))?,
            None => None,
        };
        Ok(By { reason, ..self })
    }

    /// The same with the request over HTTP, and the address that it came from.
    #[must_use]
    pub fn in_request(self, id: Option<&str>, peer: Option<IpAddr>) -> By {
        By { request: id.map(str::to_owned), peer, ..self }
    }

    /// Whether it says why.
    pub fn has_reason(&self) -> bool {
        self.reason.is_some()
    }

    /// Who it is, with which token, and why.
    pub(super) fn identity(&self) -> (String, Option<TokenId>, Option<String>) {
        (self.actor.id(), self.actor.token(), self.reason.clone())
    }

    /// Whose share of the database it uses; a command is the process itself.
    pub(super) fn party(&self) -> Option<Party> {
        match &self.actor {
            Actor::User { id, .. } => Some(Party::Business(*id)),
            Actor::Phone { phone, .. } => Some(Party::Mobile(phone.clone())),
            Actor::Command { .. } => None,
        }
    }

    /// How others are told who it was: a business user's name, or that it was a command.
    pub(super) fn told(&self) -> &str {
        self.actor.name().unwrap_or("the command line")
    }
}

/// Part of a list, and whether it goes on.
#[derive(Clone, Debug)]
pub struct Listing<T> {
    pub items: Vec<T>,
    /// Whether there is more after the last of it.
    pub more: bool,
    /// Where it goes on when few of what was looked at matched: there may be more behind that.
    pub cut: Option<ScanPosition>,
}

impl<T> Listing<T> {
    /// Of a list that was read with one more than asked for: that one is not shown, and so not recorded.
    pub(super) fn of(mut found: Vec<T>, limit: usize) -> Listing<T> {
        let more = found.len() > limit;
        found.truncate(limit);
        Listing { items: found, more, cut: None }
    }

    /// The same of a list whose statements look at a bounded number of rows.
    pub(super) fn of_slice(found: ListPage<T>, limit: usize) -> Listing<T> {
        let ListPage { items, cut } = found;
        let listing = Listing::of(items, limit);
        let cut = cut.filter(|_| !listing.more);
        Listing { cut, ..listing }
    }
}

pub(super) type AuditWriter = BatchWriter<EntryBatch>;

pub(super) struct EntryBatch {
    store: Store,
}

impl EntryBatch {
    pub(super) fn new(store: Store) -> EntryBatch {
        EntryBatch { store }
    }
}

impl Batch for EntryBatch {
    type Request = AuditEntry;
    type Answer = ();
    type Context = ();
    type Stored = ();

    const QUEUE_CAPACITY: usize = 1024;
    const BATCH_SIZE: usize = 200;
    // Somebody waits at a screen, who can ask again.
    const RETRY: Retry = Retry::Never;
    const GIVEN_UP: &'static str = "the audit log could not be written";

    async fn context(&self, _entries: &[AuditEntry]) {}

    async fn persist(&self, entries: &mut [AuditEntry], _: &()) -> Result<(), store::Error> {
        audit::insert(&self.store.client_for(StatementGroup::Audit).await?, entries).await
    }

    fn finish(&self, _: Vec<AuditEntry>, replies: Vec<Reply<()>>, _stored: (), _: &()) {
        replies.into_iter().for_each(|reply| reply.send(Ok(())));
    }
}

/// How something ended that was asked for; `None` for a mistake of form, which is not recorded, because
/// nothing was looked at.
pub(super) fn outcome_of<T>(done: &Result<T, Error>) -> Option<AuditOutcome> {
    match done {
        Ok(_) => Some(AuditOutcome::Done),
        Err(Error::NotFound(_)) => Some(AuditOutcome::NotFound),
        Err(Error::Conflict(_) | Error::ContentRefused(_)) => Some(AuditOutcome::Refused),
        Err(Error::Unavailable | Error::DiskFull | Error::Away(_) | Error::Internal) => {
            Some(AuditOutcome::Failed)
        }
        Err(_) => None,
    }
}
