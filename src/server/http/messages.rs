//! `/messages`: sent, listed, acknowledged.

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use warp::reply::Response;

use crate::{
    app::{
        Caller,
        blocking::run_blocking,
        delivery::receipts::ReceiptKind,
        messages::{Item, MAX_KEPT_ANSWER_LEN, SendRequest, Sent},
    },
    domain::{
        ContentType, Message, MessageId, MessageKind, Party, Priority, Status,
        message::{FieldError, MessageDraft},
    },
    server::{
        bounded_list::{BoundedList, parse_item},
        context::{RequestContext, SharedContext, cursor, unreadable},
        pagination,
        reply::{self, Problem, answer},
        size_limits::MAX_JSON_LEN,
        view,
    },
    store::messages::MessageFilter,
};

/// `POST /messages`.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a message object")]
#[schema(as = NewMessage)]
pub(in crate::server) struct SendBody {
    /// Phone number of the recipient; E.164, or national with phone.default_region.
    pub(super) to: String,
    /// At most 200 characters.
    pub(super) subject: Option<String>,
    /// 1 to 10,000 characters.
    pub(super) content: String,
    /// `text` (default) or `json`.
    pub(super) content_type: Option<String>,
    /// `low`, `normal` (default) or `high`.
    pub(super) priority: Option<String>,
    /// Must be empty in this version.
    #[serde(default)]
    pub(super) attachments: Vec<String>,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with messages")]
#[schema(as = NewMessages)]
pub(in crate::server) struct BatchBody<'a> {
    /// 1 to 500 messages.
    #[schema(value_type = Vec<SendBody>, max_items = 500, min_items = 1)]
    #[serde(borrow)]
    messages: BoundedList<&'a RawValue>,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with ids")]
#[schema(as = Ids)]
pub(in crate::server) struct IdsBody {
    /// Message ids.
    ids: Vec<uuid::Uuid>,
}

/// The answer to a send.
#[derive(Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Receipt)]
pub(crate) struct Receipt<'a> {
    /// Message id.
    pub(crate) id: uuid::Uuid,
    /// `pending`.
    status: &'a str,
    /// When the message was accepted.
    #[serde(with = "crate::server::timestamp")]
    created_at: time::OffsetDateTime,
    /// Rules of the content policy that marked the message.
    #[serde(default, borrow, skip_serializing_if = "Vec::is_empty")]
    flags: Vec<&'a str>,
}

impl<'a> From<&'a Message> for Receipt<'a> {
    fn from(message: &'a Message) -> Self {
        Receipt {
            id: message.id.0,
            status: message.status.name(),
            created_at: message.created_at,
            flags: message.flags.iter().map(String::as_str).collect(),
        }
    }
}

impl SendBody {
    pub(super) fn into_request(self) -> Result<SendRequest, Vec<FieldError>> {
        let mut broken = Vec::new();
        let content_type = match self.content_type.as_deref() {
            None => Some(ContentType::default()),
            Some(name) => ContentType::parse(name),
        };
        if content_type.is_none() {
            broken.push(FieldError::new(
                "contentType",
                "unknown",
                "contentType must be text or json",
            ));
        }
        if content_type == Some(ContentType::Json)
            && serde_json::from_str::<serde::de::IgnoredAny>(&self.content).is_err()
        {
            let message = "content is not valid JSON, but contentType is json";
            broken.push(FieldError::new("content", "invalid_json", message));
        }
        let priority = match self.priority.as_deref() {
            None => Some(Priority::default()),
            Some(name) => Priority::parse(name),
        };
        if priority.is_none() {
            broken.push(FieldError::new(
                "priority",
                "unknown",
                "priority must be low, normal or high",
            ));
        }
        if !self.attachments.is_empty() {
            let message = "attachments refers to media that does not exist";
            broken.push(FieldError::new("attachments", "not_found", message));
        }
        match (content_type, priority, broken.is_empty()) {
            (Some(content_type), Some(priority), true) => Ok(SendRequest {
                to: self.to,
                draft: MessageDraft {
                    subject: self.subject,
                    content: self.content,
                    content_type,
                    priority,
                },
            }),
            _ => Err(broken),
        }
    }
}

/// `POST /messages`.
pub async fn send(context: SharedContext) -> Response {
    answer(try_send(&context).await)
}

