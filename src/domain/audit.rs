//! The audit log's vocabulary: who did what to whose data, why, and with which outcome.

use core::net::IpAddr;
use std::sync::Arc;

use time::OffsetDateTime;
use uuid::Uuid;

use super::{Phone, TokenId, UserId, message::FieldError};

/// Maximum length of a reason, in characters.
pub const MAX_REASON_LEN: usize = 500;
/// Maximum number of phone numbers per entry; of more, only the count is recorded.
pub const MAX_PHONES: usize = 10_000;

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// A business user, through the API.
    User {
        /// Its id.
        id: UserId,
        /// The name at that time.
        name: Arc<str>,
        /// The token that was used.
        token: TokenId,
    },
    /// A mobile user, through the API.
    Phone {
        /// Its number.
        phone: Phone,
        /// The token that was used.
        token: TokenId,
    },
    /// A command on the server.
    Command {
        /// The operating system user, before `sudo` if that was used.
        user: Arc<str>,
        /// The host name.
        host: Arc<str>,
    },
}

impl Actor {
    /// The stable name of the variant.
    pub const fn kind(&self) -> &'static str {
        match self {
            Actor::User { .. } => "user",
            Actor::Phone { .. } => "phone",
            Actor::Command { .. } => "command",
        }
    }

    /// An id, a phone number, or `user@host`.
    pub fn id(&self) -> String {
        match self {
            Actor::User { id, .. } => id.to_string(),
            Actor::Phone { phone, .. } => phone.as_str().to_owned(),
            Actor::Command { user, host } => format!("{user}@{host}"),
        }
    }

    /// The name of a business user.
    pub fn name(&self) -> Option<&str> {
        match self {
            Actor::User { name, .. } => Some(name),
            _ => None,
        }
    }

    /// The token that was used.
    pub const fn token(&self) -> Option<TokenId> {
        match self {
            Actor::User { token, .. } | Actor::Phone { token, .. } => Some(*token),
            Actor::Command { .. } => None,
        }
    }
}

macro_rules! actions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// The recorded action. Names are stable: scripts and `audit access --action` use them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum AuditAction {
            $($(#[$doc])* $variant,)*
        }

        impl AuditAction {
            /// All there are.
            pub const ALL: &[AuditAction] = &[$(AuditAction::$variant,)*];

            /// The stable name: what it is about, a dot, a verb.
            pub const fn name(self) -> &'static str {
                match self {
                    $(AuditAction::$variant => $name,)*
                }
            }
        }
    };
}

