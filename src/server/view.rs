//! How things look outside: the same JSON over HTTP, over the hub and from the command.

pub mod admin;
pub(crate) mod bulk;
pub(crate) mod privacy;
pub mod stats;

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};
use time::OffsetDateTime;

use crate::{
    app::explain::Explanation,
    domain::{
        Conversation, ConversationId, Message, MessageId, Party, Status, conversation::Cursor,
        message::Place,
    },
    server::pagination,
    store::{Cut, Slice, dead_letters::DeadLetter, story::Story},
};

/// A message as it is read outside (interfaces.md, HTTP).
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Message)]
pub struct MessageView<'a> {
    pub(crate) id: uuid::Uuid,
    pub(crate) r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) conversation_id: Option<uuid::Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seq: Option<i64>,
    pub(crate) from: &'a str,
    pub(crate) to: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<&'a str>,
    pub(crate) content: &'a str,
    pub(crate) content_type: &'a str,
    pub(crate) status: &'a str,
    pub(crate) priority: &'a str,
    #[schema(value_type = Vec<Object>)]
    #[serde(deserialize_with = "ignored")]
    pub(crate) attachments: [(); 0],
    #[serde(with = "crate::server::timestamp")]
    pub(crate) created_at: OffsetDateTime,
    #[serde(
        with = "crate::server::timestamp::option",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) sent_at: Option<OffsetDateTime>,
    #[serde(
        with = "crate::server::timestamp::option",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) delivered_at: Option<OffsetDateTime>,
    #[serde(
        with = "crate::server::timestamp::option",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) read_at: Option<OffsetDateTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failure_reason: Option<&'a str>,
}

impl<'a> From<&'a Message> for MessageView<'a> {
    fn from(message: &'a Message) -> Self {
        MessageView {
            id: message.id.0,
            r#type: message.kind().name(),
            conversation_id: message.place.map(|place| place.conversation.0),
            seq: message.place.map(|place| place.seq),
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
        }
    }
}

/// What an attachment looks like is not known yet.
fn ignored<'de, D: Deserializer<'de>>(from: D) -> Result<[(); 0], D::Error> {
    IgnoredAny::deserialize(from).map(|_| [])
}

fn addressee(message: &Message) -> String {
    match &message.recipient {
        Party::Mobile(phone) => phone.as_str().to_owned(),
        Party::Business(id) => id.to_string(),
    }
}

/// Messages for the wire.
pub fn messages(messages: &[Message]) -> Vec<MessageView<'_>> {
    messages.iter().map(MessageView::from).collect()
}

/// A conversation as one of its two sees it.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Conversation)]
pub struct ConversationView<'a> {
    pub(crate) id: uuid::Uuid,
    pub(crate) business_user_id: uuid::Uuid,
    pub(crate) business_name: &'a str,
    pub(crate) phone: &'a str,
    pub(crate) status: &'a str,
    pub(crate) last_seq: i64,
    /// Of the last message, or of the beginning.
    #[serde(with = "crate::server::timestamp")]
    pub(crate) last_message_at: OffsetDateTime,
    /// Messages that the one who asks has not read.
    pub(crate) unread_count: i32,
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

/// A conversation as an administrator sees it: both sides' counts.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = WholeConversation)]
pub struct WholeConversationView<'a> {
    pub(crate) id: uuid::Uuid,
    pub(crate) business_user_id: uuid::Uuid,
    pub(crate) business_name: &'a str,
    pub(crate) phone: &'a str,
    pub(crate) status: &'a str,
    pub(crate) last_seq: i64,
    #[serde(with = "crate::server::timestamp")]
    pub(crate) last_message_at: OffsetDateTime,
    pub(crate) unread_business: i32,
    pub(crate) unread_mobile: i32,
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

/// Messages as a JSON array: the page of a history, as many as it may have.
pub fn history(found: &[Message]) -> Vec<u8> {
    pagination::list(found, pagination::MAX_PAGE_LEN, MessageView::from).0
}

/// The page of a list of conversations, of which `found` has one more than `limit` if there are more. It ends earlier
/// where an answer would be too long.
pub fn conversations(found: &Slice<Conversation>, limit: usize, of: &Party) -> Vec<u8> {
    let page = found.items.get(..limit).unwrap_or(&found.items);
    let more = found.items.len() > limit;
    let behind = found.cut.and_then(ConversationCursor::at).map(|cursor| cursor.to_string());
    let view = |conversation| ConversationView::new(conversation, of);
    let cursor = |last: &Conversation| ConversationCursor::of(last).to_string();
    pagination::page_behind(page, more, behind, pagination::MAX_PAGE_LEN, view, cursor)
}

/// Where a page of conversations ends, as clients give it back.
pub struct ConversationCursor(pub Cursor);

impl ConversationCursor {
    /// After a conversation.
    pub fn of(conversation: &Conversation) -> ConversationCursor {
        ConversationCursor(Cursor { last_at: conversation.last_at, id: conversation.id })
    }

    /// After a row up to which the list was looked at.
    pub fn at(cut: Cut) -> Option<ConversationCursor> {
        Some(ConversationCursor(Cursor { last_at: cut.at?, id: ConversationId(cut.id) }))
    }

