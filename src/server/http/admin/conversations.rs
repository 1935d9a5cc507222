//! `/admin/conversations`: conversations of all users.

use http::StatusCode;
use warp::reply::Response;

use super::{page_or_cut, text_of};
use crate::{
    domain::{Conversation, ConversationId, ConversationStatus, Message},
    server::{
        context::{RequestContext, SharedContext},
        pagination,
        reply::{self, Problem, answer},
        view::{
            ConversationCursor, MessageView, WholeConversationView, admin::ConversationOverviewView,
        },
    },
    store::conversations::ConversationFilter,
};

/// Default and maximum number of last messages shown with a conversation.
const DEFAULT_MESSAGES: usize = 10;
const MAX_MESSAGES: usize = 1000;

/// `GET /admin/conversations`.
pub async fn list(context: SharedContext) -> Response {
    answer(try_list(&context).await)
}

async fn try_list(context: &RequestContext) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let limit = context.limit()?;
    let mut filter = ConversationFilter::default();
    if let Some(name) = context.parameter("status")? {
        filter.status = Some(ConversationStatus::parse(&name).ok_or_else(|| {
            let message = "status must be active, archived or closed";
            Problem::field("status", "unknown", message)
        })?);
    }
    filter.phone = context.phone("phone")?;
    if let Some(name) = text_of(context, "user")? {
        filter.business = Some(context.app.identity.find_user(&name).await?.id);
    }
    if let Some(text) = context.parameter("after")? {
        let cursor = ConversationCursor::parse(&text).ok_or_else(|| {
            Problem::field("after", "invalid_cursor", "after is not a valid cursor for this list")
        })?;
        filter.after = Some(cursor.0);
    }
    let found = context.app.admin.list_conversations(&by, &filter, limit).await?;
    let cursor = |last: &Conversation| ConversationCursor::of(last).to_string();
    let behind = |cut| ConversationCursor::at(cut).map(|cursor| cursor.to_string());
    Ok(page_or_cut(context, &found, cursor, behind, WholeConversationView::from))
}

/// `GET /admin/conversations/{id}`: with its counts and its last messages.
pub async fn show(id: String, context: SharedContext) -> Response {
    answer(
        async {
            let by = context.administrator()?;
            let last = match context.parameter("messages")? {
                None => DEFAULT_MESSAGES,
                Some(text) => number(&text, "messages", MAX_MESSAGES)?,
            };
            let mut found = context.app.admin.show_conversation(&by, parse_id(&id)?, last).await?;
            // The newest ones that fit on a page.
            let fit = pagination::fitting(
                found.last.iter().rev().map(MessageView::with_flags),
                context.page_room,
            );
            found.last.drain(..found.last.len() - fit);
            Ok(reply::json(StatusCode::OK, &ConversationOverviewView::from(&found)))
        }
        .await,
    )
}

/// `GET /admin/conversations/{id}/messages`: oldest first, `after` is a `seq`.
pub async fn history(id: String, context: SharedContext) -> Response {
    answer(
        async {
            let by = context.administrator()?;
            let limit = context.limit()?;
            let after = match context.parameter("after")? {
                None => 0,
                Some(text) => number(&text, "after", i64::MAX as usize)?,
            };
            let after = i64::try_from(after).unwrap_or(i64::MAX);
            let found = context.app.admin.show_history(&by, parse_id(&id)?, after, limit).await?;
            let (more, room) = (found.len() == limit, context.page_room);
            let next = |last: &Message| last.position.map(|place| place.seq);
            let page = pagination::page(&found, more, room, MessageView::with_flags, next);
            Ok(reply::raw(StatusCode::OK, page))
        }
        .await,
    )
}

/// `POST /admin/conversations/{id}/archive`.
pub async fn archive(id: String, context: SharedContext) -> Response {
    answer(put(&context, &id, ConversationStatus::Archived).await)
}

/// `POST /admin/conversations/{id}/close`.
pub async fn close(id: String, context: SharedContext) -> Response {
    answer(put(&context, &id, ConversationStatus::Closed).await)
}

async fn put(
    context: &RequestContext,
    id: &str,
    status: ConversationStatus,
) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let conversation =
        context.app.admin.set_conversation_status(&by, parse_id(id)?, status).await?;
    Ok(reply::json(StatusCode::OK, &WholeConversationView::from(&conversation)))
}

fn number(text: &str, name: &'static str, most: usize) -> Result<usize, Problem> {
    text.trim().parse().ok().filter(|number| *number <= most).ok_or_else(|| {
        let message = format!("{name} must be a number from 0 to {most}");
        Problem::field(name, "out_of_range", message)
    })
}

/// An invalid id is answered like an unknown one.
fn parse_id(text: &str) -> Result<ConversationId, Problem> {
    text.parse().map_err(|_| crate::app::Error::NotFound("conversation").into())
}
