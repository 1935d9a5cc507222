//! HTTP responses: JSON, and problem documents (RFC 9457). The only place that maps [`app::Error`] to HTTP.

use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use warp::reply::Response;

use crate::{app, domain::message::FieldError};

const ENCODED: &str = "unsupported_content_encoding";

/// Codes that our own programs depend on.
pub mod code {
    /// The database's disk is full.
    pub const DISK_FULL: &str = "disk_full";
    /// No such route.
    pub const ROUTE_NOT_FOUND: &str = "route_not_found";
}

/// An error response.
#[derive(Debug)]
pub struct Problem {
    /// The status.
    pub status: StatusCode,
    /// Stable identifier for programs, snake_case.
    pub code: &'static str,
    /// For people.
    pub detail: String,
    /// Invalid fields.
    pub errors: Vec<FieldError>,
    /// Seconds for `Retry-After`.
    pub retry_after: Option<u64>,
}

#[derive(Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody<'a> {
    /// `urn:esh3ar:problem:` and the code.
    r#type: String,
    /// Reason phrase of the status.
    title: &'a str,
    /// HTTP status.
    pub(crate) status: u16,
    /// Explanation for people; do not parse.
    pub(crate) detail: &'a str,
    /// Stable identifier for programs, snake_case.
    pub(crate) code: &'a str,
    /// Invalid fields: code and message by field.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<std::collections::BTreeMap<String, Vec<FieldProblem<'static>>>>)]
    errors: Option<serde_json::Map<String, serde_json::Value>>,
    /// Seconds, like the header `Retry-After`; also in items of a batch.
    #[serde(skip_serializing_if = "Option::is_none", rename = "retryAfter")]
    pub(crate) retry_after: Option<u64>,
}

/// An error of a field.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = FieldProblem)]
struct FieldProblem<'a> {
    /// Stable identifier for programs, snake_case.
    code: &'a str,
    /// Explanation for people; do not parse.
    message: &'a str,
}

impl Problem {
    /// A problem without field errors.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Problem {
        Problem { status, code, detail: detail.into(), errors: Vec::new(), retry_after: None }
    }

    /// A malformed request.
    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// A compressed body; the response names the supported encoding in a header, too (RFC 9110, 15.5.16).
    pub fn encoded() -> Problem {
        let text = "compressed bodies are not supported: omit Content-Encoding, or use identity";
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, ENCODED, text)
    }

    /// An invalid query parameter, header or field.
    pub fn field(field: &'static str, code: &'static str, message: impl Into<String>) -> Problem {
        app::Error::field(field, code, message).into()
    }

    /// The body of the problem.
    pub fn to_json(&self) -> serde_json::Value {
        let errors = (!self.errors.is_empty()).then(|| {
            let mut fields = serde_json::Map::new();
            for error in &self.errors {
                let entry = FieldProblem { code: error.code, message: &error.message };
                let entry = serde_json::to_value(entry).unwrap_or_default();
                if let serde_json::Value::Array(list) = fields
                    .entry(error.field)
                    .or_insert_with(|| serde_json::Value::Array(Vec::new()))
                {
                    list.push(entry);
                }
            }
            fields
        });
        let body = ProblemBody {
            r#type: format!("urn:esh3ar:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            errors,
            retry_after: self.retry_after,
        };
        serde_json::to_value(body).unwrap_or_default()
    }

    /// Only what programs need.
    pub fn to_short_json(&self) -> serde_json::Value {
        let mut short = serde_json::json!({ "status": self.status.as_u16(), "code": self.code });
        if let Some(seconds) = self.retry_after {
            short["retryAfter"] = seconds.into();
        }
        short
    }

    /// The whole answer.
    pub fn into_response(self) -> Response {
        metrics::counter!("esh3ar_errors_total", "way" => "http", "code" => self.code).increment(1);
        let mut response = raw(self.status, self.to_json().to_string());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code == ENCODED {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The status and the stable code of a failed use case.
pub fn classify(error: &app::Error) -> (StatusCode, &'static str) {
    use app::Error;
    match error {
        Error::Invalid(_) => (StatusCode::BAD_REQUEST, "validation_failed"),
        Error::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated"),
        Error::Forbidden(_) => (StatusCode::FORBIDDEN, "permission_denied"),
        Error::WrongAudience(_) => (StatusCode::FORBIDDEN, "wrong_audience"),
        Error::ReadOnly => (StatusCode::FORBIDDEN, "one_way_read_only"),
        Error::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
        Error::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
        Error::ContentRefused(_) => (StatusCode::UNPROCESSABLE_ENTITY, "content_refused"),
        Error::KeyReused => (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused"),
        Error::ClientMessageIdReused => (StatusCode::CONFLICT, "client_message_id_reused"),
        Error::RateLimited { .. } => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
        Error::Overloaded { .. } => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
        Error::Unavailable | Error::Away(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        Error::DiskFull => (StatusCode::SERVICE_UNAVAILABLE, code::DISK_FULL),
        Error::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
    }
}

impl From<app::Error> for Problem {
    fn from(error: app::Error) -> Self {
        use app::Error;
        let detail = error.to_string();
        let (status, code) = classify(&error);
        let mut problem = Problem::new(status, code, detail);
        match error {
            Error::Invalid(errors) | Error::ContentRefused(errors) => problem.errors = errors,
            Error::Overloaded { retry_after } | Error::RateLimited { retry_after, .. } => {
                problem.retry_after = Some(app::error::whole_seconds(retry_after));
            }
            Error::Unavailable | Error::Away(_) => problem.retry_after = Some(1),
            // An administrator must free space.
            Error::DiskFull => problem.retry_after = Some(30),
            _ => {}
        }
        problem
    }
}

/// A JSON answer.
pub fn json<T: Serialize>(status: StatusCode, body: &T) -> Response {
    match serde_json::to_string(body) {
        Ok(text) => raw(status, text),
        Err(error) => {
            tracing::error!(%error, "cannot serialize a response");
            Problem::from(app::Error::Internal).into_response()
        }
    }
}

/// An answer that is JSON already.
pub fn raw(status: StatusCode, json: impl Into<bytes::Bytes>) -> Response {
    let mut response = Response::new(json.into().into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// What every handler ends with.
pub fn answer(result: Result<Response, Problem>) -> Response {
    result.unwrap_or_else(Problem::into_response)
}
