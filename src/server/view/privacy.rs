//! Export records of a phone number, and the result of an erasure.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{DeadLetterView, MessageView, WholeConversationView};
use crate::{
    app::admin::privacy::{
        Erased, ErasureCounts, ExportedDevice, ExportedRegistration, PresenceRecord, TimelineEvent,
    },
    domain::Phone,
    store::{accounts::MobileUser, tokens::TokenInfo},
};

/// A record of an export.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(tag = "record", rename_all = "camelCase")]
#[schema(as = ExportRecord)]
pub(in crate::server) enum ExportRecord<'a> {
    /// The mobile user.
    #[serde(rename_all = "camelCase")]
    MobileUser {
        id: uuid::Uuid,
        phone: &'a str,
        status: &'static str,
        #[serde(with = "crate::server::timestamp")]
        created_at: OffsetDateTime,
        #[serde(with = "crate::server::timestamp::option")]
        blocked_at: Option<OffsetDateTime>,
        email: Option<&'a str>,
    },
    /// The last connection.
    #[serde(rename_all = "camelCase")]
    Presence {
        #[serde(with = "crate::server::timestamp")]
        connected_at: OffsetDateTime,
        #[serde(with = "crate::server::timestamp::option")]
        disconnected_at: Option<OffsetDateTime>,
        disconnect_reason: Option<&'a str>,
    },
    /// A device registered for push.
    #[serde(rename_all = "camelCase")]
    Device {
        id: uuid::Uuid,
        token: &'a str,
        platform: &'static str,
        active: bool,
        #[serde(with = "crate::server::timestamp")]
        created_at: OffsetDateTime,
        #[serde(with = "crate::server::timestamp::option")]
        last_used_at: Option<OffsetDateTime>,
    },
    /// A registration by one-time code, without the code, which is not stored.
    #[serde(rename_all = "camelCase")]
    Registration {
        id: uuid::Uuid,
        channel: &'a str,
        platform: Option<&'a str>,
        locale: Option<&'a str>,
        /// The client's address.
        address: &'a str,
        country: &'a str,
        sends: i32,
        #[serde(with = "crate::server::timestamp")]
        created_at: OffsetDateTime,
        #[serde(with = "crate::server::timestamp::option")]
        verified_at: Option<OffsetDateTime>,
    },
    /// An access token, without the token itself, which is not stored.
    #[serde(rename_all = "camelCase")]
    Token {
        id: uuid::Uuid,
        #[serde(with = "crate::server::timestamp")]
        created_at: OffsetDateTime,
        #[serde(with = "crate::server::timestamp::option")]
        expires_at: Option<OffsetDateTime>,
        #[serde(with = "crate::server::timestamp::option")]
        revoked_at: Option<OffsetDateTime>,
        #[serde(with = "crate::server::timestamp::option")]
        last_used_at: Option<OffsetDateTime>,
    },
    /// With a business.
    Conversation {
        #[serde(flatten)]
        conversation: WholeConversationView<'a>,
    },
    /// A message to or from the phone.
    Message {
        #[serde(flatten)]
        message: MessageView<'a>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        events: Vec<EventView<'a>>,
    },
    /// A dead letter.
    DeadLetter {
        #[serde(flatten)]
        letter: DeadLetterView<'a>,
    },
}

/// A delivery event, such as a retry.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ExportedEvent)]
pub(in crate::server) struct EventView<'a> {
    /// When the event happened; for a repeated event, the first time.
    #[serde(with = "crate::server::timestamp")]
    at: OffsetDateTime,
    /// Such as `retry` or `connection_lost`.
    kind: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
    /// Number of times; only for a repeated event.
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u32>,
    /// The last time; only for a repeated event.
    #[serde(skip_serializing_if = "Option::is_none", with = "crate::server::timestamp::option")]
    last_at: Option<OffsetDateTime>,
}

impl<'a> From<&'a TimelineEvent> for EventView<'a> {
    fn from(event: &'a TimelineEvent) -> Self {
        let often = event.count > 1;
        EventView {
            at: event.at,
            kind: &event.kind,
            detail: &event.detail,
            count: often.then_some(event.count),
            last_at: often.then_some(event.last_at),
        }
    }
}

