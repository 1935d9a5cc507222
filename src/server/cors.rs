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
    /// Whether the listeners serve TLS.
    tls: bool,
}

impl Cors {
    pub fn new(allowed: &[AllowedOrigin], tls: bool) -> Cors {
        Cors { allowed: allowed.into(), tls }
    }

    /// The answer to a request that must not be handled: a preflight, or a WebSocket of a foreign page. `names_tls`:
    /// a trusted load balancer says that the client uses TLS.
    pub fn answer<B>(&self, request: &Request<B>, names_tls: bool) -> Option<Response> {
        let headers = request.headers();
        let origin = headers.get(header::ORIGIN)?;
        let is_preflight = request.method() == Method::OPTIONS;
        if !is_preflight && !is_websocket(headers) {
            return None;
        }
        let tls = self.tls || names_tls;
        if self.access(origin) == OriginAccess::Refused && !is_own(origin, request, tls) {
            return Some(refused().into_response());
        }
        is_preflight.then(|| preflight(headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS)))
    }

    /// Adds to an answer what the page of a request, if any, may do with it.
    pub fn complete(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        // A cache must not show one page what another one may see, nor what nobody's page asked for.
        if origin.is_some() || !self.allowed.is_empty() {
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        let Some(origin) = origin else { return };
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

/// Whether the page comes from this server itself. Where clients use TLS, a page without it may come from anybody on
/// the network. Elsewhere the scheme says nothing: a load balancer that is not configured may end TLS.
fn is_own<B>(origin: &HeaderValue, request: &Request<B>, tls: bool) -> bool {
    let origin: Option<WebOrigin> = origin.to_str().ok().and_then(|text| text.parse().ok());
    origin
        .zip(host::of(request))
        .is_some_and(|(origin, host)| origin.is_host(host) && (origin.is_secure() || !tls))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The status of the answer to a handshake that must not be handled.
    fn judged(cors: &Cors, origin: &str, host: &str, names_tls: bool) -> Option<u16> {
        let request = Request::get("/hub")
            .header(header::HOST, host)
            .header(header::UPGRADE, "WebSocket")
            .header(header::ORIGIN, origin)
            .body(())
            .unwrap();
        cors.answer(&request, names_tls).map(|answer| answer.status().as_u16())
    }

    #[test]
    fn a_page_without_tls_is_another_one_where_tls_is_used() {
        let (plain, tls) = (Cors::new(&[], false), Cors::new(&[], true));
        for (cors, origin, host, names_tls, wanted) in [
            (&plain, "http://a.example", "a.example", false, None),
            (&plain, "https://a.example", "a.example", false, None),
            (&plain, "http://a.example", "a.example", true, Some(403)),
            (&plain, "https://a.example", "a.example", true, None),
            (&tls, "http://a.example", "a.example", false, Some(403)),
            (&tls, "https://a.example", "a.example", false, None),
            (&tls, "https://a.example:8443", "a.example:8443", false, None),
            (&tls, "https://a.example", "a.example:8443", false, Some(403)),
            (&tls, "https://b.example", "a.example", false, Some(403)),
            (&tls, "null", "a.example", false, Some(403)),
        ] {
            assert_eq!(judged(cors, origin, host, names_tls), wanted, "{origin} {host}");
        }
    }

    #[test]
    fn every_answer_depends_on_the_origin_where_there_is_a_list() {
        let shown = |list: &str, origin: Option<&'static str>| {
            let cors = Cors::new(&AllowedOrigin::list(list).unwrap(), false);
            let mut headers = HeaderMap::new();
            cors.complete(origin.map(HeaderValue::from_static).as_ref(), &mut headers);
            let shown = |name| headers.get(name).cloned();
            (
                shown(header::VARY).is_some(),
                shown(header::ACCESS_CONTROL_ALLOW_ORIGIN),
                shown(header::ACCESS_CONTROL_ALLOW_CREDENTIALS).is_some(),
            )
        };
        let (ours, other) = ("https://a.example", "https://b.example");
        let named = |name: &'static str| Some(HeaderValue::from_static(name));
        assert_eq!(shown("", None), (false, None, false));
        assert_eq!(shown("", Some(ours)), (true, None, false));
        assert_eq!(shown(ours, None), (true, None, false));
        assert_eq!(shown(ours, Some(ours)), (true, named(ours), true));
        assert_eq!(shown(ours, Some(other)), (true, None, false));
        assert_eq!(shown("*", Some(other)), (true, named("*"), false));
    }
}
