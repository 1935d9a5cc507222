//! Responses to requests, in the words of the official server, which clients show and tests compare.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use warp::reply::Response;

use crate::{
    app::{Error, limits::Limited},
    server::{hub::forward::ForwardError, reply::Problem},
};

/// For a request that was cut short because this process stops.
const STOP_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The texts are those of the official server.
#[derive(Clone, Copy, Debug)]
pub(super) enum HubRejection {
    MissingId,
    UnknownId,
    /// Another transport is attached.
    Conflict,
    PostNotAllowed,
    /// Too many posts to the connection wait for their turn.
    TooManyPosts,
    BadRequest(&'static str),
    /// With the time until a retry.
    Unavailable(Duration),
    RateLimited(Limited),
    NoRandomness,
}

impl From<ForwardError> for HubRejection {
    fn from(error: ForwardError) -> HubRejection {
        match error {
            ForwardError::Unreachable => HubRejection::UnknownId,
            ForwardError::Stopping => HubRejection::Unavailable(STOP_RETRY_AFTER),
        }
    }
}

impl HubRejection {
    pub(super) fn into_response(self) -> Response {
        match self {
            HubRejection::MissingId => text(StatusCode::BAD_REQUEST, "Connection ID required"),
            HubRejection::UnknownId => text(StatusCode::NOT_FOUND, "No Connection with that ID"),
            HubRejection::Conflict => text(StatusCode::CONFLICT, ""),
            HubRejection::PostNotAllowed => {
                let what = "POST requests are not allowed for WebSocket connections.";
                text(StatusCode::METHOD_NOT_ALLOWED, what)
            }
            HubRejection::TooManyPosts => text(StatusCode::TOO_MANY_REQUESTS, ""),
            HubRejection::BadRequest(what) => text(StatusCode::BAD_REQUEST, what),
            HubRejection::Unavailable(retry_after) => {
                Problem::from(Error::Overloaded { retry_after }).into_response()
            }
            HubRejection::RateLimited(limited) => {
                Problem::from(Error::from(limited)).into_response()
            }
            HubRejection::NoRandomness => Problem::from(Error::Internal).into_response(),
        }
    }
}

pub(super) fn poll_response(bytes: Bytes) -> Response {
    let length = bytes.len();
    let mut response = Response::new(bytes.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    let past = HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT");
    headers.insert(header::EXPIRES, past);
    response
}

pub(super) fn switching_protocols(accept: &str) -> Response {
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(accept) = HeaderValue::from_str(accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

pub(super) fn method_not_allowed(allow: &'static str) -> Response {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

pub(super) fn text(status: StatusCode, body: &'static str) -> Response {
    let mut response = Response::new(Bytes::from_static(body.as_bytes()).into());
    *response.status_mut() = status;
    if !body.is_empty() {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    response
}