actions! {
    /// A business user was created.
    UserAdd = "user.add",
    /// Business users were listed.
    UserList = "user.list",
    /// One was shown.
    UserShow = "user.show",
    /// One was changed.
    UserSet = "user.set",
    /// One was disabled.
    UserDisable = "user.disable",
    /// Mobile users were imported from a file.
    UserImport = "user.import",
    /// Mobile users were added or verified.
    MobileAdd = "mobile.add",
    /// Mobile users were listed.
    MobileList = "mobile.list",
    /// One was shown.
    MobileShow = "mobile.show",
    /// Stored numbers that need a check were listed.
    MobileCheck = "mobile.check",
    /// The mail address of one was set or removed.
    MobileSet = "mobile.set",
    /// One was blocked.
    MobileBlock = "mobile.block",
    /// A phone proved its number with a one-time code and got a token.
    RegistrationVerify = "registration.verify",
    /// One was let in again.
    MobileUnblock = "mobile.unblock",
    /// All data of one was exported.
    MobileExport = "mobile.export",
    /// All data of one was erased.
    MobileErase = "mobile.erase",
    /// A token was created.
    TokenCreate = "token.create",
    /// Tokens were listed.
    TokenList = "token.list",
    /// One was shown.
    TokenShow = "token.show",
    /// One, or all of one owner, was revoked.
    TokenRevoke = "token.revoke",
    /// One was replaced by a new one of the same holder.
    TokenRotate = "token.rotate",
    /// Slow recipients were listed with their numbers.
    RecipientList = "recipient.list",
    /// A message was sent on behalf of a business user.
    MessageSend = "message.send",
    /// The content policy of the sender marked one.
    MessageFlag = "message.flag",
    /// The content policy of the sender refused one; at most one entry a minute for each sender.
    MessageRefuse = "message.refuse",
    /// Messages were listed.
    MessageList = "message.list",
    /// One was shown.
    MessageShow = "message.show",
    /// The timeline of one was shown.
    MessageExplain = "message.explain",
    /// One was deleted.
    MessageDelete = "message.delete",
    /// Messages were imported from a file.
    MessageImport = "message.import",
    /// Conversations were listed.
    ConversationList = "conversation.list",
    /// One was shown.
    ConversationShow = "conversation.show",
    /// A page of messages of one was read.
    ConversationHistory = "conversation.history",
    /// One was archived.
    ConversationArchive = "conversation.archive",
    /// One was closed.
    ConversationClose = "conversation.close",
    /// One was made active again.
    ConversationActivate = "conversation.activate",
    /// Dead letters were listed.
    DeadLetterList = "dead_letter.list",
    /// One was shown.
    DeadLetterShow = "dead_letter.show",
    /// Some were requeued.
    DeadLetterRequeue = "dead_letter.requeue",
    /// Some were deleted.
    DeadLetterDelete = "dead_letter.delete",
    /// The audit log was read.
    AuditAccess = "audit.access",
    /// A process was asked to drain, or to accept connections again.
    NodeDrain = "node.drain",
    /// A call of the admin API was refused: the caller may not administer, its token ended, or its address may
    /// not call.
    AdminRefused = "admin.refused",
    /// A backup was created.
    BackupCreate = "backup.create",
    /// A backup was restored.
    BackupRestore = "backup.restore",
    /// Secrets that no key opens were removed, to be made anew.
    SecretRenew = "secret.renew",
    /// A key was added, or secrets were sealed again.
    SecretRotate = "secret.rotate",
    /// A test message was sent through a gateway for SMS.
    SmsTest = "sms.test",
    /// A key was removed from the key file.
    SecretForget = "secret.forget",
}

impl AuditAction {
    /// Parses an [`AuditAction::name`].
    pub fn parse(name: &str) -> Option<AuditAction> {
        AuditAction::ALL.iter().copied().find(|action| action.name() == name)
    }

    /// The kind of object, such as `message`.
    pub fn subject(self) -> &'static str {
        self.name().split_once('.').map_or("", |(subject, _)| subject)
    }
}

/// The outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditOutcome {
    /// Done, or shown.
    Done,
    /// No such object.
    NotFound,
    /// Refused by a rule.
    Refused,
    /// Failed.
    Failed,
}

impl AuditOutcome {
    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            AuditOutcome::Done => "done",
            AuditOutcome::NotFound => "not_found",
            AuditOutcome::Refused => "refused",
            AuditOutcome::Failed => "failed",
        }
    }
}

/// A detail of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditDetail {
    /// A text.
    Text(String),
    /// A number.
    Number(u64),
    /// Yes or no.
    Flag(bool),
    /// Several texts.
    List(Vec<String>),
}

impl From<&str> for AuditDetail {
    fn from(text: &str) -> Self {
        AuditDetail::Text(text.to_owned())
    }
}

impl From<String> for AuditDetail {
    fn from(text: String) -> Self {
        AuditDetail::Text(text)
    }
}

impl From<usize> for AuditDetail {
    fn from(number: usize) -> Self {
        AuditDetail::Number(number as u64)
    }
}

impl From<bool> for AuditDetail {
    fn from(flag: bool) -> Self {
        AuditDetail::Flag(flag)
    }
}

impl From<Vec<String>> for AuditDetail {
    fn from(list: Vec<String>) -> Self {
        AuditDetail::List(list)
    }
}

