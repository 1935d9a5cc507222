//! The JSON shape of resources: the same over HTTP, over the hub and on the command line.

pub mod admin;
pub(crate) mod bulk;
pub(crate) mod privacy;
pub mod stats;
pub(crate) mod timeline;

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};
use time::OffsetDateTime;

pub use timeline::{ExplanationView, MessageStoryView, StepView, timeline};

use crate::{
    domain::{
        Conversation, ConversationId, Message, MessageId, Party, conversation::ConversationKeyset,
        message::ConversationPosition,
    },
    server::pagination,
    store::{ListPage, ScanPosition, dead_letters::DeadLetter},
};

/// A message.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Message)]
pub struct MessageView<'a> {
    pub(crate) id: uuid::Uuid,
    /// `oneWay` or `chat`.
    pub(crate) r#type: &'a str,
    /// Chat messages only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) conversation_id: Option<uuid::Uuid>,
    /// Position in the conversation, from 1 without gaps; chat messages only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seq: Option<i64>,
    /// Display name of the sender: a business user's name or a phone number.
    pub(crate) from: &'a str,
    /// Recipient: a phone number in E.164, or the id of a business user.
    pub(crate) to: String,
    /// At most 200 characters; one-way messages only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<&'a str>,
    /// 1 to 10,000 characters, exactly as sent.
    pub(crate) content: &'a str,
    /// `text` or `json`.
    pub(crate) content_type: &'a str,
    /// `pending`, `sent`, `delivered`, `read` or `failed`.
    pub(crate) status: &'a str,
    /// `low`, `normal` or `high`.
    pub(crate) priority: &'a str,
    /// Always empty in this version.
    #[schema(value_type = Vec<Object>)]
    #[serde(deserialize_with = "ignored")]
    pub(crate) attachments: [(); 0],
    /// When the message was accepted.
    #[serde(with = "crate::server::timestamp")]
    pub(crate) created_at: OffsetDateTime,
    /// When the message was first written to a recipient's connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(with = "crate::server::timestamp::option")]
    pub(crate) sent_at: Option<OffsetDateTime>,
    /// When the recipient's device acknowledged the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(with = "crate::server::timestamp::option")]
    pub(crate) delivered_at: Option<OffsetDateTime>,
    /// When the recipient read the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(with = "crate::server::timestamp::option")]
    pub(crate) read_at: Option<OffsetDateTime>,
    /// Why the message failed; at most 500 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failure_reason: Option<&'a str>,
    /// Rules of the sender's content policy that marked the message; for its sender and administrators.
    #[serde(default, borrow, skip_serializing_if = "Vec::is_empty")]
    pub(crate) flags: Vec<&'a str>,
}

impl<'a> From<&'a Message> for MessageView<'a> {
    fn from(message: &'a Message) -> Self {
        MessageView {
            id: message.id.0,
            r#type: message.kind().name(),
            conversation_id: message.position.map(|place| place.conversation.0),
            seq: message.position.map(|place| place.seq),
            from: &message.from,
            to: addressee(message),
            subject: message.subject.as_deref(),
            content: &message.content,
            content_type: message.content_type.name(),
            status: message.status.name(),
            priority: message.priority.name(),
            attachments: [],
            created_at: message.created_at,
            sent_at: message.sent_at,
            delivered_at: message.delivered_at,
            read_at: message.read_at,
            failure_reason: message.failure_reason.as_deref(),
            flags: Vec::new(),
        }
    }
}