    /// Reads one.
    pub fn parse(text: &str) -> Option<ConversationCursor> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (at, id) = bytes.split_at_checked(16)?;
        let at = i128::from_be_bytes(at.try_into().ok()?);
        Some(ConversationCursor(Cursor {
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

/// Somebody is writing.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Typing<'a> {
    /// Where.
    pub conversation_id: uuid::Uuid,
    /// Who, as shown to the other side.
    pub from: &'a str,
}

/// What the hub tells both sides of a message that an administrator deleted.
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
    /// This one, which stood there if it was of a conversation.
    pub fn new(id: MessageId, place: Option<Place>, at: OffsetDateTime) -> MessageDeleted {
        let conversation_id = place.map(|place| place.conversation.0);
        MessageDeleted { id: id.0, conversation_id, seq: place.map(|place| place.seq), at }
    }
}

/// What the hub tells a sender.
#[derive(Debug, Serialize, Deserialize)]
pub struct StatusChanged<'a> {
    /// The message.
    pub id: uuid::Uuid,
    /// What it is now.
    pub status: &'a str,
    /// Since when.
    #[serde(with = "crate::server::timestamp")]
    pub at: OffsetDateTime,
}

/// What the hub tells a connection that was not sent everything.
#[derive(Debug, Serialize)]
pub struct MissedSince {
    /// Since when.
    #[serde(with = "crate::server::timestamp")]
    pub since: OffsetDateTime,
}

/// One step of a message's story.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Step)]
pub struct StepView {
    /// When; of a step that was taken more than once, the first time.
    #[serde(with = "crate::server::timestamp")]
    pub at: OffsetDateTime,
    /// `pending`, `sent`, `delivered`, `read`, `failed`, `imported`, or an unusual event.
    pub step: String,
    /// More about it; of a step that was taken more than once, about the last time.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// How often, if more than once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// The last time, if there were more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(with = "crate::server::timestamp::option")]
    pub last_at: Option<OffsetDateTime>,
}

impl StepView {
    fn once(at: OffsetDateTime, step: &str, detail: impl Into<String>) -> StepView {
        StepView { at, step: step.to_owned(), detail: detail.into(), count: None, last_at: None }
    }
}

/// The story of a message, in order; `for_administrator` tells who imported it and from which file.
pub fn timeline(message: &Message, story: &Story, for_administrator: bool) -> Vec<StepView> {
    const ELSEWHERE: &str = "in the previous system";
    const WRITTEN: &str = "written to a connection of the recipient";
    let import = story.import.as_ref();
    let columns = [
        (Some(message.created_at), Status::Pending, "accepted and durable"),
        (message.sent_at, Status::Sent, WRITTEN),
        (message.delivered_at, Status::Delivered, "acknowledged by the recipient's device"),
        (message.read_at, Status::Read, "opened by the recipient"),
    ];
    let mut steps: Vec<StepView> = columns
        .into_iter()
        .filter_map(|(at, status, detail)| {
            at.map(|at| {
                let elsewhere = import.is_some_and(|import| at <= import.at);
                let detail = if elsewhere { ELSEWHERE } else { detail };
                StepView::once(at, status.name(), detail)
            })
        })
        .chain(import.map(|import| {
            let from = format!("from {} by {}", import.file, import.by);
            StepView::once(
                import.at,
                "imported",
                if for_administrator { from } else { String::new() },
            )
        }))
        .chain(story.events.iter().map(|event| {
            let step = if event.kind == "given_up" { "failed" } else { event.kind.as_str() };
            // Of the generation before a requeue.
            let is_sent = event.kind == Status::Sent.name();
            let often = event.count > 1;
            StepView {
                count: often.then_some(event.count),
                last_at: often.then_some(event.last_at),
                ..StepView::once(
                    event.at,
                    step,
                    if is_sent { WRITTEN } else { event.detail.as_str() },
                )
            }
        }))
        .collect();
    // Stable: steps of the same moment keep the order in which a message takes them.
    steps.sort_by_key(|step| step.at);
    steps
}

/// A message and every step of its way.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = MessageStory)]
pub struct MessageStoryView<'a> {
    #[serde(flatten, borrow)]
    pub(crate) message: MessageView<'a>,
    pub(crate) timeline: Vec<StepView>,
}

impl<'a> MessageStoryView<'a> {
    /// Of a message and its story, for an administrator.
    pub fn new(message: &'a Message, story: &Story) -> MessageStoryView<'a> {
        MessageStoryView { message: message.into(), timeline: timeline(message, story, true) }
    }
}

/// What became of a message, for people and scripts.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Explanation)]
pub struct ExplanationView {
    pub(crate) id: uuid::Uuid,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) status: String,
    pub(crate) priority: String,
    pub(crate) steps: Vec<StepView>,
    pub(crate) verdict: VerdictView,
}

#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Verdict)]
pub(crate) struct VerdictView {
    pub(crate) code: String,
    pub(crate) sentence: String,
    /// A command of the administrator's: only administrators are shown it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
}

impl ExplanationView {
    /// For whoever may see the message; `for_administrator` adds the command to run next.
    pub fn new(explanation: &Explanation, for_administrator: bool) -> ExplanationView {
        let verdict = &explanation.verdict;
        ExplanationView {
            id: explanation.message.id.0,
            from: explanation.message.from.to_string(),
            to: addressee(&explanation.message),
            status: explanation.message.status.name().to_owned(),
            priority: explanation.message.priority.name().to_owned(),
            steps: timeline(&explanation.message, &explanation.story, for_administrator),
            verdict: VerdictView {
                code: verdict.code.to_owned(),
                sentence: verdict.sentence.clone(),
                next: verdict.next.clone().filter(|_| for_administrator),
            },
        }
    }
}

/// A dead letter as administrators read it.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DeadLetter)]
pub struct DeadLetterView<'a> {
    pub(crate) id: uuid::Uuid,
    pub(crate) kind: &'a str,
    pub(crate) class: &'a str,
    pub(crate) reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message_id: Option<uuid::Uuid>,
    pub(crate) generation: i32,
    pub(crate) attempts: i32,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub(crate) from: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<&'a str>,
    #[serde(with = "crate::server::timestamp")]
    pub(crate) first_error_at: OffsetDateTime,
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