/// An entry of the audit log.
#[derive(Clone, Debug)]
pub struct AuditEntry {
    /// UUIDv7.
    pub id: Uuid,
    /// When.
    pub at: OffsetDateTime,
    /// Who.
    pub actor: Actor,
    /// What.
    pub action: AuditAction,
    /// Id of the object, if it is exactly one; never a phone number.
    pub subject: Option<String>,
    /// Phones whose data was shown or changed, each once, at most [`MAX_PHONES`].
    pub phones: Vec<Phone>,
    /// The reason the actor gave.
    pub reason: Option<String>,
    /// `X-Request-Id` of the request.
    pub request: Option<String>,
    /// Address of the caller.
    pub peer: Option<IpAddr>,
    /// Filters, counts and changes. No phone numbers, contents or secrets.
    pub details: Vec<(&'static str, AuditDetail)>,
    /// The outcome.
    pub outcome: AuditOutcome,
}

impl AuditEntry {
    /// Sets the object.
    #[must_use]
    pub fn of(mut self, id: impl ToString) -> AuditEntry {
        self.subject = Some(id.to_string());
        self
    }

    /// Sets the phones, each once.
    #[must_use]
    pub fn about<'a>(mut self, phones: impl IntoIterator<Item = &'a Phone>) -> AuditEntry {
        let mut known: std::collections::HashSet<&Phone> = std::collections::HashSet::new();
        let all: Vec<&Phone> = phones.into_iter().filter(|phone| known.insert(phone)).collect();
        let unnamed = all.len().saturating_sub(MAX_PHONES);
        self.phones = all.into_iter().take(MAX_PHONES).cloned().collect();
        if unnamed > 0 { self.with("phonesNotNamed", unnamed) } else { self }
    }

    /// Adds a detail.
    #[must_use]
    pub fn with(mut self, name: &'static str, detail: impl Into<AuditDetail>) -> AuditEntry {
        self.details.push((name, detail.into()));
        self
    }

    /// Adds a detail, if there is one.
    #[must_use]
    pub fn with_some(
        self,
        name: &'static str,
        detail: Option<impl Into<AuditDetail>>,
    ) -> AuditEntry {
        match detail {
            Some(detail) => self.with(name, detail),
            None => self,
        }
    }

    /// Sets the outcome; without this it is `Done`.
    #[must_use]
    pub fn ended(mut self, outcome: AuditOutcome) -> AuditEntry {
        self.outcome = outcome;
        self
    }

    /// The phone, if there is exactly one.
    pub fn phone(&self) -> Option<&Phone> {
        match self.phones.as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }
}

/// Validates a reason; blank is none.
///
/// # Errors
/// The reason is too long or has control characters.
pub fn reason(text: &str) -> Result<Option<String>, FieldError> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if text.chars().count() > MAX_REASON_LEN {
        let message = format!("reason must have at most {MAX_REASON_LEN} characters");
        return Err(FieldError::new("reason", "too_long", message));
    }
    if text.chars().any(char::is_control) {
        return Err(FieldError::new(
            "reason",
            "invalid_character",
            "reason must be one line of text",
        ));
    }
    Ok(Some(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_have_names_of_one_form_each_once() {
        let mut names: Vec<&str> = AuditAction::ALL.iter().map(|action| action.name()).collect();
        for name in &names {
            let (subject, verb) = name.split_once('.').unwrap();
            let plain = |word: &str| word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            assert!(plain(subject) && plain(verb) && !subject.is_empty() && !verb.is_empty());
            assert_eq!(AuditAction::parse(name).unwrap().name(), *name);
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), AuditAction::ALL.len());
        assert_eq!(AuditAction::DeadLetterShow.subject(), "dead_letter");
        assert_eq!(AuditAction::parse("fly.away"), None);
    }

    #[test]
    fn reasons_are_one_short_line() {
        assert_eq!(reason("  "), Ok(None));
        assert_eq!(reason(" ticket 7 "), Ok(Some("ticket 7".to_owned())));
        assert!(reason(&"x".repeat(MAX_REASON_LEN)).is_ok());
        assert!(reason(&"x".repeat(MAX_REASON_LEN + 1)).is_err());
        assert!(reason("two\nlines").is_err());
    }
}
