//! How people, tokens and the audit log look to administrators, over HTTP and from the command.

use serde::Serialize;
use time::OffsetDateTime;

use crate::{
    domain::{Permission, Phone},
    store::{
        accounts::{BusinessUser, MobileUser},
        audit::Recorded,
        tokens::Listed,
    },
};

/// A business user.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UserView {
    id: uuid::Uuid,
    name: String,
    phone: Option<String>,
    permissions: Vec<&'static str>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    disabled_at: Option<OffsetDateTime>,
}

impl From<BusinessUser> for UserView {
    fn from(user: BusinessUser) -> Self {
        UserView {
            id: user.id.0,
            name: user.name,
            phone: user.phone.map(|phone| phone.as_str().to_owned()),
            permissions: user.permissions.iter().map(Permission::name).collect(),
            created_at: user.created_at,
            disabled_at: user.disabled_at,
        }
    }
}

/// A mobile user.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MobileView {
    id: uuid::Uuid,
    phone: String,
    status: &'static str,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<MobileUser> for MobileView {
    fn from(user: MobileUser) -> Self {
        MobileView {
            id: user.id.0,
            phone: user.phone.as_str().to_owned(),
            status: user.status.name(),
            created_at: user.created_at,
        }
    }
}

/// A token, but not the token itself.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenView {
    id: uuid::Uuid,
    user: Option<String>,
    mobile: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    revoked_at: Option<OffsetDateTime>,
}

impl From<Listed> for TokenView {
    fn from(token: Listed) -> Self {
        TokenView {
            id: token.id.0,
            user: token.user,
            mobile: token.phone.map(|phone| phone.as_str().to_owned()),
            created_at: token.created_at,
            expires_at: token.expires_at,
            revoked_at: token.revoked_at,
        }
    }
}

/// An entry of the audit log.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditView<'a> {
    id: uuid::Uuid,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    actor_kind: &'a str,
    /// A business user's name, or as what else it is known.
    actor: &'a str,
    actor_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<uuid::Uuid>,
    action: &'a str,
    subject_kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phone: Option<&'a str>,
    /// How many phones it was about.
    phones: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    outcome: &'a str,
    details: &'a serde_json::Value,
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
            outcome: &entry.outcome,
            details: &entry.details,
        }
    }
}

/// Entries for the wire.
pub fn audit(entries: &[Recorded]) -> Vec<AuditView<'_>> {
    entries.iter().map(AuditView::from).collect()
}