impl<'a> MessageView<'a> {
    /// For its sender and for administrators.
    pub fn with_flags(message: &'a Message) -> MessageView<'a> {
        let flags = message.flags.iter().map(String::as_str).collect();
        MessageView { flags, ..MessageView::from(message) }
    }

    /// For one of its parties: the recipient is not told of flags.
    pub fn seen_by(message: &'a Message, party: &Party) -> MessageView<'a> {
        if message.sender == *party {
            MessageView::with_flags(message)
        } else {
            MessageView::from(message)
        }
    }
}

/// Attachments are not defined yet.
fn ignored<'de, D: Deserializer<'de>>(from: D) -> Result<[(); 0], D::Error> {
    IgnoredAny::deserialize(from).map(|_| [])
}

fn addressee(message: &Message) -> String {
    match &message.recipient {
        Party::Mobile(phone) => phone.as_str().to_owned(),
        Party::Business(id) => id.to_string(),
    }
}

/// Messages for administrators.
pub fn messages(messages: &[Message]) -> Vec<MessageView<'_>> {
    messages.iter().map(MessageView::with_flags).collect()
}

/// A conversation, as seen by one of its sides.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Conversation)]
pub struct ConversationView<'a> {
    pub(crate) id: uuid::Uuid,
    pub(crate) business_user_id: uuid::Uuid,
    pub(crate) business_name: &'a str,
    /// Phone number of the mobile user, in E.164.
    pub(crate) phone: &'a str,
    /// `active`, `archived` or `closed`.
    pub(crate) status: &'a str,
    /// `seq` of the last message; 0 if there is none.
    pub(crate) last_seq: i64,
    /// When the last message was accepted, or the conversation opened.
    #[serde(with = "crate::server::timestamp")]
    pub(crate) last_message_at: OffsetDateTime,
    /// Messages that the caller has not read.
    pub(crate) unread_count: i32,
    /// When the conversation was opened.
    #[serde(with = "crate::server::timestamp")]
    pub(crate) created_at: OffsetDateTime,
}

impl<'a> ConversationView<'a> {
    /// For somebody who takes part in it.
    pub fn new(conversation: &'a Conversation, of: &Party) -> ConversationView<'a> {
        ConversationView {
            id: conversation.id.0,
            business_user_id: conversation.business.0,
            business_name: &conversation.business_name,
            phone: conversation.phone.as_str(),
            status: conversation.status.name(),
            last_seq: conversation.last_seq,
            last_message_at: conversation.last_at,
            unread_count: conversation.side(of).map_or(0, |side| conversation.unread(side)),
            created_at: conversation.created_at,
        }
    }
}

/// A conversation, as seen by administrators: with both unread counts.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = WholeConversation)]
pub struct WholeConversationView<'a> {
    pub(crate) id: uuid::Uuid,
    pub(crate) business_user_id: uuid::Uuid,
    pub(crate) business_name: &'a str,
    /// Phone number of the mobile user, in E.164.
    pub(crate) phone: &'a str,
    /// `active`, `archived` or `closed`.
    pub(crate) status: &'a str,
    /// `seq` of the last message; 0 if there is none.
    pub(crate) last_seq: i64,
    /// When the last message was accepted, or the conversation opened.
    #[serde(with = "crate::server::timestamp")]
    pub(crate) last_message_at: OffsetDateTime,
    /// Messages that the business user has not read.
    pub(crate) unread_business: i32,
    /// Messages that the mobile user has not read.
    pub(crate) unread_mobile: i32,
    /// When the conversation was opened.
    #[serde(with = "crate::server::timestamp")]
    pub(crate) created_at: OffsetDateTime,
}

impl<'a> From<&'a Conversation> for WholeConversationView<'a> {
    fn from(conversation: &'a Conversation) -> Self {
        WholeConversationView {
            id: conversation.id.0,
            business_user_id: conversation.business.0,
            business_name: &conversation.business_name,
            phone: conversation.phone.as_str(),
            status: conversation.status.name(),
            last_seq: conversation.last_seq,
            last_message_at: conversation.last_at,
            unread_business: conversation.unread_business,
            unread_mobile: conversation.unread_mobile,
            created_at: conversation.created_at,
        }
    }
}

/// A page of a history as a JSON array.
pub fn history(found: &[Message]) -> Vec<u8> {
    pagination::list(found, pagination::MAX_PAGE_LEN, MessageView::from).0
}

/// A page of conversations; `found` has one more than `limit` if there are more. The page ends earlier if it
/// would be too large.
pub fn conversations(found: &ListPage<Conversation>, limit: usize, of: &Party) -> Vec<u8> {
    let page = found.items.get(..limit).unwrap_or(&found.items);
    let more = found.items.len() > limit;
    let behind = found.cut.and_then(ConversationCursor::at).map(|cursor| cursor.to_string());
    let view = |conversation| ConversationView::new(conversation, of);
    let cursor = |last: &Conversation| ConversationCursor::of(last).to_string();
    pagination::page_behind(page, more, behind, pagination::MAX_PAGE_LEN, view, cursor)
}

