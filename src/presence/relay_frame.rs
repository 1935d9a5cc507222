//! The frames that processes send each other.
//!
//! MessagePack with named fields, so that an older process can read the frames of a newer one. A frame
//! that cannot be read is a gap: its receiver resyncs.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::outbound::{Delivery, Outbound};
use crate::domain::{
    ContentType, Conversation, ConversationId, ConversationStatus, Message, MessageId, NodeId,
    Party, Phone, Priority, Status, UserId, message::ConversationPosition,
};

/// Frames of other versions are not read.
const VERSION: u8 = 1;
/// The number of a frame whose sender took the receiver for dead and removed its connections.
pub(super) const RENEW_REQUEST: u64 = 0;

#[derive(Debug, Serialize, Deserialize)]
struct Frame {
    v: u8,
    from: [u8; 8],
    n: u64,
    items: Vec<Item>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Item {
    to: String,
    #[serde(rename = "say")]
    body: ItemBody,
    /// The first message to read again, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<Uuid>,
}

#[derive(Debug, Serialize, Deserialize)]
enum ItemBody {
    Deliver(Box<MessageData>),
    Own(Box<MessageData>),
    Status { id: Uuid, status: i16, at: i64 },
    Acknowledged(Vec<Uuid>),
    Conversation(Box<ConversationData>),
    Typing { conversation: Uuid, from: String },
    Nudge,
}

#[derive(Debug, Serialize, Deserialize)]
struct MessageData {
    id: Uuid,
    place: Option<(Uuid, i64)>,
    sender: String,
    from: String,
    recipient: String,
    subject: Option<String>,
    content: String,
    content_type: i16,
    priority: i16,
    status: i16,
    generation: i32,
    retry_count: u16,
    failure_reason: Option<String>,
    created_at: i64,
    sent_at: Option<i64>,
    delivered_at: Option<i64>,
    read_at: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ConversationData {
    id: Uuid,
    business: Uuid,
    business_name: String,
    phone: String,
    status: i16,
    last_seq: i64,
    last_at: i64,
    unread_business: i32,
    unread_mobile: i32,
    created_at: i64,
}

fn micros(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1000).unwrap_or_default()
}

fn time(micros: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).ok()
}

impl From<&Message> for MessageData {
    fn from(message: &Message) -> Self {
        MessageData {
            id: message.id.0,
            place: message.position.map(|place| (place.conversation.0, place.seq)),
            sender: message.sender.key(),
            from: message.from.to_string(),
            recipient: message.recipient.key(),
            subject: message.subject.clone(),
            content: message.content.clone(),
            content_type: message.content_type as i16,
            priority: message.priority as i16,
            status: message.status as i16,
            generation: message.generation,
            retry_count: message.retry_count,
            failure_reason: message.failure_reason.clone(),
            created_at: micros(message.created_at),
            sent_at: message.sent_at.map(micros),
            delivered_at: message.delivered_at.map(micros),
            read_at: message.read_at.map(micros),
        }
    }
}

impl MessageData {
    fn read(self) -> Option<Message> {
        Some(Message {
            id: MessageId(self.id),
            position: self.place.map(|(conversation, seq)| ConversationPosition {
                conversation: ConversationId(conversation),
                seq,
            }),
            sender: Party::from_key(&self.sender)?,
            from: self.from.into(),
            recipient: Party::from_key(&self.recipient)?,
            subject: self.subject,
            content: self.content,
            content_type: ContentType::from_number(self.content_type)?,
            priority: Priority::from_number(self.priority)?,
            status: Status::from_number(self.status)?,
            generation: self.generation,
            retry_count: self.retry_count,
            failure_reason: self.failure_reason,
            created_at: time(self.created_at)?,
            sent_at: self.sent_at.and_then(time),
            delivered_at: self.delivered_at.and_then(time),
            read_at: self.read_at.and_then(time),
            flags: Vec::new(),
        })
    }
}

