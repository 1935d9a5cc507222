//! The routes of the existing API that one-way messages need.
//!
//! Bodies are in camelCase, and read without regard to case as there; unknown fields are skipped.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use http::StatusCode;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Map, Value, json, value::RawValue};
use uuid::Uuid;
use warp::reply::Response;

use super::{e164, phone, sanitize::sanitized, status};
use crate::{
    app::{
        Error,
        blocking::run_blocking,
        messages::{Refusal, SendRequest, Sent},
    },
    domain::{
        ContentType, Message, MessageKind, Party, Priority,
        message::{FieldError, MAX_PAGE_BYTES, MessageDraft},
        text::excerpt_of_fault,
    },
    server::{
        bounded_list::{BoundedList, parse_item},
        context::{RequestContext, SharedContext},
        pagination,
        reply::{self, Problem},
        size_limits::MAX_JSON_LEN,
    },
    store::messages::MessageFilter,
};

/// Where all of them are.
pub const BASE: &str = "/api/app/";
/// The usual page there, and the largest here.
const DEFAULT_PAGE_SIZE: usize = 10;
const MAX_PAGE_SIZE: usize = 200;
/// How far a list goes by number. Past it, the lists of the new API go on.
const MAX_OFFSET: usize = 10_000;
/// How far messages are counted.
const MAX_COUNTED: i64 = 100_000;
/// The most bytes of a list there.
pub const MAX_RESPONSE_LEN: usize = 1024 * 1024;
/// The most that waits for one phone and is told at once.
const MAX_PENDING: usize = 100;

pub async fn send(context: SharedContext) -> Response {
    reply_of(try_send(&context).await.map(|value| value.to_string()))
}

pub async fn send_batch(context: SharedContext) -> Response {
    reply_of(try_send_batch(&context).await.map(|value| value.to_string()))
}

/// What waits for the phone that asks.
pub async fn pending(context: SharedContext) -> Response {
    reply_of(try_pending(&context).await)
}

/// What a business user has sent.
pub async fn list(context: SharedContext) -> Response {
    reply_of(try_list(&context).await)
}

pub(super) fn reply_of<T: Into<Bytes>>(answer: Result<T, Problem>) -> Response {
    match answer {
        Ok(json) => reply::raw(StatusCode::OK, json),
        Err(problem) => refused(&problem),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorBody<'a> {
    code: &'a str,
    message: &'a str,
    details: Option<&'a str>,
    data: Map<String, Value>,
    validation_errors: Option<Vec<Value>>,
}

/// A problem in the form of the existing API, which knows fewer kinds.
pub fn refused(problem: &Problem) -> Response {
    let validation_errors = (!problem.errors.is_empty()).then(|| {
        let one =
            |error: &FieldError| json!({ "message": error.message, "members": [error.field] });
        problem.errors.iter().map(one).collect()
    });
    let status = match problem.status {
        StatusCode::UNPROCESSABLE_ENTITY
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE => StatusCode::BAD_REQUEST,
        StatusCode::CONFLICT => StatusCode::FORBIDDEN,
        other => other,
    };
    let body = ErrorBody {
        code: problem.code,
        message: &problem.detail,
        details: None,
        data: Map::new(),
        validation_errors,
    };
    let mut response = reply::raw(status, json!({ "error": body }).to_string());
    if let Some(seconds) = problem.retry_after {
        response.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
    }
    response
}

#[derive(Deserialize)]
struct SendBody {
    #[serde(default, rename = "recipientphonenumber", alias = "mobilenumber")]
    to: String,
    subject: Option<String>,
    #[serde(default, rename = "messagecontent")]
    content: String,
}

/// The one field of a batch, whatever case its name has; others are skipped.
struct BatchBody<'a> {
    messages: BoundedList<&'a RawValue>,
}

impl<'de> Deserialize<'de> for BatchBody<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = BatchBody<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object with batchMessages")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
                let mut messages = BoundedList::default();
                while let Some(name) = fields.next_key::<Cow<'de, str>>()? {
                    if name.eq_ignore_ascii_case("batchmessages") {
                        messages = fields.next_value()?;
                    } else {
                        fields.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(BatchBody { messages })
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// Names in lower case, whatever case they came in.
pub(super) fn lowered(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields.into_iter().map(|(name, value)| (name.to_lowercase(), lowered(value))).collect(),
        ),
        Value::Array(items) => items.into_iter().map(lowered).collect(),
        other => other,
    }
}

fn one(value: Value) -> Result<SendRequest, Problem> {
    let body: SendBody = serde_json::from_value(lowered(value)).map_err(|error| {
        let fault = error.to_string();
        Problem::bad_request("invalid_body", excerpt_of_fault(&fault))
    })?;
    Ok(body.into())
}

impl From<SendBody> for SendRequest {
    fn from(body: SendBody) -> Self {
        SendRequest {
            to: e164(&body.to),
            draft: MessageDraft {
                subject: body.subject.filter(|subject| !subject.is_empty()),
                content: body.content,
                content_type: ContentType::default(),
                priority: Priority::default(),
            },
        }
    }
}

async fn try_send(context: &RequestContext) -> Result<Value, Problem> {
    let request = one(context.json()?)?;
    let answer = |message: &Message| (200, json!({ "id": message.id.0 }).to_string());
    match context
        .app
        .messages
        .send(context.caller()?, request, context.request_key()?, answer)
        .await?
    {
        Sent::Now(message) => {
            context.accepted([&message]);
            Ok(json!({ "id": message.id.0 }))
        }
        Sent::Before(earlier) => Ok(serde_json::from_str(&earlier.response).unwrap_or_default()),
    }
}

