//! Which web pages may call the server (CORS), and from which a WebSocket is accepted.

use std::sync::Arc;

use ::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use warp::reply::Response;

use super::{host, reply::Problem};
use crate::domain::web_origin::{self, AllowedOrigin, OriginAccess, WebOrigin};

/// The headers that the official hub client and clients of the API send.
const ALLOWED_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, idempotency-key, x-request-id, x-requested-with, x-signalr-user-agent",
);
const EXPOSED_HEADERS: HeaderValue =
    HeaderValue::from_static("retry-after, x-request-id, idempotency-replayed");

/// `http.cors_origins`. Cheap to clone.
#[derive(Clone)]
pub struct Cors {
    allowed: Arc<[AllowedOrigin]>,
}

impl Cors {
    pub fn new(allowed: &[AllowedOrigin]) -> Cors {
        Cors { allowed: allowed.into() }
    }

    /// The answer to a request that must not be handled: a preflight, or a WebSocket of a foreign page.
    pub fn answer<B>(&self, request: &Request<B>) -> Option<Response> {
        let headers = request.headers();
        let origin = headers.get(header::ORIGIN)?;
        let is_preflight = request.method() == Method::OPTIONS;
        if !is_preflight && !is_websocket(headers) {
            return None;
        }
        if self.access(origin) == OriginAccess::Refused && !is_own(origin, request) {
            return Some(refused().into_response());
        }
        is_preflight.then(|| preflight(headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS)))
    }

    /// Adds to an answer what the page of a request may do with it.
    pub fn complete(&self, origin: &HeaderValue, headers: &mut HeaderMap) {
        // A cache must not show one page what another one may see.
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        let allowed = match self.access(origin) {
            OriginAccess::Refused => return,
            OriginAccess::WithoutCredentials => HeaderValue::from_static("*"),
            OriginAccess::WithCredentials => {
                let yes = HeaderValue::from_static("true");
                headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
                origin.clone()
            }
        };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
    }

    fn access(&self, origin: &HeaderValue) -> OriginAccess {
        web_origin::access(&self.allowed, origin.to_str().unwrap_or_default())
    }
}

fn is_websocket(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    upgrade.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket"))
}

/// Whether the page comes from this server itself.
fn is_own<B>(origin: &HeaderValue, request: &Request<B>) -> bool {
    let origin: Option<WebOrigin> = origin.to_str().ok().and_then(|text| text.parse().ok());
    origin.zip(host::of(request)).is_some_and(|(origin, host)| origin.is_host(host))
}

fn refused() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "origin_not_allowed",
        "pages of this origin may not call the server: add it to http.cors_origins".to_owned(),
    )
}

fn preflight(asked: Option<&HeaderValue>) -> Response {
    let mut response = Response::new(bytes::Bytes::new().into());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    let methods = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE");
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS);
    if let Some(asked) = asked {
        // Pages may add headers of their own to the requests of the client.
        headers.append(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        headers.append(header::VARY, HeaderValue::from_static("Access-Control-Request-Headers"));
    }
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("3600"));
    response
}
