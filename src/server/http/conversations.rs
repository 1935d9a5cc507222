//! `/conversations`: chat between a business user and a mobile user.

use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use warp::reply::Response;

use crate::{
    app::{
        Error,
        chat::conversations::{ChatRequest, Page},
    },
    domain::{
        ContentType, Conversation, ConversationId, ConversationStatus, Message, Priority,
        message::MessageDraft,
    },
    server::{
        context::{RequestContext, SharedContext},
        pagination,
        reply::{self, Problem, answer},
        view::{self, ConversationCursor, ConversationView, MessageView},
    },
};

/// Page size while there is little memory for responses.
const FEW: usize = 10;

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with phone")]
#[schema(as = NewConversation)]
pub(in crate::server) struct OpenBody {
    /// Phone number of the other side: of a mobile user, or for mobile users of a business user.
    phone: String,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a message object")]
#[schema(as = NewChatMessage)]
pub(in crate::server) struct SayBody {
    /// 1 to 10,000 characters.
    content: String,
    /// `text` (default) or `json`.
    content_type: Option<String>,
    /// Your id for the message, 1 to 100 characters: a repeat with the same id stores nothing.
    client_message_id: Option<String>,
    /// Must be empty in this version.
    #[serde(default)]
    attachments: Vec<String>,
}

#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object with upToSeq")]
#[schema(as = Reading)]
pub(in crate::server) struct ReadBody {
    /// Mark messages up to this `seq` as read; default: all.
    up_to_seq: Option<i64>,
}

/// `POST /conversations`.
pub async fn open(context: SharedContext) -> Response {
    answer(try_open(&context).await)
}

async fn try_open(context: &RequestContext) -> Result<Response, Problem> {
    let body: OpenBody = context.json()?;
    let (conversation, begun) = context.app.chat.open(context.caller()?, &body.phone).await?;
    let status = if begun { StatusCode::CREATED } else { StatusCode::OK };
    shown(context, status, &conversation)
}

/// `GET /conversations`.
pub async fn list(context: SharedContext) -> Response {
    answer(try_list(&context).await)
}

async fn try_list(context: &RequestContext) -> Result<Response, Problem> {
    let limit = context.limit()?;
    let status = match context.parameter("status")? {
        None => None,
        Some(name) => Some(ConversationStatus::parse(&name).ok_or_else(|| {
            Problem::field("status", "unknown", "status must be active, archived or closed")
        })?),
    };
    let after = match context.parameter("after")? {
        None => None,
        Some(text) => Some(ConversationCursor::parse(&text).ok_or_else(|| {
            Problem::field("after", "invalid_cursor", "after is not a valid cursor for this list")
        })?),
    };
    // A page of conversations may exceed the smallest budget, but not the largest.
    let limit = if context.has_whole_page() { limit } else { limit.min(FEW) };
    let Some(ConversationCursor(after)) = after else {
        let page = context
            .app
            .chat
            .first_page(context.caller()?, status, limit, view::conversations)
            .await?;
        return Ok(reply::raw(StatusCode::OK, page));
    };
    let found = context.app.chat.list(context.caller()?, status, after, limit).await?;
    let page = view::conversations(&found, limit, &context.caller()?.party());
    Ok(reply::raw(StatusCode::OK, page))
}

/// `GET /conversations/unread-count`.
pub async fn unread_count(context: SharedContext) -> Response {
    answer(try_unread_count(&context).await)
}

async fn try_unread_count(context: &RequestContext) -> Result<Response, Problem> {
    let count = context.app.chat.count_unread(context.caller()?).await?;
    Ok(reply::json(StatusCode::OK, &json!({ "count": count })))
}

/// `GET /conversations/{id}`.
pub async fn show(id: String, context: SharedContext) -> Response {
    answer(try_show(&id, &context).await)
}

async fn try_show(id: &str, context: &RequestContext) -> Result<Response, Problem> {
    let conversation = context.app.chat.get(context.caller()?, read_id(id)?).await?;
    shown(context, StatusCode::OK, &conversation)
}

fn shown(
    context: &RequestContext,
    status: StatusCode,
    conversation: &Conversation,
) -> Result<Response, Problem> {
    let party = context.caller()?.party();
    Ok(reply::json(status, &ConversationView::new(conversation, &party)))
}

/// An invalid id is answered like an unknown one.
fn read_id(text: &str) -> Result<ConversationId, Problem> {
    text.parse().map_err(|_| Error::NotFound("conversation").into())
}

/// `POST /conversations/{id}/messages`.
pub async fn say(id: String, context: SharedContext) -> Response {
    answer(try_say(&id, &context).await)
}

async fn try_say(id: &str, context: &RequestContext) -> Result<Response, Problem> {
    let id = read_id(id)?;
    let request = match said(context) {
        Ok(request) => request,
        Err(problem) => {
            // A caller without access must not learn what is wrong with the message.
            context.app.chat.answerable(context.caller()?, id).await?;
            return Err(problem);
        }
    };
    let (request, by_key) = request;
    let said = context.app.chat.send(context.caller()?, id, request, 0).await;
    let (message, new) = said.map_err(|error| match error {
        Error::ClientMessageIdReused if by_key => Error::KeyReused,
        error => error,
    })?;
    if new {
        context.accepted([&message]);
    }
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(reply::json(status, &MessageView::with_flags(&message)))
}

/// The message, and whether it is identified by the request's idempotency key.
fn said(context: &RequestContext) -> Result<(ChatRequest, bool), Problem> {
    let body: SayBody = context.json()?;
    if !body.attachments.is_empty() {
        let message = "attachments refers to media that does not exist";
        return Err(Problem::field("attachments", "not_found", message));
    }
    let content_type = match body.content_type.as_deref() {
        None => ContentType::default(),
        Some(name) => ContentType::parse(name).ok_or_else(|| {
            Problem::field("contentType", "unknown", "contentType must be text or json")
        })?,
    };
    let draft = MessageDraft {
        subject: None,
        content: body.content,
        content_type,
        priority: Priority::default(),
    };
    // The header works as for all sends.
    let (client_message_id, by_key) = match (body.client_message_id, context.request_key()?) {
        (Some(id), _) => (Some(id), false),
        (None, key) => (key.map(|key| key.key), true),
    };
    Ok((ChatRequest { draft, client_message_id }, by_key))
}

/// `GET /conversations/{id}/messages`.
pub async fn history(id: String, context: SharedContext) -> Response {
    answer(try_history(&id, &context).await)
}

async fn try_history(id: &str, context: &RequestContext) -> Result<Response, Problem> {
    let id = read_id(id)?;
    let seq = |name: &'static str| -> Result<Option<i64>, Problem> {
        let Some(text) = context.parameter(name)? else { return Ok(None) };
        let number = text.trim().parse().ok().filter(|number| *number >= 0);
        number.map(Some).ok_or_else(|| {
            Problem::field(
                name,
                "out_of_range",
                format!("{name} must be a seq: a number, 0 or more"),
            )
        })
    };
    let page = Page { before: seq("before")?, after: seq("after")?, limit: context.limit()? };
    // Only whole pages are cached.
    if page.is_latest() && context.has_whole_page() {
        let items =
            context.app.chat.latest_page(context.caller()?, id, page.limit, view::history).await?;
        return Ok(reply::raw(StatusCode::OK, pagination::written(&items, next_before(&items))));
    }
    let found = context.app.chat.history(context.caller()?, id, page).await?;
    let more = match page.after {
        Some(_) => found.len() == page.limit,
        None => found.last().and_then(seq_of).is_some_and(|seq| seq > 1),
    };
    let party = context.caller()?.party();
    let view = |message| MessageView::seen_by(message, &party);
    let page = pagination::page(&found, more, context.page_room, view, seq_of);
    Ok(reply::raw(StatusCode::OK, page))
}

