//! Resources of the admin API: users, tokens, the audit log, reconciliation.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::{MessageView, WholeConversationView, messages};
use crate::{
    app::{
        admin::conversations::Overview,
        admin::numbers::Doubted,
        admin::reconciliation::Reconciliation,
        identity::tokens::{Issued, Rotated},
    },
    domain::{Permission, Phone, phone::PhoneIssue},
    store::{
        accounts::{BusinessUser, MobileUser},
        audit::AuditRecord,
        tokens::TokenInfo,
    },
};

/// A business user.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = User)]
pub struct UserView<'a> {
    pub(crate) id: uuid::Uuid,
    pub(crate) name: &'a str,
    /// Phone number in E.164.
    pub(crate) phone: Option<&'a str>,
    /// `SendMessages`, `Chat`, `Broadcast`, `Admin`.
    pub(crate) permissions: Vec<&'static str>,
    #[serde(with = "crate::server::timestamp")]
    pub(crate) created_at: OffsetDateTime,
    /// When the user was disabled; null if enabled.
    #[serde(with = "crate::server::timestamp::option")]
    pub(crate) disabled_at: Option<OffsetDateTime>,
    /// What its messages may contain; absent without a policy, and in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub(crate) content_policy: Option<Value>,
}

impl<'a> From<&'a BusinessUser> for UserView<'a> {
    fn from(user: &'a BusinessUser) -> Self {
        UserView {
            id: user.id.0,
            name: &user.name,
            phone: user.phone.as_ref().map(Phone::as_str),
            permissions: user.permissions.iter().map(Permission::name).collect(),
            created_at: user.created_at,
            disabled_at: user.disabled_at,
            content_policy: user
                .content_policy
                .as_deref()
                .and_then(|text| serde_json::from_str(text).ok()),
        }
    }
}

/// A stored phone number that needs a check, and why.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DoubtedNumber)]
pub struct DoubtedView<'a> {
    /// The number as stored.
    pub(crate) phone: &'a str,
    /// Messages to this number.
    pub(crate) messages: i64,
    /// Whether the number belongs to a mobile user.
    pub(crate) mobile_user: bool,
    /// The number that was probably meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) may_have_been: Option<&'a str>,
    /// Why the number needs a check.
    pub(crate) reason: String,
}

impl<'a> From<&'a Doubted> for DoubtedView<'a> {
    fn from(one: &'a Doubted) -> Self {
        let (other, reason) = match &one.doubt {
            PhoneIssue::Unreadable(why) => (None, format!("it {why}")),
            PhoneIssue::ReadAs(other) => (Some(other), "it is not in E.164 form".to_owned()),
            PhoneIssue::MayHaveBeen(other) => {
                let reason = "the national prefix was removed from another country's number";
                (Some(other), reason.to_owned())
            }
        };
        DoubtedView {
            phone: one.phone.as_str(),
            messages: one.messages,
            mobile_user: one.is_mobile_user,
            may_have_been: other.map(Phone::as_str),
            reason,
        }
    }
}

/// A mobile user.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = MobileUser)]
pub struct MobileView<'a> {
    pub(crate) id: uuid::Uuid,
    /// Phone number in E.164.
    pub(crate) phone: &'a str,
    /// `pending` or `verified`.
    pub(crate) status: &'static str,
    #[serde(with = "crate::server::timestamp")]
    pub(crate) created_at: OffsetDateTime,
    /// Null if the phone is not blocked.
    #[serde(with = "crate::server::timestamp::option")]
    pub(crate) blocked_at: Option<OffsetDateTime>,
    /// Where codes may be mailed to; null if nowhere.
    pub(crate) email: Option<&'a str>,
}

impl<'a> From<&'a MobileUser> for MobileView<'a> {
    fn from(user: &'a MobileUser) -> Self {
        MobileView {
            id: user.id.0,
            phone: user.phone.as_str(),
            status: user.status.name(),
            created_at: user.created_at,
            blocked_at: user.blocked_at,
            email: user.email.as_deref(),
        }
    }
}