async fn try_send(context: &RequestContext) -> Result<Response, Problem> {
    let body: SendBody = context.json()?;
    let request = body.into_request().map_err(crate::app::Error::Invalid)?;
    let key = context.request_key()?;
    let receipt = |message: &Message| json_text(&Receipt::from(message));
    let sent = context
        .app
        .messages
        .send(context.caller()?, request, key, |message| (202, receipt(message)))
        .await?;
    Ok(match sent {
        Sent::Now(message) => {
            context.accepted([&message]);
            reply::raw(StatusCode::ACCEPTED, receipt(&message))
        }
        Sent::Before(earlier) => replayed(earlier),
    })
}

/// `POST /messages/batch`.
pub async fn send_batch(context: SharedContext) -> Response {
    answer(try_send_batch(&context).await)
}

async fn try_send_batch(context: &RequestContext) -> Result<Response, Problem> {
    let body: BatchBody<'_> = context.json()?;
    let messages = body.messages.within("messages")?;
    let key = context.request_key_of("messages", &messages)?;
    // An item that cannot be decoded gets its own error, too.
    let mut readable = Vec::new();
    let read = |item: &RawValue| -> Result<SendRequest, Problem> {
        let body: SendBody = serde_json::from_value(parse_item(item, MAX_JSON_LEN)?)
            .map_err(|error| unreadable(&error))?;
        Ok(body.into_request().map_err(crate::app::Error::Invalid)?)
    };
    let size = context.body.len();
    let places: Vec<Result<(), Problem>> = run_blocking(size, || {
        let items = messages.into_iter();
        items.map(|item| read(item).map(|request| readable.push(request))).collect()
    });
    // The stored response is the one that was sent.
    let longest = if key.is_some() { MAX_KEPT_ANSWER_LEN } else { usize::MAX };
    let results = |items: &[Item]| run_blocking(size, || results(&places, items, longest));
    let sent = context
        .app
        .messages
        .send_batch(context.caller()?, readable, key, |items| (200, results(items)))
        .await?;
    Ok(match sent {
        Sent::Now(items) => {
            context.accepted(items.iter().flatten());
            reply::raw(StatusCode::OK, results(&items))
        }
        Sent::Before(earlier) => replayed(earlier),
    })
}

/// The result of each item: of undecodable ones by index, of the others as the use case reports. If that is
/// longer than `longest`, errors are reduced to status and code.
fn results(places: &[Result<(), Problem>], items: &[Item], longest: usize) -> String {
    let all = |told: fn(&Problem) -> serde_json::Value| {
        let mut items = items.iter();
        let results: Vec<serde_json::Value> = places
            .iter()
            .map(|place| match (place, place.is_ok().then(|| items.next()).flatten()) {
                (Err(problem), _) => json!({ "error": told(problem) }),
                (Ok(()), Some(Ok(message))) if message.flags.is_empty() => {
                    json!({ "id": message.id.0 })
                }
                (Ok(()), Some(Ok(message))) => {
                    json!({ "id": message.id.0, "flags": message.flags })
                }
                (Ok(()), Some(Err(broken))) => {
                    let problem = Problem::from(broken.clone().into_error());
                    json!({ "error": told(&problem) })
                }
                (Ok(()), None) => {
                    json!({ "error": told(&Problem::from(crate::app::Error::Internal)) })
                }
            })
            .collect();
        json!({ "results": results }).to_string()
    };
    let whole = all(Problem::to_json);
    if whole.len() <= longest { whole } else { all(Problem::to_short_json) }
}

pub(super) fn replayed(earlier: crate::store::idempotency::StoredResponse) -> Response {
    let status = StatusCode::from_u16(earlier.status_code).unwrap_or(StatusCode::OK);
    let mut response = reply::raw(status, earlier.response);
    response.headers_mut().insert("idempotency-replayed", http::HeaderValue::from_static("true"));
    response
}

/// `GET /messages`.
pub async fn list(context: SharedContext) -> Response {
    answer(try_list(&context).await)
}

async fn try_list(context: &RequestContext) -> Result<Response, Problem> {
    let limit = context.limit()?;
    let mut filter = MessageFilter { before: context.after()?, ..MessageFilter::default() };
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
    if let Some(to) = context.phone("to")? {
        // A phone lists its own messages; for any other number the list is empty.
        if matches!(context.caller()?.party(), Party::Mobile(own) if own != to) {
            return Ok(page(context, &[], false, None));
        }
        filter.recipient = Some(to);
    }
    let found = context.app.messages.list(context.caller()?, filter, limit).await?;
    Ok(page(context, &found.items, found.more, found.cut.map(|cut| MessageId(cut.id))))
}

