//! The routes of the existing API that one-way messages need.
//!
//! Bodies are in camelCase, and read without regard to case as there; unknown fields are skipped.

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;
use warp::{Filter as _, filters::BoxedFilter, reply::Response};

use super::{e164, phone, status};
use crate::{
    app::{
        Error,
        messages::{Refusal, SendRequest, Sent},
    },
    domain::{
        ContentType, Message, MessageKind, Party, Priority,
        message::{BATCH_LIMIT, Draft, FieldError},
    },
    server::{
        context::{Context, Shared},
        reply::{self, Problem},
    },
    store::messages::Filter,
};

/// Where all of them are.
pub const BASE: &str = "/api/app/";
/// Every route in [`table`].
pub const ALL: &[(&str, &str)] = &[
    ("POST", "/api/app/message/ingestion-send-one-way-message"),
    ("POST", "/api/app/message/send-message-from-ui"),
    ("POST", "/api/app/message/send-one-way-message"),
    ("POST", "/api/app/message/ingestion-batch-message"),
    ("GET", "/api/app/message/pending-messages"),
    ("GET", "/api/app/message/one-way-messages"),
];

/// The usual page there, and the largest here.
const USUAL_PAGE: usize = 10;
const LARGEST_PAGE: usize = 200;
/// How far a list goes by number. Past it, the lists of the new API go on.
const FURTHEST: usize = 10_000;
/// How far messages are counted.
const COUNTED: i64 = 100_000;
/// The most that waits for one phone and is told at once.
const PENDING: usize = 100;

macro_rules! route {
    ($method:ident $name:literal, $answer:path) => {
        warp::path!("api" / "app" / "message" / $name)
            .and(warp::$method())
            .and(warp::ext::get::<Shared>())
            .then(|context: Shared| async move { reply_of($answer(&context).await) })
            .boxed()
    };
}

/// The table. Requests must carry a [`Shared`] context in their extensions.
pub fn table() -> BoxedFilter<(Response,)> {
    route!(post "ingestion-send-one-way-message", send)
        .or(route!(post "send-message-from-ui", send))
        .unify()
        .or(route!(post "send-one-way-message", send))
        .unify()
        .or(route!(post "ingestion-batch-message", send_batch))
        .unify()
        .or(route!(get "pending-messages", pending))
        .unify()
        .or(route!(get "one-way-messages", list))
        .unify()
        .boxed()
}

fn reply_of(answer: Result<Value, Problem>) -> Response {
    match answer {
        Ok(value) => reply::raw(StatusCode::OK, value.to_string()),
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

#[derive(Deserialize)]
struct BatchBody {
    #[serde(default, rename = "batchmessages")]
    messages: Vec<SendBody>,
}

/// Names in lower case, whatever case they came in.
fn lowered(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields.into_iter().map(|(name, value)| (name.to_lowercase(), lowered(value))).collect(),
        ),
        Value::Array(items) => items.into_iter().map(lowered).collect(),
        other => other,
    }
}

fn body<T: serde::de::DeserializeOwned>(context: &Context) -> Result<T, Problem> {
    let value = lowered(context.json()?);
    serde_json::from_value(value)
        .map_err(|error| Problem::bad_request("invalid_body", error.to_string()))
}

impl From<SendBody> for SendRequest {
    fn from(body: SendBody) -> Self {
        SendRequest {
            to: e164(&body.to),
            draft: Draft {
                subject: body.subject.filter(|subject| !subject.is_empty()),
                content: body.content,
                content_type: ContentType::default(),
                priority: Priority::default(),
            },
        }
    }
}

async fn send(context: &Context) -> Result<Value, Problem> {
    context.caller.sender()?;
    let request: SendBody = body(context)?;
    let answer = |message: &Message| (200, json!({ "id": message.id.0 }).to_string());
    match context.app.send(&context.caller, request.into(), context.request_key()?, answer).await? {
        Sent::Now(message) => {
            context.accepted([&message]);
            Ok(json!({ "id": message.id.0 }))
        }
        Sent::Before(earlier) => Ok(serde_json::from_str(&earlier.response).unwrap_or_default()),
    }
}

/// All or nothing there; here too as far as rules go, which are looked at before anything is sent.
async fn send_batch(context: &Context) -> Result<Value, Problem> {
    context.caller.sender()?;
    let BatchBody { messages } = body(context)?;
    if messages.is_empty() || messages.len() > BATCH_LIMIT {
        let message = format!("batchMessages must hold 1 to {BATCH_LIMIT} items");
        return Err(Problem::field("batchMessages", "out_of_range", message));
    }
    let requests: Vec<SendRequest> = messages.into_iter().map(SendRequest::from).collect();
    let broken: Vec<FieldError> =
        requests.iter().flat_map(|request| context.app.broken_rules(request)).collect();
    if !broken.is_empty() {
        return Err(Error::Invalid(broken).into());
    }
    let key = context.request_key()?;
    let sent = context
        .app
        .send_batch(&context.caller, requests, key, |_| (200, "true".to_owned()))
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

async fn pending(context: &Context) -> Result<Value, Problem> {
    let own = context.caller.mobile()?;
    if let Some(asked) = context.phone_text("phoneNumber")?
        && context.app.stored_phone("phoneNumber", &e164(&asked)).ok().as_ref() != Some(own)
    {
        return Err(Error::NotFound("phone number").into());
    }
    let found = context.app.pending_after(&context.caller, None, PENDING).await?;
    let view = |message: &Message| {
        json!({
            "id": message.id.0,
            "recipientPhoneNumber": phone(own.as_str()),
            "messageContent": message.content,
            "from": &*message.from,
        })
    };
    Ok(found.iter().map(view).collect())
}

async fn list(context: &Context) -> Result<Value, Problem> {
    let Party::Business(_) = context.caller.party() else {
        return Err(Error::WrongAudience("business").into());
    };
    let number = |name: &'static str, usual: usize, most: usize| -> Result<usize, Problem> {
        let Some(text) = context.parameter(name)? else { return Ok(usual) };
        text.trim().parse().ok().filter(|n| *n <= most).ok_or_else(|| {
            let message = format!("{name} must be a number from 0 to {most}");
            Problem::field(name, "out_of_range", message)
        })
    };
    let filter = Filter {
        kind: Some(MessageKind::OneWay),
        skip: number("SkipCount", 0, FURTHEST)?,
        ..Filter::default()
    };
    let limit = number("MaxResultCount", USUAL_PAGE, LARGEST_PAGE)?;
    let total = context.app.count_messages(&context.caller, COUNTED).await?;
    let found = context.app.list_messages(&context.caller, filter, limit).await?;
    let items: Vec<Value> = found.iter().map(item).collect();
    Ok(json!({ "totalCount": total, "items": items }))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ItemBody<'a> {
    id: Uuid,
    recipient_phone_number: String,
    message_content: &'a str,
    #[serde(with = "crate::server::moment")]
    creation_time: time::OffsetDateTime,
    status: u8,
}

fn item(message: &Message) -> Value {
    let recipient_phone_number = match &message.recipient {
        Party::Mobile(number) => phone(number.as_str()).to_owned(),
        Party::Business(id) => id.to_string(),
    };
    json!(ItemBody {
        id: message.id.0,
        recipient_phone_number,
        message_content: &message.content,
        creation_time: message.created_at,
        status: status(message.status),
    })
}
