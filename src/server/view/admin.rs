//! How people, tokens and the audit log look to administrators, over HTTP and from the command.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::{MessageView, WholeConversationView, messages};
use crate::{
    app::{
        books::Audit,
        numbers::Doubted,
        supervision::Overview,
        tokens::{Issued, Rotated},
    },
    domain::{Permission, Phone, phone::Doubt},
    store::{
        accounts::{BusinessUser, MobileUser},
        audit::Recorded,
        tokens::Listed,
    },
};

/// A business user.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = User)]
pub struct UserView<'a> {
    pub(crate) id: uuid::Uuid,
    pub(crate) name: &'a str,
    pub(crate) phone: Option<&'a str>,
    pub(crate) permissions: Vec<&'static str>,
    #[serde(with = "crate::server::timestamp")]
    pub(crate) created_at: OffsetDateTime,
    #[serde(with = "crate::server::timestamp::option")]
    pub(crate) disabled_at: Option<OffsetDateTime>,
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
        }
    }
}

/// A number that is stored, and why it is to be looked at.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DoubtedNumber)]
pub struct DoubtedView<'a> {
    pub(crate) phone: &'a str,
    /// Messages to it.
    pub(crate) messages: i64,
    /// Whether a mobile user has it.
    pub(crate) mobile_user: bool,
    /// The number that it may have been when it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) may_have_been: Option<&'a str>,
    pub(crate) reason: String,
}

impl<'a> From<&'a Doubted> for DoubtedView<'a> {
    fn from(one: &'a Doubted) -> Self {
        let (other, reason) = match &one.doubt {
            Doubt::Unreadable(why) => (None, format!("it {why}")),
            Doubt::ReadAs(other) => (Some(other), "it is not in E.164".to_owned()),
            Doubt::MayHaveBeen(other) => {
                let reason = "the prefix of the region was taken off another country's number";
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
    pub(crate) phone: &'a str,
    pub(crate) status: &'static str,
    #[serde(with = "crate::server::timestamp")]
    pub(crate) created_at: OffsetDateTime,
}

impl<'a> From<&'a MobileUser> for MobileView<'a> {
    fn from(user: &'a MobileUser) -> Self {
        MobileView {
            id: user.id.0,
            phone: user.phone.as_str(),
            status: user.status.name(),
            created_at: user.created_at,
        }
    }
}

/// A token, but not the token itself.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Token)]
pub struct TokenView<'a> {
    pub(crate) id: uuid::Uuid,
    pub(crate) user: Option<&'a str>,
    pub(crate) mobile: Option<&'a str>,
    #[serde(with = "crate::server::timestamp")]
    pub(crate) created_at: OffsetDateTime,
    #[serde(with = "crate::server::timestamp::option")]
    pub(crate) expires_at: Option<OffsetDateTime>,
    #[serde(with = "crate::server::timestamp::option")]
    pub(crate) revoked_at: Option<OffsetDateTime>,
}

impl<'a> From<&'a Listed> for TokenView<'a> {
    fn from(token: &'a Listed) -> Self {
        TokenView {
            id: token.id.0,
            user: token.user.as_deref(),
            mobile: token.phone.as_ref().map(Phone::as_str),
            created_at: token.created_at,
            expires_at: token.expires_at,
            revoked_at: token.revoked_at,
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
    pub(crate) actor_kind: &'a str,
    /// A business user's name, or as what else it is known.
    pub(crate) actor: &'a str,
    pub(crate) actor_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_id: Option<uuid::Uuid>,
    pub(crate) action: &'a str,
    pub(crate) subject_kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) phone: Option<&'a str>,
    /// How many phones it was about.
    pub(crate) phones: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_id: Option<&'a str>,
    /// The address that it came from, for what came over the API.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) peer: Option<std::net::IpAddr>,
    pub(crate) outcome: &'a str,
    #[schema(value_type = Object)]
    pub(crate) details: Cow<'a, Value>,
}

impl<'a> From<&'a Recorded> for AuditView<'a> {
    fn from(entry: &'a Recorded) -> Self {
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

/// A new token, this once.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = IssuedToken)]
pub struct IssuedView {
    id: uuid::Uuid,
    token: String,
    #[serde(with = "crate::server::timestamp::option")]
    expires_at: Option<OffsetDateTime>,
}

impl From<Issued> for IssuedView {
    fn from(issued: Issued) -> Self {
        IssuedView { id: issued.id.0, token: issued.token, expires_at: issued.expires_at }
    }
}

/// A new token in the place of another.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RotatedToken)]
pub struct RotatedView {
    #[serde(flatten)]
    issued: IssuedView,
    replaces: uuid::Uuid,
    /// Until when the other one opens things as well.
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

/// A conversation with its counts and its last messages.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ConversationOverview)]
pub struct ConversationOverviewView<'a> {
    #[serde(flatten, borrow)]
    pub(crate) conversation: WholeConversationView<'a>,
    /// How many messages are in each status that some are in.
    #[schema(value_type = std::collections::BTreeMap<String, i64>)]
    pub(crate) messages: Map<String, Value>,
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

/// One business' and day's part of the books.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = BookOfDay)]
pub(crate) struct DayView<'a> {
    pub(crate) business: uuid::Uuid,
    pub(crate) name: &'a str,
    pub(crate) day: String,
    pub(crate) accepted: i64,
    pub(crate) pending: i64,
    pub(crate) sent: i64,
    pub(crate) delivered: i64,
    pub(crate) read: i64,
    pub(crate) failed: i64,
    pub(crate) erased: i64,
    pub(crate) missing: i64,
}

/// A message that does not add up.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Discrepancy)]
pub(crate) struct DiscrepancyView<'a> {
    pub(crate) id: uuid::Uuid,
    pub(crate) kind: &'a str,
}

/// Whether every accepted message is accounted for.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Books)]
pub struct BooksView<'a> {
    pub(crate) balanced: bool,
    pub(crate) unaccounted: u64,
    #[serde(borrow)]
    pub(crate) days: Vec<DayView<'a>>,
    #[serde(borrow)]
    pub(crate) discrepancies: Vec<DiscrepancyView<'a>>,
}

impl<'a> From<&'a Audit> for BooksView<'a> {
    fn from(audit: &'a Audit) -> Self {
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