/// A page of a list; `behind` is the scan position, if the list may continue although there are no more
/// items.
fn page(
    context: &RequestContext,
    found: &[Message],
    more: bool,
    behind: Option<MessageId>,
) -> Response {
    let next = |last: &Message| cursor(last.id);
    let (room, behind) = (context.page_room, behind.map(cursor));
    let party = context.caller().ok().map(Caller::party);
    let view = |message| match &party {
        Some(party) => view::MessageView::seen_by(message, party),
        None => view::MessageView::from(message),
    };
    let page = pagination::page_behind(found, more, behind, room, view, next);
    reply::raw(StatusCode::OK, page)
}

/// `GET /messages/pending`.
pub async fn pending(context: SharedContext) -> Response {
    answer(try_pending(&context).await)
}

async fn try_pending(context: &RequestContext) -> Result<Response, Problem> {
    let limit = context.limit()?;
    let after = context.after()?;
    // One more than the page, to know whether there are more.
    let found = context.app.delivery.pending_after(context.caller()?, after, limit + 1).await?;
    let shown = found.get(..limit).unwrap_or(&found);
    Ok(page(context, shown, found.len() > limit, None))
}

/// `GET /messages/{id}`.
pub async fn show(id: String, context: SharedContext) -> Response {
    answer(
        async {
            let caller = context.caller()?;
            let message = context.app.messages.get(caller, parse_id(&id)?).await?;
            let view = view::MessageView::seen_by(&message, &caller.party());
            Ok(reply::json(StatusCode::OK, &view))
        }
        .await,
    )
}

/// `GET /messages/{id}/timeline`.
pub async fn timeline(id: String, context: SharedContext) -> Response {
    answer(
        async {
            let id = parse_id(&id)?;
            let explanation = context.app.admin.explain(context.caller()?, id).await?;
            let body = view::ExplanationView::new(&explanation, false);
            Ok(reply::json(StatusCode::OK, &body))
        }
        .await,
    )
}

/// `POST /messages/{id}/delivered`.
pub async fn delivered(id: String, context: SharedContext) -> Response {
    answer(say_one(&context, &id, ReceiptKind::Delivered).await)
}

/// `POST /messages/{id}/read`.
pub async fn read(id: String, context: SharedContext) -> Response {
    answer(say_one(&context, &id, ReceiptKind::Read).await)
}

async fn say_one(
    context: &RequestContext,
    id: &str,
    said: ReceiptKind,
) -> Result<Response, Problem> {
    let message = context.app.messages.acknowledge(context.caller()?, said, parse_id(id)?).await?;
    Ok(reply::json(StatusCode::OK, &view::MessageView::from(&message)))
}

/// `POST /messages/acknowledge`.
pub async fn acknowledge(context: SharedContext) -> Response {
    answer(
        async {
            let body: IdsBody = context.json()?;
            let ids = body.ids.into_iter().map(|id| (MessageId(id), None)).collect();
            let changed = context
                .app
                .delivery
                .acknowledge(context.caller()?, ReceiptKind::Delivered, ids)
                .await?;
            Ok(reply::json(StatusCode::OK, &json!({ "changed": changed.len() })))
        }
        .await,
    )
}

/// An invalid id is answered like an unknown one.
fn parse_id(text: &str) -> Result<MessageId, Problem> {
    text.parse().map_err(|_| crate::app::Error::NotFound("message").into())
}

fn json_text<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::message::MAX_BATCH_SIZE;

    #[test]
    fn a_long_answer_that_is_kept_says_of_each_item_what_became_of_it() {
        let long = "\u{1}".repeat(100);
        let places: Vec<Result<(), Problem>> = (0..MAX_BATCH_SIZE)
            .map(|_| Err(Problem::bad_request("unknown_field", &*long)))
            .collect();
        let whole = results(&places, &[], usize::MAX);
        assert!(whole.len() > MAX_KEPT_ANSWER_LEN, "{}", whole.len());
        let kept = results(&places, &[], MAX_KEPT_ANSWER_LEN);
        assert!(kept.len() < MAX_KEPT_ANSWER_LEN / 4, "{}", kept.len());
        let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
        let results = kept["results"].as_array().unwrap();
        assert_eq!(results.len(), MAX_BATCH_SIZE);
        assert_eq!(results[7], json!({ "error": { "code": "unknown_field", "status": 400 } }));
    }
}
