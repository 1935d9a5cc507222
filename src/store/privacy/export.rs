//! Reads everything stored about a phone number, for an export.

use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    domain::{Message, MessageId, Phone},
    store::{Client, Error, Statements, rows, statement::statements, timeline::TimelineEvent},
};

statements! {
    DEVICES: once = "
        SELECT id, token, platform, active, created_at, last_used_at FROM device_tokens
        WHERE phone = $1 ORDER BY id LIMIT 1000";
    REGISTRATIONS: once = "
        SELECT id, channel, platform, locale, network, country, sends, created_at, verified_at
        FROM registrations WHERE phone = $1 ORDER BY created_at LIMIT 1000";
    TRACE: once = "
        SELECT connected_at, disconnected_at, disconnect_reason FROM recipients WHERE phone = $1";
    EVENTS_OF = "
        SELECT message_id, at, generation, kind, detail, count, coalesce(last_at, at) AS last_at
        FROM delivery_events
        WHERE message_id = ANY ($1) ORDER BY id";
    ONE_WAY = rows::select_messages!(
        "WHERE m.recipient_phone = $1 AND m.type = 0 AND m.id > $2 ORDER BY m.id LIMIT $3"
    );
}

/// A device registered for push.
#[derive(Clone, Debug)]
pub struct ExportedDevice {
    pub id: Uuid,
    /// Push token.
    pub token: String,
    /// The stored number: 0 Android, 1 iOS, 2 web.
    pub platform: i16,
    pub active: bool,
    pub created_at: OffsetDateTime,
    pub last_used_at: Option<OffsetDateTime>,
}

/// A registration of the number.
#[derive(Clone, Debug)]
pub struct ExportedRegistration {
    pub id: Uuid,
    /// `sms` or `email`.
    pub channel: String,
    pub platform: Option<String>,
    pub locale: Option<String>,
    /// The address that asked.
    pub network: String,
    pub country: String,
    pub sends: i32,
    pub created_at: OffsetDateTime,
    pub verified_at: Option<OffsetDateTime>,
}

/// When a phone was last connected.
#[derive(Clone, Debug)]
pub struct PresenceRecord {
    pub connected_at: OffsetDateTime,
    /// `None` while it is connected.
    pub disconnected_at: Option<OffsetDateTime>,
    pub disconnect_reason: Option<String>,
}

/// The devices of a phone.
pub async fn devices(client: &Client, phone: &Phone) -> Result<Vec<ExportedDevice>, Error> {
    let found = client.query(&DEVICES, &[&phone.as_str()]).await?;
    found
        .iter()
        .map(|row| {
            Ok(ExportedDevice {
                id: row.try_get("id")?,
                token: row.try_get("token")?,
                platform: row.try_get("platform")?,
                active: row.try_get("active")?,
                created_at: row.try_get("created_at")?,
                last_used_at: row.try_get("last_used_at")?,
            })
        })
        .collect()
}

/// The registrations of a number that are kept.
pub async fn registrations(
    client: &Client,
    phone: &Phone,
) -> Result<Vec<ExportedRegistration>, Error> {
    let found = client.query(&REGISTRATIONS, &[&phone.as_str()]).await?;
    found
        .iter()
        .map(|row| {
            Ok(ExportedRegistration {
                id: row.try_get("id")?,
                channel: row.try_get("channel")?,
                platform: row.try_get("platform")?,
                locale: row.try_get("locale")?,
                network: row.try_get("network")?,
                country: row.try_get("country")?,
                sends: row.try_get("sends")?,
                created_at: row.try_get("created_at")?,
                verified_at: row.try_get("verified_at")?,
            })
        })
        .collect()
}

/// When a phone was last connected.
pub async fn presence(client: &Client, phone: &Phone) -> Result<Option<PresenceRecord>, Error> {
    let row = client.query_opt(&TRACE, &[&phone.as_str()]).await?;
    row.map(|row| {
        Ok(PresenceRecord {
            connected_at: row.try_get("connected_at")?,
            disconnected_at: row.try_get("disconnected_at")?,
            disconnect_reason: row.try_get("disconnect_reason")?,
        })
    })
    .transpose()
}

/// Delivery events of these messages, oldest first.
pub async fn events_of(
    client: &Client,
    ids: &[MessageId],
) -> Result<Vec<(MessageId, TimelineEvent)>, Error> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let found = client.query(&EVENTS_OF, &[&ids]).await?;
    found
        .iter()
        .map(|row| Ok((MessageId(row.try_get("message_id")?), TimelineEvent::of_row(row)?)))
        .collect()
}

/// One-way messages to a phone after an id, oldest first, without those that cannot be decoded; and the id to
/// continue from.
pub async fn one_way(
    client: &Client,
    phone: &Phone,
    after: Option<MessageId>,
    limit: i64,
) -> Result<(Vec<Message>, Option<MessageId>), Error> {
    let after = after.map_or(Uuid::nil(), |id| id.0);
    let found = client.query(&ONE_WAY, &[&phone.as_str(), &after, &limit]).await?;
    let next = found.last().map(|row| row.try_get("id")).transpose()?.map(MessageId);
    Ok((rows::readable(&found)?.0, next))
}