fn seq_of(message: &Message) -> Option<i64> {
    message.position.map(|place| place.seq)
}

/// The next `before` of a page that is newest first: the `seq` of its last message, unless that is the first
/// of the conversation.
fn next_before(items: &[u8]) -> Option<i64> {
    // Cannot occur within a JSON string, where quotation marks are escaped.
    const FIELD: &[u8] = b"\"seq\":";
    let at = items.windows(FIELD.len()).rposition(|window| window == FIELD)? + FIELD.len();
    let rest = items.get(at..)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let seq: i64 = std::str::from_utf8(rest.get(..digits)?).ok()?.parse().ok()?;
    (seq > 1).then_some(seq)
}

/// `POST /conversations/{id}/read`.
pub async fn read(id: String, context: SharedContext) -> Response {
    answer(try_read(&id, &context).await)
}

async fn try_read(id: &str, context: &RequestContext) -> Result<Response, Problem> {
    let id = read_id(id)?;
    let body: ReadBody =
        if context.body.is_empty() { ReadBody::default() } else { context.json()? };
    let (read, conversation) =
        context.app.chat.mark_read(context.caller()?, id, body.up_to_seq).await?;
    let view = ConversationView::new(&conversation, &context.caller()?.party());
    Ok(reply::json(StatusCode::OK, &json!({ "read": read, "conversation": view })))
}

/// `POST /conversations/{id}/archive`.
pub async fn archive(id: String, context: SharedContext) -> Response {
    answer(set_status(&id, &context, ConversationStatus::Archived).await)
}

/// `POST /conversations/{id}/close`.
pub async fn close(id: String, context: SharedContext) -> Response {
    answer(set_status(&id, &context, ConversationStatus::Closed).await)
}

async fn set_status(
    id: &str,
    context: &RequestContext,
    status: ConversationStatus,
) -> Result<Response, Problem> {
    let id = read_id(id)?;
    let changed = context.app.chat.set_status(context.caller()?, id, status).await?;
    shown(context, StatusCode::OK, &changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_begins_before_the_last_message_that_is_written() {
        let written = |seqs: &[i64], text: &str| {
            let items = seqs.iter().map(|seq| json!({ "seq": seq, "content": text }));
            serde_json::Value::from_iter(items).to_string()
        };
        let text = r#""seq":7,\"seq\":8"#;
        assert_eq!(next_before(written(&[12, 11, 10], text).as_bytes()), Some(10));
        assert_eq!(next_before(written(&[2, 1], text).as_bytes()), None);
        assert_eq!(next_before(b"[]"), None);
    }
}
