//! `/admin/messages`: messages of all users.

use http::StatusCode;
use serde::Deserialize;
use warp::reply::Response;

use super::{because, behind, page_or_cut, text_of};
use crate::{
    app::messages::Sent,
    domain::{Message, MessageId, MessageKind, Status},
    server::{
        context::{RequestContext, SharedContext, cursor, timed_cursor},
        http::messages::{SendBody, replayed},
        reply::{self, Problem, answer},
        view::{ExplanationView, MessageStoryView, MessageView},
    },
    store::{ScanPosition, messages::MessageFilter},
};

/// A message sent on behalf of a business user.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a message object with from")]
#[schema(as = NewMessageAs)]
pub(in crate::server) struct SendAsBody {
    /// Id or name of the sending business user.
    from: String,
    /// Phone number of the recipient; E.164, or national with phone.default_region.
    to: String,
    /// At most 200 characters.
    subject: Option<String>,
    /// 1 to 10,000 characters.
    content: String,
    /// `text` (default) or `json`.
    content_type: Option<String>,
    /// `low`, `normal` (default) or `high`.
    priority: Option<String>,
    /// Reason for the audit log, at most 500 characters.
    reason: Option<String>,
}

/// `GET /admin/messages`.
pub async fn list(context: SharedContext) -> Response {
    answer(try_list(&context).await)
}

async fn try_list(context: &RequestContext) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let limit = context.limit()?;
    let mut filter = MessageFilter::default();
    if let Some(name) = context.parameter("status")? {
        filter.status = Some(Status::parse(&name).ok_or_else(|| {
            let message = "status must be pending, sent, delivered, read or failed";
            Problem::field("status", "unknown", message)
        })?);
    }
    if let Some(name) = context.parameter("type")? {
        filter.kind = Some(
            MessageKind::parse(&name)
                .ok_or_else(|| Problem::field("type", "unknown", "type must be oneWay or chat"))?,
        );
    }
    filter.recipient = context.phone("to")?;
    if let Some(name) = text_of(context, "from")? {
        filter.sender = Some(context.app.identity.find_user(&name).await?.id);
    }
    if let Some(name) = text_of(context, "user")? {
        filter.user = Some(context.app.identity.find_user(&name).await?.id);
    }
    filter.since = context.time("since")?;
    filter.until = context.time("until")?;
    // By cursor, or by message id.
    filter.before = match context.parameter("before")? {
        Some(id) => Some(parse_id(&id)?),
        None => None,
    };
    if let Some((after, at)) = context.after_message()? {
        (filter.before, filter.from_at) = (Some(after), at);
    }
    let found = context.app.messages.list_all(&by, &filter, limit).await?;
    let by_time = filter.is_of_period();
    let next = |last: &Message| {
        if by_time { timed_cursor(last.created_at, last.id) } else { cursor(last.id) }
    };
    let behind = |cut: ScanPosition| match cut.at {
        Some(at) => Some(timed_cursor(at, MessageId(cut.id))),
        None => behind(cut),
    };
    Ok(page_or_cut(context, &found, next, behind, MessageView::with_flags))
}

/// `POST /admin/messages`.
pub async fn send(context: SharedContext) -> Response {
    answer(try_send(&context).await)
}

async fn try_send(context: &RequestContext) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let body: SendAsBody = context.json()?;
    let by = because(by, body.reason.as_deref())?;
    let SendAsBody { from, to, subject, content, content_type, priority, reason: _ } = body;
    let body = SendBody { to, subject, content, content_type, priority, attachments: Vec::new() };
    let request = body.into_request().map_err(crate::app::Error::Invalid)?;
    let key = context.request_key()?;
    let text = |message: &Message| {
        serde_json::to_string(&MessageView::with_flags(message)).unwrap_or_default()
    };
    let sent = context
        .app
        .messages
        .send_as(&by, &from, request, key, |message| (202, text(message)))
        .await?;
    Ok(match sent {
        Sent::Now(message) => {
            context.accepted([&message]);
            reply::raw(StatusCode::ACCEPTED, text(&message))
        }
        Sent::Before(earlier) => replayed(earlier),
    })
}

/// `GET /admin/messages/{id}`: with every step of its way.
pub async fn show(id: String, context: SharedContext) -> Response {
    answer(
        async {
            let by = context.administrator()?;
            let (message, story) = context.app.messages.show(&by, parse_id(&id)?).await?;
            Ok(reply::json(StatusCode::OK, &MessageStoryView::new(&message, &story)))
        }
        .await,
    )
}

/// `DELETE /admin/messages/{id}`.
pub async fn delete(id: String, context: SharedContext) -> Response {
    answer(
        async {
            let by = context.administrator()?;
            context.app.admin.delete_message(&by, parse_id(&id)?).await?;
            Ok(reply::raw(StatusCode::NO_CONTENT, String::new()))
        }
        .await,
    )
}

/// `GET /admin/messages/{id}/explain`.
pub async fn explain(id: String, context: SharedContext) -> Response {
    answer(
        async {
            let by = context.administrator()?;
            let explanation = context.app.admin.explain_any(&by, parse_id(&id)?).await?;
            Ok(reply::json(StatusCode::OK, &ExplanationView::new(&explanation, true)))
        }
        .await,
    )
}

/// An invalid id is answered like an unknown one.
fn parse_id(text: &str) -> Result<MessageId, Problem> {
    text.parse().map_err(|_| crate::app::Error::NotFound("message").into())
}