impl From<&Conversation> for ConversationData {
    fn from(conversation: &Conversation) -> Self {
        ConversationData {
            id: conversation.id.0,
            business: conversation.business.0,
            business_name: conversation.business_name.to_string(),
            phone: conversation.phone.as_str().to_owned(),
            status: conversation.status as i16,
            last_seq: conversation.last_seq,
            last_at: micros(conversation.last_at),
            unread_business: conversation.unread_business,
            unread_mobile: conversation.unread_mobile,
            created_at: micros(conversation.created_at),
        }
    }
}

impl ConversationData {
    fn read(self) -> Option<Conversation> {
        Some(Conversation {
            id: ConversationId(self.id),
            business: UserId(self.business),
            business_name: self.business_name.into(),
            phone: Phone::from_stored(&self.phone),
            status: ConversationStatus::from_number(self.status)?,
            last_seq: self.last_seq,
            last_at: time(self.last_at)?,
            unread_business: self.unread_business,
            unread_mobile: self.unread_mobile,
            created_at: time(self.created_at)?,
        })
    }
}

impl ItemBody {
    /// `None` for an item that concerns only connections of this process.
    fn new(outbound: &Outbound) -> Option<ItemBody> {
        Some(match outbound {
            Outbound::Deliver(delivery) => ItemBody::Deliver(Box::new((&delivery.message).into())),
            Outbound::Own { delivery, .. } => ItemBody::Own(Box::new((&delivery.message).into())),
            Outbound::StatusChanged { id, status, at } => {
                ItemBody::Status { id: id.0, status: *status as i16, at: micros(*at) }
            }
            Outbound::Acknowledged(ids) => {
                ItemBody::Acknowledged(ids.iter().map(|id| id.0).collect())
            }
            Outbound::ConversationChanged(conversation) => {
                ItemBody::Conversation(Box::new((&**conversation).into()))
            }
            Outbound::Typing { conversation, from } => {
                ItemBody::Typing { conversation: conversation.0, from: from.to_string() }
            }
            Outbound::Resync(_) => ItemBody::Nudge,
            // Every process finds deletions by itself.
            Outbound::Deleted { .. } | Outbound::Close { .. } => return None,
        })
    }

    fn read(self, since: Option<Uuid>) -> Option<Outbound> {
        Some(match self {
            ItemBody::Deliver(message) => Outbound::Deliver(Delivery::new(message.read()?)),
            ItemBody::Own(message) => {
                Outbound::Own { delivery: Delivery::new(message.read()?), sender_connection: 0 }
            }
            ItemBody::Status { id, status, at } => Outbound::StatusChanged {
                id: MessageId(id),
                status: Status::from_number(status)?,
                at: time(at)?,
            },
            ItemBody::Acknowledged(ids) => {
                Outbound::Acknowledged(ids.into_iter().map(MessageId).collect())
            }
            ItemBody::Conversation(conversation) => {
                Outbound::ConversationChanged(Arc::new(conversation.read()?))
            }
            ItemBody::Typing { conversation, from } => {
                Outbound::Typing { conversation: ConversationId(conversation), from: from.into() }
            }
            ItemBody::Nudge => Outbound::Resync(since.map(MessageId)),
        })
    }
}

/// `None` when no item is for other processes.
pub(super) fn write(from: NodeId, n: u64, items: &[(&Party, &Outbound)]) -> Option<Bytes> {
    let items: Vec<Item> = items
        .iter()
        .filter_map(|(party, outbound)| {
            let since = match outbound {
                Outbound::Resync(since) => since.map(|id| id.0),
                _ => None,
            };
            Some(Item { to: party.key(), body: ItemBody::new(outbound)?, since })
        })
        .collect();
    if items.is_empty() {
        return None;
    }
    rmp_serde::to_vec_named(&Frame { v: VERSION, from: from.into(), n, items })
        .ok()
        .map(Bytes::from)
}

pub(super) struct RelayFrame {
    pub(super) from: NodeId,
    /// Counts the frames from that process to this one, from 1.
    pub(super) n: u64,
    pub(super) items: Vec<(Party, Outbound)>,
}