/// An access token, without the token itself.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Token)]
pub struct TokenView<'a> {
    pub(crate) id: uuid::Uuid,
    /// Name of the business user; null for a phone.
    pub(crate) user: Option<&'a str>,
    /// Phone number in E.164; null for a business user.
    pub(crate) mobile: Option<&'a str>,
    #[serde(with = "crate::server::timestamp")]
    pub(crate) created_at: OffsetDateTime,
    /// Null if the token never expires.
    #[serde(with = "crate::server::timestamp::option")]
    pub(crate) expires_at: Option<OffsetDateTime>,
    /// Null if the token was not revoked.
    #[serde(with = "crate::server::timestamp::option")]
    pub(crate) revoked_at: Option<OffsetDateTime>,
    /// To the minute; null if the token was never used.
    #[serde(with = "crate::server::timestamp::option")]
    pub(crate) last_used_at: Option<OffsetDateTime>,
}

/// How many tokens were revoked.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = RevokedTokens)]
pub struct RevokedView {
    pub(crate) revoked: u64,
}

impl<'a> From<&'a TokenInfo> for TokenView<'a> {
    fn from(token: &'a TokenInfo) -> Self {
        TokenView {
            id: token.id.0,
            user: token.user.as_deref(),
            mobile: token.phone.as_ref().map(Phone::as_str),
            created_at: token.created_at,
            expires_at: token.expires_at,
            revoked_at: token.revoked_at,
            last_used_at: token.last_used_at,
        }
    }
}

/// An entry of the audit log.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AuditEntry)]
pub struct AuditView<'a> {
    pub(crate) id: uuid::Uuid,
    #[serde(with = "crate::server::timestamp")]
    pub(crate) at: OffsetDateTime,
    /// `user`, `phone` or `command`.
    pub(crate) actor_kind: &'a str,
    /// Name of the business user, else the same as `actorId`.
    pub(crate) actor: &'a str,
    /// A user id, a phone number, or `user@host` for a command.
    pub(crate) actor_id: &'a str,
    /// Token the actor used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_id: Option<uuid::Uuid>,
    /// Such as `message.show`.
    pub(crate) action: &'a str,
    /// Kind of object, such as `message`.
    pub(crate) subject_kind: &'a str,
    /// Id of the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<&'a str>,
    /// Phone number the entry is about, if it is exactly one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) phone: Option<&'a str>,
    /// Number of phone numbers the entry is about.
    pub(crate) phones: i64,
    /// Reason the actor gave; at most 500 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'a str>,
    /// `X-Request-Id` of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_id: Option<&'a str>,
    /// IP address of the caller, for API requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) peer: Option<std::net::IpAddr>,
    /// `done`, `not_found`, `refused` or `failed`.
    pub(crate) outcome: &'a str,
    /// Filters, counts and changes; no phone numbers, contents or secrets.
    #[schema(value_type = Object)]
    pub(crate) details: Cow<'a, Value>,
}

impl<'a> From<&'a AuditRecord> for AuditView<'a> {
    fn from(entry: &'a AuditRecord) -> Self {
        AuditView {
            id: entry.id,
            at: entry.at,
            actor_kind: &entry.actor_kind,
            actor: entry.actor_name.as_deref().unwrap_or(&entry.actor),
            actor_id: &entry.actor,
            token_id: entry.token,
            action: &entry.action,
            subject_kind: &entry.subject_kind,
            subject: entry.subject.as_deref(),
            phone: entry.phone.as_ref().map(Phone::as_str),
            phones: entry.phones,
            reason: entry.reason.as_deref(),
            request_id: entry.request.as_deref(),
            peer: entry.peer,
            outcome: &entry.outcome,
            details: Cow::Borrowed(&entry.details),
        }
    }
}

/// A new access token; the only response that shows the token.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = IssuedToken)]
pub struct IssuedView {
    id: uuid::Uuid,
    /// The token; shown in this response only.
    token: String,
    /// Null if the token never expires.
    #[serde(with = "crate::server::timestamp::option")]
    expires_at: Option<OffsetDateTime>,
}

impl From<Issued> for IssuedView {
    fn from(issued: Issued) -> Self {
        IssuedView { id: issued.id.0, token: issued.token, expires_at: issued.expires_at }
    }
}

