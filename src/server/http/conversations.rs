//! `/conversations`: chat between a business user and a mobile user.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;
use warp::reply::Response;

use crate::{
    app::conversations::{ChatRequest, Page},
    domain::{
        ContentType, Conversation, ConversationId, ConversationStatus, Priority,
        conversation::Cursor, message::Draft,
    },
    server::{
        context::{Context, Shared},
        reply::{self, Problem, answer},
        view::{self, ConversationView, MessageView},
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with phone")]
struct OpenBody {
    phone: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a message object")]
struct SayBody {
    content: String,
    content_type: Option<String>,
    client_message_id: Option<String>,
    #[serde(default)]
    attachments: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object with upToSeq")]
struct ReadBody {
    up_to_seq: Option<i64>,
}

/// `POST /conversations`.
pub async fn open(context: Shared) -> Response {
    answer(try_open(&context).await)
}

async fn try_open(context: &Context) -> Result<Response, Problem> {
    let body: OpenBody = context.json()?;
    let (conversation, begun) = context.app.open_conversation(&context.caller, &body.phone).await?;
    let status = if begun { StatusCode::CREATED } else { StatusCode::OK };
    Ok(shown(context, status, &conversation))
}

/// `GET /conversations`.
pub async fn list(context: Shared) -> Response {
    answer(try_list(&context).await)
}

async fn try_list(context: &Context) -> Result<Response, Problem> {
    let limit = context.limit()?;
    let status = match context.parameter("status")? {
        None => None,
        Some(name) => Some(ConversationStatus::parse(&name).ok_or_else(|| {
            Problem::field("status", "unknown", "status is active, archived or closed")
        })?),
    };
    let after = match context.parameter("after")? {
        None => None,
        Some(text) => Some(read_cursor(&text).ok_or_else(|| {
            Problem::field("after", "invalid_cursor", "after is not a cursor of this list")
        })?),
    };
    let found = context.app.conversations(&context.caller, status, after, limit + 1).await?;
    let page = found.get(..limit).unwrap_or(&found);
    let next = (found.len() > limit).then(|| page.last().map(cursor)).flatten();
    let party = context.caller.party();
    let items: Vec<ConversationView<'_>> =
        page.iter().map(|conversation| ConversationView::new(conversation, &party)).collect();
    Ok(reply::json(StatusCode::OK, &json!({ "items": items, "next": next })))
}

/// When the last message was accepted, in nanoseconds, and the id.
fn cursor(conversation: &Conversation) -> String {
    let at = conversation.last_at.unix_timestamp_nanos().to_be_bytes();
    URL_SAFE_NO_PAD.encode([&at[..], &conversation.id.0.as_bytes()[..]].concat())
}

fn read_cursor(text: &str) -> Option<Cursor> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (at, id) = bytes.split_at_checked(16)?;
    let at = i128::from_be_bytes(at.try_into().ok()?);
    Some(Cursor {
        last_at: OffsetDateTime::from_unix_timestamp_nanos(at).ok()?,
        id: ConversationId(uuid::Uuid::from_slice(id).ok()?),
    })
}

/// `GET /conversations/unread-count`.
pub async fn unread_count(context: Shared) -> Response {
    answer(try_unread_count(&context).await)
}

async fn try_unread_count(context: &Context) -> Result<Response, Problem> {
    let count = context.app.unread_conversations(&context.caller).await?;
    Ok(reply::json(StatusCode::OK, &json!({ "count": count })))
}

/// `GET /conversations/{id}`.
pub async fn show(id: String, context: Shared) -> Response {
    answer(try_show(&id, &context).await)
}

async fn try_show(id: &str, context: &Context) -> Result<Response, Problem> {
    let conversation = context.app.conversation(&context.caller, read_id(id)?).await?;
    Ok(shown(context, StatusCode::OK, &conversation))
}

fn shown(context: &Context, status: StatusCode, conversation: &Conversation) -> Response {
    reply::json(status, &ConversationView::new(conversation, &context.caller.party()))
}

/// What is no id names nothing.
fn read_id(text: &str) -> Result<ConversationId, Problem> {
    text.parse().map_err(|_| crate::app::Error::NotFound("conversation").into())
}

/// `POST /conversations/{id}/messages`.
pub async fn say(id: String, context: Shared) -> Response {
    answer(try_say(&id, &context).await)
}

async fn try_say(id: &str, context: &Context) -> Result<Response, Problem> {
    let id = read_id(id)?;
    // Who may not know of it learns nothing of what is wrong with the message.
    context.app.conversation(&context.caller, id).await?;
    let body: SayBody = context.json()?;
    if !body.attachments.is_empty() {
        let message = "attachments names media that do not exist";
        return Err(Problem::field("attachments", "not_found", message));
    }
    let content_type = match body.content_type.as_deref() {
        None => ContentType::default(),
        Some(name) => ContentType::parse(name).ok_or_else(|| {
            Problem::field("contentType", "unknown", "contentType is text or json")
        })?,
    };
    let draft =
        Draft { subject: None, content: body.content, content_type, priority: Priority::default() };
    // The header does here what it does for all sends.
    let client_message_id = match (body.client_message_id, context.request_key()?) {
        (Some(id), _) => Some(id),
        (None, key) => key.map(|key| key.key),
    };
    let request = ChatRequest { draft, client_message_id };
    let (message, new) = context.app.say_in(&context.caller, id, request, 0).await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(reply::json(status, &MessageView::from(&message)))
}

/// `GET /conversations/{id}/messages`.
pub async fn history(id: String, context: Shared) -> Response {
    answer(try_history(&id, &context).await)
}

async fn try_history(id: &str, context: &Context) -> Result<Response, Problem> {
    let id = read_id(id)?;
    let seq = |name: &'static str| -> Result<Option<i64>, Problem> {
        let Some(text) = context.parameter(name)? else { return Ok(None) };
        let number = text.parse().ok().filter(|number| *number >= 0);
        number.map(Some).ok_or_else(|| {
            Problem::field(name, "out_of_range", format!("{name} is a seq: a number from 0"))
        })
    };
    let page = Page { before: seq("before")?, after: seq("after")?, limit: context.limit()? };
    let found = context.app.history(&context.caller, id, page).await?;
    Ok(reply::json(StatusCode::OK, &json!({ "items": view::messages(&found) })))
}

/// `POST /conversations/{id}/read`.
pub async fn read(id: String, context: Shared) -> Response {
    answer(try_read(&id, &context).await)
}

async fn try_read(id: &str, context: &Context) -> Result<Response, Problem> {
    let id = read_id(id)?;
    let body: ReadBody =
        if context.body.is_empty() { ReadBody::default() } else { context.json()? };
    let (read, conversation) =
        context.app.read_conversation(&context.caller, id, body.up_to_seq).await?;
    let view = ConversationView::new(&conversation, &context.caller.party());
    Ok(reply::json(StatusCode::OK, &json!({ "read": read, "conversation": view })))
}

/// `POST /conversations/{id}/archive`.
pub async fn archive(id: String, context: Shared) -> Response {
    answer(set_status(&id, &context, ConversationStatus::Archived).await)
}

/// `POST /conversations/{id}/close`.
pub async fn close(id: String, context: Shared) -> Response {
    answer(set_status(&id, &context, ConversationStatus::Closed).await)
}

async fn set_status(
    id: &str,
    context: &Context,
    status: ConversationStatus,
) -> Result<Response, Problem> {
    let id = read_id(id)?;
    let changed = context.app.set_conversation_status(&context.caller, id, status).await?;
    Ok(shown(context, StatusCode::OK, &changed))
}