/// All or nothing there; here too as far as rules go, which are looked at before anything is sent.
async fn try_send_batch(context: &RequestContext) -> Result<Value, Problem> {
    let BatchBody { messages } = context.json()?;
    let messages = messages.within("batchMessages")?;
    let key = context.request_key_of("batchMessages", &messages)?;
    let (requests, broken) = run_blocking(context.body.len(), || {
        let requests = messages.into_iter().map(|item| one(parse_item(item, MAX_JSON_LEN)?));
        let requests: Vec<SendRequest> = requests.collect::<Result<_, _>>()?;
        let broken = requests.iter().flat_map(|request| context.app.messages.broken_rules(request));
        let broken: Vec<FieldError> = broken.collect();
        Ok::<_, Problem>((requests, broken))
    })?;
    if !broken.is_empty() {
        return Err(Error::Invalid(broken).into());
    }
    context.app.messages.check_contents(context.caller()?, &requests).await?;
    let sent = context
        .app
        .messages
        .send_batch(context.caller()?, requests, key, |_| (200, "true".to_owned()))
        .await?;
    if let Sent::Now(items) = sent {
        context.accepted(items.iter().flatten());
        // What is over the sender's limit was not sent, and it has to be told.
        if let Some(refusal) = items.into_iter().find_map(Result::err) {
            return Err(Refusal::into_error(refusal).into());
        }
    }
    Ok(json!(true))
}

/// They come oldest first, and those that do not fit come when the first ones are acknowledged.
async fn try_pending(context: &RequestContext) -> Result<Vec<u8>, Problem> {
    let own = context.caller()?.mobile()?;
    if let Some(asked) = context.phone_text("phoneNumber")?
        && context.app.identity.parse_stored_phone("phoneNumber", &e164(&asked)).ok().as_ref()
            != Some(own)
    {
        return Err(Error::NotFound("phone number").into());
    }
    let found = context.app.delivery.pending_after(context.caller()?, None, MAX_PENDING).await?;
    let sanitizes = context.app.runtime_settings().sanitize_existing;
    let view = |message: &Message| {
        json!({
            "id": message.id.0,
            "recipientPhoneNumber": phone(own.as_str()),
            "messageContent": sanitized(&message.content, sanitizes),
            "from": sanitized(&message.from, sanitizes),
        })
    };
    Ok(pagination::list(&found, context.page_room, view).0)
}

async fn try_list(context: &RequestContext) -> Result<Vec<u8>, Problem> {
    let number = |name: &'static str, usual: usize, most: usize| -> Result<usize, Problem> {
        let Some(text) = context.parameter(name)? else { return Ok(usual) };
        text.trim().parse().ok().filter(|n| *n <= most).ok_or_else(|| {
            let message = format!("{name} must be a number from 0 to {most}");
            Problem::field(name, "out_of_range", message)
        })
    };
    let mut filter = MessageFilter {
        kind: Some(MessageKind::OneWay),
        skip: number("SkipCount", 0, MAX_OFFSET)?,
        // These clients know no page that goes on.
        far: true,
        ..MessageFilter::default()
    };
    let limit = number("MaxResultCount", DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)?;
    let total = context.app.messages.count(context.caller()?, MAX_COUNTED).await?;
    let list = context.app.messages.list(context.caller()?, filter.clone(), limit).await?;
    let mut found = list.items;
    // Large messages are read some at a time.
    let (mut read, mut bytes) = (0, 0);
    while let Some(last) = found.last().filter(|_| found.len() < limit) {
        let fresh: usize = found.iter().skip(read).map(|message| message.content.len()).sum();
        bytes += fresh;
        if fresh < MAX_PAGE_BYTES || bytes > MAX_RESPONSE_LEN {
            break;
        }
        (filter.skip, filter.before, read) = (0, Some(last.id), found.len());
        let left = limit - read;
        let list = context.app.messages.list(context.caller()?, filter.clone(), left).await?;
        found.extend(list.items);
    }
    // The place of an item is told by its number: a page that is cut would hide the rest from a client that goes on
    // by the number that it asked for.
    let sanitizes = context.app.runtime_settings().sanitize_existing;
    let (items, shown) =
        pagination::list(&found, MAX_RESPONSE_LEN, |message: &Message| item(message, sanitizes));
    if shown < found.len() {
        let text = format!("the page exceeds {MAX_RESPONSE_LEN} bytes: lower MaxResultCount");
        return Err(Problem::bad_request("page_too_large", text));
    }
    let begin = format!("{{\"totalCount\":{total},\"items\":");
    Ok([begin.as_bytes(), &items, b"}"].concat())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ItemBody<'a> {
    id: Uuid,
    recipient_phone_number: String,
    message_content: Cow<'a, str>,
    #[serde(with = "crate::server::timestamp")]
    creation_time: time::OffsetDateTime,
    status: u8,
}

fn item(message: &Message, sanitizes: bool) -> Value {
    let recipient_phone_number = match &message.recipient {
        Party::Mobile(number) => phone(number.as_str()).to_owned(),
        Party::Business(id) => id.to_string(),
    };
    json!(ItemBody {
        id: message.id.0,
        recipient_phone_number,
        message_content: sanitized(&message.content, sanitizes),
        creation_time: message.created_at,
        status: status(message.status),
    })
}
