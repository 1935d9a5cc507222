//! Reading the audit log, its retention, and the entries of commands that work on everything.

use time::OffsetDateTime;

use super::AdminService;
use crate::{
    app::{By, Error, audit_log::Listing},
    domain::{
        Phone,
        audit::{AuditAction, AuditOutcome},
        audit_chain::{ChainHead, ChainReport},
        text::excerpt,
    },
    secrets::KeyId,
    store::{
        StatementGroup,
        audit::{self, AuditFilter, AuditRecord},
        audit_chain,
    },
};

/// How many old entries are deleted in one statement.
const BATCH_SIZE: i64 = 1000;

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

impl AdminService {
    /// Entries of the audit log, newest first. Reading it is recorded in it.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn list_audit_log(
        &self,
        by: &By,
        filter: &AuditFilter,
        limit: usize,
    ) -> Result<Listing<AuditRecord>, Error> {
        let list = |client| async move { audit::list(&client, filter, limit + 1).await };
        let found = self.core.store().of(by.party().as_ref()).read(list).await?;
        let found = Listing::of_slice(found, limit);
        let entry = self
            .core
            .entry(by, AuditAction::AuditAccess)
            .about(&filter.phone)
            .with_some("actor", filter.actor.as_deref())
            .with_some("action", filter.action.as_deref())
            .with("shown", found.items.len());
        self.core.record(entry).await?;
        Ok(found)
    }

    /// Records that something is about to be done that is long, or cannot be taken back: whatever becomes of
    /// it, that it was begun is known.
    ///
    /// # Errors
    /// Failures of the database; then it must not be begun.
    pub async fn record_begin(&self, by: &By, action: AuditAction) -> Result<(), Error> {
        self.core.record(self.core.entry(by, action).with("begun", true)).await
    }

    /// Records that something that was begun came to nothing.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn record_failure(&self, by: &By, action: AuditAction) -> Result<(), Error> {
        self.core.record(self.core.entry(by, action).ended(AuditOutcome::Failed)).await
    }

    /// Records that everything was written to a backup, with the number of messages if they were counted.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn record_backup(
        &self,
        by: &By,
        messages: Option<i64>,
        key: KeyId,
    ) -> Result<(), Error> {
        let mut entry = self.core.entry(by, AuditAction::BackupCreate);
        if let Some(messages) = messages {
            entry = entry.with("messages", usize::try_from(messages).unwrap_or_default());
        }
        self.core.record(entry.with("key", key.to_string())).await
    }

    /// When the last backup was made that is known to be whole; `None` when the log tells of none.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn last_backup(&self) -> Result<Option<OffsetDateTime>, Error> {
        Ok(audit::last_done(&self.core.store().client().await?, AuditAction::BackupCreate).await?)
    }

    /// Whether the log has a complete backup that was made with a key.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn has_backup_of_key(&self, key: KeyId) -> Result<bool, Error> {
        let client = self.core.store().client().await?;
        Ok(audit::has_backup_of_key(&client, &key.to_string()).await?)
    }

    /// Records what was done with the keys of the installation.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn record_keys(
        &self,
        by: &By,
        action: AuditAction,
        key: KeyId,
        secrets: usize,
    ) -> Result<(), Error> {
        let entry = self.core.entry(by, action).with("key", key.to_string());
        self.core.record(entry.with("secrets", secrets)).await
    }

    /// Records that a test message is sent through a gateway for SMS; its number is masked.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn record_sms_test(&self, by: &By, to: &Phone, gateway: &str) -> Result<(), Error> {
        let entry = self.core.entry(by, AuditAction::SmsTest).with("gateway", gateway);
        self.core.record(entry.with("number", to.masked())).await
    }

    /// Records that everything was replaced by the backup of a moment.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn record_restore(&self, by: &By, of: OffsetDateTime) -> Result<(), Error> {
        self.core
            .record(self.core.entry(by, AuditAction::BackupRestore).with("of", of.to_string()))
            .await
    }

    /// The newest entry of the audit log's chain, to be kept elsewhere.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn audit_head(&self) -> Result<ChainHead, Error> {
        Ok(audit_chain::head(&self.core.store().client().await?).await?)
    }

    /// Verifies the audit log's chain, and that it contains a head that was kept elsewhere.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn verify_audit_log(&self, known: Option<&ChainHead>) -> Result<ChainReport, Error> {
        let before = self.core.clock().now() - self.core.runtime_settings().retention.audit_log;
        Ok(audit_chain::verify(self.core.store(), before, known).await?)
    }

    /// Deletes entries that were kept long enough. Returns whether there may be more.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn expire_audit_log(&self) -> Result<bool, Error> {
        let before = self.core.clock().now() - self.core.runtime_settings().retention.audit_log;
        let client = self.core.store().client_for(StatementGroup::Upkeep).await?;
        let gone = audit::expire(&client, before, BATCH_SIZE).await?;
        Ok(gone == BATCH_SIZE as u64)
    }
}