/// `None` for a frame that cannot be read whole.
pub(super) fn read(bytes: &[u8]) -> Option<RelayFrame> {
    let frame: Frame = rmp_serde::from_slice(bytes).ok()?;
    if frame.v != VERSION {
        return None;
    }
    let items = frame
        .items
        .into_iter()
        .map(|item| Some((Party::from_key(&item.to)?, item.body.read(item.since)?)));
    Some(RelayFrame { from: frame.from.into(), n: frame.n, items: items.collect::<Option<_>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        let at = OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_123_456_000).unwrap();
        Message {
            id: MessageId(Uuid::from_u128(7)),
            position: Some(ConversationPosition {
                conversation: ConversationId(Uuid::from_u128(8)),
                seq: 3,
            }),
            sender: Party::Business(UserId(Uuid::from_u128(9))),
            from: "Shop".into(),
            recipient: Party::Mobile(Phone::from_stored("+967771234567")),
            subject: None,
            content: "مرحبا \u{1f600}".to_owned(),
            content_type: ContentType::Json,
            priority: Priority::High,
            status: Status::Pending,
            generation: 2,
            retry_count: 1,
            failure_reason: None,
            created_at: at,
            sent_at: Some(at),
            delivered_at: None,
            read_at: None,
            flags: Vec::new(),
        }
    }

    #[test]
    fn what_is_said_is_heard() {
        let phone = Party::Mobile(Phone::from_stored("+967771234567"));
        let shop = Party::Business(UserId(Uuid::from_u128(9)));
        let conversation = Conversation {
            id: ConversationId(Uuid::from_u128(1)),
            business: UserId(Uuid::from_u128(9)),
            business_name: "Shop".into(),
            phone: Phone::from_stored("+967771234567"),
            status: ConversationStatus::Archived,
            last_seq: 4,
            last_at: message().created_at,
            unread_business: 1,
            unread_mobile: 2,
            created_at: message().created_at,
        };
        let written = [
            (&phone, Outbound::Deliver(Delivery::new(message()))),
            (&shop, Outbound::Own { delivery: Delivery::new(message()), sender_connection: 0 }),
            (&shop, Outbound::Acknowledged([MessageId(Uuid::from_u128(5))].into())),
            (&shop, Outbound::ConversationChanged(Arc::new(conversation))),
            (
                &shop,
                Outbound::StatusChanged {
                    id: MessageId(Uuid::from_u128(5)),
                    status: Status::Read,
                    at: message().created_at,
                },
            ),
            (&phone, Outbound::Resync(None)),
            (&phone, Outbound::Resync(Some(MessageId(Uuid::from_u128(6))))),
        ];
        let written: Vec<(&Party, &Outbound)> = written.iter().map(|(p, o)| (*p, o)).collect();
        let frame = read(&write([7; 8].into(), 42, &written).unwrap()).unwrap();
        assert_eq!((frame.from, frame.n, frame.items.len()), ([7; 8].into(), 42, written.len()));
        for ((to, outbound), (read_to, frame)) in written.iter().zip(&frame.items) {
            assert_eq!(*to, read_to);
            assert_eq!(format!("{outbound:?}"), format!("{frame:?}"));
        }
    }

    #[test]
    fn what_concerns_one_connection_stays_here_and_garbage_is_no_frame() {
        let phone = Party::Mobile(Phone::from_stored("+967771234567"));
        let close = Outbound::Close { allow_reconnect: true, reason: None };
        assert!(write([0; 8].into(), 1, &[(&phone, &close)]).is_none());
        let good = write([0; 8].into(), 1, &[(&phone, &Outbound::Resync(None))]).unwrap();
        assert!(read(&good).is_some());
        assert!(read(&good[..good.len() - 1]).is_none());
        assert!(read(b"").is_none());
        assert!(read(&[0xC1; 40]).is_none());
    }
}