/// A new access token that replaces another.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RotatedToken)]
pub struct RotatedView {
    #[serde(flatten)]
    issued: IssuedView,
    /// Id of the replaced token.
    replaces: uuid::Uuid,
    /// When the replaced token stops being valid.
    #[serde(with = "crate::server::timestamp")]
    old_until: OffsetDateTime,
}

impl From<Rotated> for RotatedView {
    fn from(rotated: Rotated) -> Self {
        RotatedView {
            issued: rotated.issued.into(),
            replaces: rotated.replaces.0,
            old_until: rotated.old_until,
        }
    }
}

/// A conversation with message counts and its last messages.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ConversationOverview)]
pub struct ConversationOverviewView<'a> {
    #[serde(flatten, borrow)]
    pub(crate) conversation: WholeConversationView<'a>,
    /// Number of messages by status; statuses without messages are omitted.
    #[schema(value_type = std::collections::BTreeMap<String, i64>)]
    pub(crate) messages: Map<String, Value>,
    /// Oldest first.
    #[serde(borrow)]
    pub(crate) last_messages: Vec<MessageView<'a>>,
}

impl<'a> From<&'a Overview> for ConversationOverviewView<'a> {
    fn from(found: &'a Overview) -> Self {
        let counts = found.counts.iter();
        ConversationOverviewView {
            conversation: (&found.conversation).into(),
            messages: counts.map(|(status, n)| (status.name().to_owned(), (*n).into())).collect(),
            last_messages: messages(&found.last),
        }
    }
}

/// Reconciliation totals of a business user and a day.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = BookOfDay)]
pub(crate) struct DayView<'a> {
    /// Id of the business user.
    pub(crate) business: uuid::Uuid,
    /// Name of the business user; empty if it no longer exists.
    pub(crate) name: &'a str,
    /// UTC date, `YYYY-MM-DD`.
    pub(crate) day: String,
    /// Messages counted at acceptance.
    pub(crate) accepted: i64,
    /// Stored messages with this status now.
    pub(crate) pending: i64,
    /// Stored messages with this status now.
    pub(crate) sent: i64,
    /// Stored messages with this status now.
    pub(crate) delivered: i64,
    /// Stored messages with this status now.
    pub(crate) read: i64,
    /// Stored messages with this status now.
    pub(crate) failed: i64,
    /// Messages deleted, erased or removed by retention.
    pub(crate) erased: i64,
    /// `accepted` minus all others; negative if there are more messages than were counted.
    pub(crate) missing: i64,
}

/// A message whose records contradict each other.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Discrepancy)]
pub(crate) struct DiscrepancyView<'a> {
    /// Message id.
    pub(crate) id: uuid::Uuid,
    /// `overdue`, `failed_without_dead_letter` or `dead_letter_of_no_failure`.
    pub(crate) kind: &'a str,
}

/// The result of a reconciliation.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Books)]
pub struct BooksView<'a> {
    /// Whether `unaccounted` is 0.
    pub(crate) balanced: bool,
    /// Messages not accounted for.
    pub(crate) unaccounted: u64,
    /// Per business user and day, newest day first.
    #[serde(borrow)]
    pub(crate) days: Vec<DayView<'a>>,
    /// Messages whose own records contradict each other.
    #[serde(borrow)]
    pub(crate) discrepancies: Vec<DiscrepancyView<'a>>,
}

impl<'a> From<&'a Reconciliation> for BooksView<'a> {
    fn from(audit: &'a Reconciliation) -> Self {
        let unaccounted = audit.unaccounted();
        let days = audit.days.iter().map(|day| DayView {
            business: day.business.0,
            name: &day.name,
            day: day.day.to_string(),
            accepted: day.accepted,
            pending: day.pending,
            sent: day.sent,
            delivered: day.delivered,
            read: day.read,
            failed: day.failed,
            erased: day.erased,
            missing: day.missing(),
        });
        let off = audit.discrepancies.iter();
        BooksView {
            balanced: unaccounted == 0,
            unaccounted,
            days: days.collect(),
            discrepancies: off
                .map(|one| DiscrepancyView { id: one.message.0, kind: one.kind })
                .collect(),
        }
    }
}
