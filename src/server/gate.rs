//! Where every request comes in: it gets an id, its sender is found out, its body is read within
//! limits, and it goes to the hub or to the routes. What comes out is counted and logged here.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header, request::Parts};
use hyper::body::{Body as _, Incoming};
use warp::reply::Response;

use super::{
    Readiness,
    body::{self, BodyError},
    context::{Context, Shared},
    http::health,
    hub::{
        self,
        services::{Asked, Service},
    },
    legacy, openapi,
    reply::Problem,
    routes,
};
use crate::app::{App, Error};

/// The largest body of a usual request: content of 10,000 characters, each escaped in JSON.
const BODY_LIMIT: usize = 256 * 1024;
/// The largest body of a batch, or of rows that are imported.
const BATCH_BODY_LIMIT: usize = 24 * 1024 * 1024;
/// How long a body may pause, and how long it may take in all.
const BODY_IDLE: Duration = Duration::from_secs(15);
const BODY_TOTAL: Duration = Duration::from_secs(120);

/// The way in. Cheap to clone.
#[derive(Clone)]
pub struct Gate {
    app: App,
    hub: hub::Hub,
    readiness: Readiness,
    routes: warp::filters::BoxedFilter<(Response,)>,
    /// What `/openapi.json` says.
    description: bytes::Bytes,
}

impl Gate {
    /// A way in to this appliance.
    pub fn new(app: App, hub: hub::Hub, readiness: Readiness) -> Gate {
        Gate { app, hub, readiness, routes: routes::table(), description: openapi::page() }
    }

    /// Answers one request.
    pub async fn handle(self, mut request: Request<Incoming>) -> Response {
        let begun = Instant::now();
        let id = request_id(request.headers());
        let named = HeaderValue::from_str(&id).ok();
        if let Some(named) = &named {
            // It keeps its id where it is passed on to.
            request.headers_mut().insert("x-request-id", named.clone());
        }
        let method = request.method().clone();
        // Without the query: it may hold a token.
        let path = request.uri().path().to_owned();
        let mut response = self.answer(request, begun).await;
        if let Some(named) = named {
            response.headers_mut().insert("x-request-id", named);
        }
        let status = response.status();
        let route = route_name(&path);
        metrics::counter!(
            "esh3ar_http_requests_total", "route" => route, "status" => status.as_str().to_owned()
        )
        .increment(1);
        metrics::histogram!("esh3ar_http_request_seconds", "route" => route)
            .record(begun.elapsed().as_secs_f64());
        if status.is_server_error() {
            // Not the path: it may name a phone.
            tracing::warn!(request = %id, %method, route, status = status.as_u16(), "request failed");
        } else {
            tracing::debug!(request = %id, %method, route, status = status.as_u16(), "request");
        }
        response
    }

    async fn answer(self, mut request: Request<Incoming>, came: Instant) -> Response {
        if let Some(meant) = legacy::address(request.uri().path()) {
            *request.uri_mut() = with_path(request.uri(), meant);
        }
        let path = request.uri().path();
        if let Some((service, asked)) = Service::at(path) {
            if is_encoded(&request) {
                return Problem::encoded().into_response();
            }
            return self.hub.handle(service, asked, request).await;
        }
        if path == legacy::HEALTH {
            return health::whole(&self.app, false, false).await;
        }
        if path == "/health" || path.starts_with("/health/") {
            return self.health(&request).await;
        }
        if path == "/openapi.json" {
            return openapi::answer(&self.description, request.method());
        }
        let legacy = legacy::is_address(path);
        self.api(request, came).await.unwrap_or_else(|problem| {
            if legacy { legacy::http::refused(&problem) } else { problem.into_response() }
        })
    }

    async fn health(&self, request: &Request<Incoming>) -> Response {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let text = "health is read with GET";
            return Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", text)
                .into_response();
        }
        let details = match bearer(request.headers()) {
            None => false,
            Some(token) => self
                .app
                .authenticate(token)
                .await
                .is_ok_and(|caller| caller.business(crate::domain::Permission::Admin).is_ok()),
        };
        health_page(&self.app, &self.readiness, request.uri(), details).await
    }

    async fn api(self, request: Request<Incoming>, came: Instant) -> Result<Response, Problem> {
        let encoded = is_encoded(&request);
        let (parts, mut body) = request.into_parts();
        // A client that waits to be told to send its body takes the answer instead.
        let waits = parts.headers.contains_key(header::EXPECT);
        let answer = self.api_answer(parts, &mut body, encoded, came).await;
        if answer.is_err() && !waits && !body.is_end_stream() {
            body::discard(&mut body).await;
        }
        answer
    }

    async fn api_answer(
        self,
        mut parts: Parts,
        incoming: &mut Incoming,
        encoded: bool,
        came: Instant,
    ) -> Result<Response, Problem> {
        // Before the body: nothing of a stranger's is kept.
        let token = bearer(&parts.headers).ok_or(Error::Unauthenticated)?;
        let caller = self.app.authenticate(token).await?;
        if encoded {
            return Err(Problem::encoded());
        }
        let path = parts.uri.path();
        let large = path.ends_with("/batch") || path.starts_with("/api/v1/admin/import/");
        let limit = if large { BATCH_BODY_LIMIT } else { BODY_LIMIT };
        let body = tokio::time::timeout(BODY_TOTAL, body::read(incoming, limit, BODY_IDLE))
            .await
            .unwrap_or(Err(BodyError::TimedOut));
        let body = body.map_err(|error| match error {
            BodyError::TooLarge { limit } => Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                format!("the body may have {limit} bytes at most"),
            ),
            BodyError::TimedOut => Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "body_timeout",
                "the body did not arrive in time",
            ),
            BodyError::Broken => {
                Problem::bad_request("body_broken", "the body broke off before its end")
            }
        })?;
        let context: Shared = Arc::new(Context {
            app: self.app,
            caller,
            operator: None,
            route: format!("{} {}", parts.method, path),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            headers: std::mem::take(&mut parts.headers),
            body,
            came,
        });
        Ok(routes::answer(self.routes, context, parts.method, parts.uri).await)
    }
}

