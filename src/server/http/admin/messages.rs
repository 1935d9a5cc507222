//! `/admin/messages`: anybody's messages.

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
    store::{Cut, messages::Filter},
};

/// A message in the name of a business user.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a message object with from")]
#[schema(as = NewMessageAs)]
pub(in crate::server) struct SendAsBody {
    from: String,
    to: String,
    subject: Option<String>,
    content: String,
    content_type: Option<String>,
    priority: Option<String>,
    reason: Option<String>,
}

/// `GET /admin/messages`.
pub async fn list(context: SharedContext) -> Response {
    answer(try_list(&context).await)
}

async fn try_list(context: &RequestContext) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let limit = context.limit()?;
    let mut filter = Filter::default();
    if let Some(name) = context.parameter("status")? {
        filter.status = Some(Status::parse(&name).ok_or_else(|| {
            let message = "the status is pending, sent, delivered, read or failed";
            Problem::field("status", "unknown", message)
        })?);
    }
    if let Some(name) = context.parameter("type")? {
        filter.kind = Some(
            MessageKind::parse(&name)
                .ok_or_else(|| Problem::field("type", "unknown", "the type is oneWay or chat"))?,
        );
    }
    filter.recipient = context.phone("to")?;
    if let Some(name) = text_of(context, "from")? {
        filter.sender = Some(context.app.find_user(&name).await?.id);
    }
    if let Some(name) = text_of(context, "user")? {
        filter.user = Some(context.app.find_user(&name).await?.id);
    }
    filter.since = context.time("since")?;
    filter.until = context.time("until")?;
    // By cursor, or by the id of a message.
    filter.before = match context.parameter("before")? {
        Some(id) => Some(parse_id(&id)?),
        None => None,
    };
    if let Some((after, at)) = context.after_message()? {
        (filter.before, filter.from_at) = (Some(after), at);
    }
    let found = context.app.list_all_messages(&by, &filter, limit).await?;
    let by_time = filter.is_of_period();
    let next = |last: &Message| {
        if by_time { timed_cursor(last.created_at, last.id) } else { cursor(last.id) }
    };
    let behind = |cut: Cut| match cut.at {
        Some(at) => Some(timed_cursor(at, MessageId(cut.id))),
        None => behind(cut),
    };
    Ok(page_or_cut(context, &found, next, behind, MessageView::from))
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
    let text =
        |message: &Message| serde_json::to_string(&MessageView::from(message)).unwrap_or_default();
    let sent =
        context.app.send_as(&by, &from, request, key, |message| (202, text(message))).await?;
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
            let (message, story) = context.app.any_message(&by, parse_id(&id)?).await?;
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
            context.app.delete_message(&by, parse_id(&id)?).await?;
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
            let explanation = context.app.explain_any(&by, parse_id(&id)?).await?;
            Ok(reply::json(StatusCode::OK, &ExplanationView::new(&explanation, true)))
        }
        .await,
    )
}

/// What is no id names nothing.
fn parse_id(text: &str) -> Result<MessageId, Problem> {
    text.parse().map_err(|_| crate::app::Error::NotFound("message").into())
}