impl<'a> From<&'a MobileUser> for ExportRecord<'a> {
    fn from(user: &'a MobileUser) -> Self {
        ExportRecord::MobileUser {
            id: user.id.0,
            phone: user.phone.as_str(),
            status: user.status.name(),
            created_at: user.created_at,
            blocked_at: user.blocked_at,
            email: user.email.as_deref(),
        }
    }
}

impl<'a> From<&'a PresenceRecord> for ExportRecord<'a> {
    fn from(trace: &'a PresenceRecord) -> Self {
        ExportRecord::Presence {
            connected_at: trace.connected_at,
            disconnected_at: trace.disconnected_at,
            disconnect_reason: trace.disconnect_reason.as_deref(),
        }
    }
}

impl<'a> From<&'a ExportedRegistration> for ExportRecord<'a> {
    fn from(one: &'a ExportedRegistration) -> Self {
        ExportRecord::Registration {
            id: one.id,
            channel: &one.channel,
            platform: one.platform.as_deref(),
            locale: one.locale.as_deref(),
            address: &one.network,
            country: &one.country,
            sends: one.sends,
            created_at: one.created_at,
            verified_at: one.verified_at,
        }
    }
}

impl<'a> From<&'a ExportedDevice> for ExportRecord<'a> {
    fn from(device: &'a ExportedDevice) -> Self {
        ExportRecord::Device {
            id: device.id,
            token: &device.token,
            platform: match device.platform {
                0 => "android",
                1 => "ios",
                _ => "web",
            },
            active: device.active,
            created_at: device.created_at,
            last_used_at: device.last_used_at,
        }
    }
}

impl From<&TokenInfo> for ExportRecord<'_> {
    fn from(token: &TokenInfo) -> Self {
        ExportRecord::Token {
            id: token.id.0,
            created_at: token.created_at,
            expires_at: token.expires_at,
            revoked_at: token.revoked_at,
            last_used_at: token.last_used_at,
        }
    }
}

/// Progress of an erasure.
#[derive(Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ErasureProgress)]
pub(crate) struct ProgressView {
    /// Messages found at the start.
    pub(crate) messages: u64,
    /// Messages erased so far.
    pub(crate) gone: u64,
}

/// The result of an erasure, or of its preview.
#[derive(Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Erasure)]
pub(crate) struct ErasureView<'a> {
    pub(crate) phone: &'a str,
    /// Whether this is a preview: nothing was erased.
    pub(crate) dry_run: bool,
    /// What was erased, or would be, by store.
    #[serde(borrow)]
    pub(crate) erased: Vec<ErasedView<'a>>,
    /// Stores that could not be reached: the data there remains.
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) missed: Vec<MissedView<'a>>,
}

/// How much of a kind.
#[derive(Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ErasedRows)]
pub(crate) struct ErasedView<'a> {
    /// `database` or `redis`.
    pub(crate) store: &'a str,
    pub(crate) what: &'a str,
    pub(crate) count: u64,
}

/// Where something is left.
#[derive(Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = NotErased)]
pub(crate) struct MissedView<'a> {
    pub(crate) store: &'a str,
    pub(crate) why: String,
}

fn lines(counts: &ErasureCounts) -> Vec<ErasedView<'static>> {
    let view = |(what, count)| ErasedView {
        store: "database",
        what,
        count: u64::try_from(count).unwrap_or_default(),
    };
    counts.named().into_iter().map(view).collect()
}

impl<'a> ErasureView<'a> {
    /// Of one that would be.
    pub(in crate::server) fn preview(phone: &'a Phone, counts: &ErasureCounts) -> ErasureView<'a> {
        let (phone, erased) = (phone.as_str(), lines(counts));
        ErasureView { phone, dry_run: true, erased, missed: Vec::new() }
    }

    /// Of one that was.
    pub(in crate::server) fn done(phone: &'a Phone, done: &Erased) -> ErasureView<'a> {
        let (phone, mut erased) = (phone.as_str(), lines(&done.counts));
        let mut missed = Vec::new();
        match &done.redis {
            Some(Ok((party, pages))) => erased.extend([
                ErasedView { store: "redis", what: "presence and rates", count: *party },
                ErasedView { store: "redis", what: "cached pages, of all users", count: *pages },
            ]),
            Some(Err(error)) => {
                missed.push(MissedView { store: "redis", why: error.to_string() });
            }
            None => {}
        }
        ErasureView { phone, dry_run: false, erased, missed }
    }
}