/// The cursor of a page of conversations.
pub struct ConversationCursor(pub ConversationKeyset);

impl ConversationCursor {
    /// After a conversation.
    pub fn of(conversation: &Conversation) -> ConversationCursor {
        ConversationCursor(ConversationKeyset {
            last_at: conversation.last_at,
            id: conversation.id,
        })
    }

    /// The cursor after the last scanned row.
    pub fn at(cut: ScanPosition) -> Option<ConversationCursor> {
        Some(ConversationCursor(ConversationKeyset {
            last_at: cut.at?,
            id: ConversationId(cut.id),
        }))
    }

    pub fn parse(text: &str) -> Option<ConversationCursor> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (at, id) = bytes.split_at_checked(16)?;
        let at = i128::from_be_bytes(at.try_into().ok()?);
        Some(ConversationCursor(ConversationKeyset {
            last_at: OffsetDateTime::from_unix_timestamp_nanos(at).ok()?,
            id: ConversationId(uuid::Uuid::from_slice(id).ok()?),
        }))
    }
}

/// When the last message was accepted, in nanoseconds, and the id.
impl fmt::Display for ConversationCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.0.last_at.unix_timestamp_nanos().to_be_bytes();
        let bytes = [&at[..], &self.0.id.0.as_bytes()[..]].concat();
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

/// A typing signal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Typing<'a> {
    pub conversation_id: uuid::Uuid,
    pub from: &'a str,
}

/// Hub event: an administrator deleted a message.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageDeleted {
    id: uuid::Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation_id: Option<uuid::Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<i64>,
    #[serde(with = "crate::server::timestamp")]
    at: OffsetDateTime,
}

impl MessageDeleted {
    /// The event for a message, with its position if it was in a conversation.
    pub fn new(
        id: MessageId,
        place: Option<ConversationPosition>,
        at: OffsetDateTime,
    ) -> MessageDeleted {
        let conversation_id = place.map(|place| place.conversation.0);
        MessageDeleted { id: id.0, conversation_id, seq: place.map(|place| place.seq), at }
    }
}

/// Hub event: the status of a sent message changed.
#[derive(Debug, Serialize, Deserialize)]
pub struct StatusChanged<'a> {
    pub id: uuid::Uuid,
    pub status: &'a str,
    #[serde(with = "crate::server::timestamp")]
    pub at: OffsetDateTime,
}

/// Hub event: the connection may have missed messages.
#[derive(Debug, Serialize)]
pub struct MissedSince {
    #[serde(with = "crate::server::timestamp")]
    pub since: OffsetDateTime,
}

/// A dead letter as administrators read it.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DeadLetter)]
pub struct DeadLetterView<'a> {
    pub(crate) id: uuid::Uuid,
    /// Such as `delivery`, or the kind of a job.
    pub(crate) kind: &'a str,
    /// Where the cause lies: `recipient`, `provider`, `content` or `system`.
    pub(crate) class: &'a str,
    /// Why it failed.
    pub(crate) reason: &'a str,
    /// The message, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message_id: Option<uuid::Uuid>,
    /// Generation of the message; each requeue adds one.
    pub(crate) generation: i32,
    /// Delivery attempts.
    pub(crate) attempts: i32,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub(crate) from: &'a str,
    /// Phone number of the recipient.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<&'a str>,
    /// When the first attempt failed.
    #[serde(with = "crate::server::timestamp")]
    pub(crate) first_error_at: OffsetDateTime,
    /// When the last attempt failed.
    #[serde(with = "crate::server::timestamp")]
    pub(crate) last_error_at: OffsetDateTime,
}

impl<'a> From<&'a DeadLetter> for DeadLetterView<'a> {
    fn from(letter: &'a DeadLetter) -> Self {
        DeadLetterView {
            id: letter.id.0,
            kind: &letter.kind,
            class: letter.class.name(),
            reason: &letter.reason,
            message_id: letter.message.map(|id| id.0),
            generation: letter.generation,
            attempts: letter.attempts,
            from: &letter.from,
            to: letter.to.as_ref().map(crate::domain::Phone::as_str),
            subject: letter.subject.as_deref(),
            first_error_at: letter.first_error_at,
            last_error_at: letter.last_error_at,
        }
    }
}