/// The health page at a path; 404 elsewhere.
pub async fn health_page(
    app: &App,
    readiness: &Readiness,
    uri: &::http::Uri,
    details: bool,
) -> Response {
    match uri.path() {
        "/health" => match health::asks_history(uri.query().unwrap_or_default()) {
            Ok(history) => health::whole(app, details, details && history).await,
            Err(problem) => problem.into_response(),
        },
        "/health/live" => health::live(),
        "/health/ready" => health::ready(app, readiness, details).await,
        _ => Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this address")
            .into_response(),
    }
}

/// Whether the request has a body that is compressed.
fn is_encoded(request: &Request<Incoming>) -> bool {
    let named = request.headers().get_all(header::CONTENT_ENCODING).iter();
    // What is no text is no name of ours either.
    let mut names = named.flat_map(|value| value.to_str().unwrap_or("unknown").split(','));
    !request.body().is_end_stream()
        && names.any(|name| !matches!(name.trim().to_ascii_lowercase().as_str(), "" | "identity"))
}

/// The token of an `Authorization: Bearer` header; the scheme is compared without case.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The caller's id for the request if it is fit for a log, else one of ours.
fn request_id(headers: &HeaderMap) -> String {
    headers
        .get("x-request-id")
        .and_then(|value| value.to_str().ok())
        .filter(|id| (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()))
        .map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

/// The same address with another path.
fn with_path(uri: &http::Uri, path: &'static str) -> http::Uri {
    let of = match uri.query() {
        None => http::uri::PathAndQuery::from_static(path),
        Some(query) => match format!("{path}?{query}").parse() {
            Ok(of) => of,
            Err(_) => return uri.clone(),
        },
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(of);
    http::Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

/// The path without ids, so that it can be a label.
fn route_name(path: &str) -> &'static str {
    match path {
        "/health" | "/health/live" | "/health/ready" => "/health",
        "/openapi.json" => "/openapi.json",
        _ if path.starts_with("/api/v1/admin/") => "/api/v1/admin",
        "/api/v1/messages" => "/api/v1/messages",
        "/api/v1/messages/batch" => "/api/v1/messages/batch",
        "/api/v1/messages/acknowledge" => "/api/v1/messages/acknowledge",
        "/api/v1/messages/pending" => "/api/v1/messages/pending",
        _ if path.starts_with("/api/v1/messages/") => match path.rsplit('/').next() {
            Some("timeline") => "/api/v1/messages/{id}/timeline",
            Some("delivered") => "/api/v1/messages/{id}/delivered",
            Some("read") => "/api/v1/messages/{id}/read",
            _ => "/api/v1/messages/{id}",
        },
        _ if path.starts_with("/api/v1/conversations") => "/api/v1/conversations",
        _ if path.starts_with("/api/v1/admin/") => "/api/v1/admin",
        _ if legacy::is_address(path) => "legacy",
        _ => match Service::at(path) {
            Some((Service::Messages, Asked::Connect)) => "/hub",
            Some((Service::Messages, Asked::Negotiate)) => "/hub/negotiate",
            Some((Service::Diagnostics, _)) => "/hub/diagnostics",
            Some((Service::LegacyMobile | Service::LegacyBusiness, _)) => "legacy hub",
            None => "other",
        },
    }
}

/// Answers nothing but the metrics and the health pages: for the listener of machines.
pub async fn machine_page(
    app: App,
    readiness: Readiness,
    render: Arc<dyn Fn() -> String + Send + Sync>,
    request: Request<Incoming>,
) -> Response {
    if request.uri().path() == "/metrics" {
        let mut response = Response::new(bytes::Bytes::from(render()).into());
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
        );
        return response;
    }
    health_page(&app, &readiness, request.uri(), true).await
}
