//! The audit log: who looked at whose data, who changed what, and why.
//!
//! Everything that an administrator does passes here, over the API or by command: a change is recorded
//! in its own transaction, and what is read is not handed out before it is recorded. What a business
//! user or a phone reads of its own messages and conversations is not recorded: it is a side of them.
//! What is read at the same moment is recorded together, by one writer over one connection, so that no
//! number of readers stands in the way of messages.

use std::{net::IpAddr, sync::Arc};

use super::{
    App, Caller, Error,
    access::Identity,
    batch_writer::{Batch, BatchWriter, Reply, Retry},
    clock::new_id,
};
use crate::{
    domain::{
        Party, TokenId,
        audit::{Actor, AuditAction, AuditEntry, AuditOutcome, reason},
        text::excerpt,
    },
    store::{
        self, ListPage, ScanPosition, StatementGroup,
        audit::{self, AuditFilter, AuditRecord},
    },
};

/// How many old entries are deleted in one statement.
const EXPIRED_AT_ONCE: i64 = 1000;

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
        By { actor, reason: None, request: None, peer: None }
    }

    /// Somebody who showed a token.
    pub fn caller(caller: &Caller) -> By {
        let token = caller.token;
        let actor = match &caller.identity {
            Identity::Business { id, name, .. } => {
                Actor::User { id: *id, name: Arc::clone(name), token }
            }
            Identity::Mobile { phone } => Actor::Phone { phone: phone.clone(), token },
        };
        By { actor, reason: None, request: None, peer: None }
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
    /// What was asked for.
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

/// Whether something is an action, or a kind of thing that actions are about.
///
/// # Errors
/// [`Error::Invalid`], with what is near.
pub fn check_action(text: Option<&str>) -> Result<(), Error> {
    let Some(text) = text else { return Ok(()) };
    let known = |action: &&AuditAction| action.name() == text || action.subject() == text;
    if AuditAction::ALL.iter().any(|action| known(&action)) {
        return Ok(());
    }
    let kind = text.split('.').next().unwrap_or_default();
    let same = AuditAction::ALL.iter().filter(|action| action.subject() == kind);
    let mut names: Vec<&str> = same.map(|action| action.name()).collect();
    if names.is_empty() {
        names = AuditAction::ALL.iter().map(|action| action.subject()).collect();
        names.dedup();
    }
    let message = format!("'{}' is no action; there are {}", excerpt(text), names.join(", "));
    Err(Error::field("action", "unknown", message))
}

/// Writes the audit log.
pub(super) type AuditLog = BatchWriter<Entries>;

/// Entries of the audit log.
pub(super) struct Entries;

impl Batch for Entries {
    type Request = AuditEntry;
    type Answer = ();
    type Context = ();
    type Stored = ();

    const CAPACITY: usize = 1024;
    const MAX_ROWS: usize = 200;
    // Somebody waits at a screen, who can ask again.
    const RETRY: Retry = Retry::Never;
    const GIVEN_UP: &'static str = "the audit log could not be written";

    async fn context(_app: &App, _entries: &[AuditEntry]) {}

    async fn persist(app: &App, entries: &mut [AuditEntry], _: &()) -> Result<(), store::Error> {
        audit::insert(&app.store().client_for(StatementGroup::Audit).await?, entries).await
    }

    fn finish(_: &App, _: Vec<AuditEntry>, replies: Vec<Reply<()>>, _stored: (), _: &()) {
        replies.into_iter().for_each(|reply| reply.send(Ok(())));
    }
}

impl App {
    /// What is being done, to be completed and recorded.
    pub(super) fn entry(&self, by: &By, action: AuditAction) -> AuditEntry {
        AuditEntry {
            id: new_id(),
            at: self.clock().now(),
            actor: by.actor.clone(),
            action,
            subject: None,
            phones: Vec::new(),
            reason: by.reason.clone(),
            request: by.request.clone(),
            peer: by.peer,
            details: Vec::new(),
            outcome: AuditOutcome::Done,
        }
    }

    /// Records what changes nothing else, and waits until that is durable: what was read may be handed
    /// out only then.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when too much waits; failures of the database.
    pub(super) async fn record(&self, entry: AuditEntry) -> Result<(), Error> {
        self.inner.audit.write(entry).await
    }

    /// Records how something ended that was asked for: as it is if it was done, else that it was not
    /// found or was refused. A mistake of form is not recorded, because nothing was looked at.
    ///
    /// # Errors
    /// Those of what was done, and of [`App::record`].
    pub(super) async fn record_end<T>(
        &self,
        entry: AuditEntry,
        done: Result<T, Error>,
    ) -> Result<T, Error> {
        let outcome = match &done {
            Ok(_) => AuditOutcome::Done,
            Err(Error::NotFound(_)) => AuditOutcome::NotFound,
            Err(Error::Conflict(_)) => AuditOutcome::Refused,
            Err(Error::Unavailable | Error::DiskFull | Error::Away(_) | Error::Internal) => {
                AuditOutcome::Failed
            }
            Err(_) => return done,
        };
        let recorded = self.record(entry.ended(outcome)).await;
        // Its own failure tells more than that of the record.
        let done = done?;
        recorded.map(|()| done)
    }

    /// Entries of the audit log, newest first. Reading it is recorded in it.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn audit_access(
        &self,
        by: &By,
        filter: &AuditFilter,
        limit: usize,
    ) -> Result<Listing<AuditRecord>, Error> {
        let list = |client| async move { audit::list(&client, filter, limit + 1).await };
        let found = self.store().of(by.party().as_ref()).read(list).await?;
        let found = Listing::of_slice(found, limit);
        let entry = self
            .entry(by, AuditAction::AuditAccess)
            .about(&filter.phone)
            .with_some("actor", filter.actor.as_deref())
            .with_some("action", filter.action.as_deref())
            .with("shown", found.items.len());
        self.record(entry).await?;
        Ok(found)
    }

    /// Records that something is about to be done that is long, or cannot be taken back: whatever becomes of
    /// it, that it was begun is known.
    ///
    /// # Errors
    /// Failures of the database; then it must not be begun.
    pub async fn record_begin(&self, by: &By, action: AuditAction) -> Result<(), Error> {
        self.record(self.entry(by, action).with("begun", true)).await
    }

    /// Records that something that was begun came to nothing.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn record_failure(&self, by: &By, action: AuditAction) -> Result<(), Error> {
        self.record(self.entry(by, action).ended(AuditOutcome::Failed)).await
    }

    /// Records that everything was written to a backup.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn record_backup(&self, by: &By, messages: i64) -> Result<(), Error> {
        let messages = usize::try_from(messages).unwrap_or_default();
        self.record(self.entry(by, AuditAction::BackupCreate).with("messages", messages)).await
    }

    /// When the last backup was made that is known to be whole; `None` when the log tells of none.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn last_backup(&self) -> Result<Option<time::OffsetDateTime>, Error> {
        Ok(audit::last_done(&self.store().client().await?, AuditAction::BackupCreate).await?)
    }

    /// Records that everything was replaced by the backup of a moment.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn record_restore(&self, by: &By, of: time::OffsetDateTime) -> Result<(), Error> {
        self.record(self.entry(by, AuditAction::BackupRestore).with("of", of.to_string())).await
    }

    /// Deletes entries that were kept long enough. Returns whether there may be more.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn expire_audit_log(&self) -> Result<bool, Error> {
        let before = self.clock().now() - self.live().retention.audit_log;
        let client = self.store().client_for(StatementGroup::Upkeep).await?;
        let gone = audit::expire(&client, before, EXPIRED_AT_ONCE).await?;
        Ok(gone == EXPIRED_AT_ONCE as u64)
    }
}
