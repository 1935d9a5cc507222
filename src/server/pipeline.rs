//! The steps of every request: an id, the caller, the body within its limits, then the hub or a route.
//! Responses are counted and logged here.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header, request::Parts};
use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use warp::reply::Response;

use super::{
    Readiness,
    admin_access::{AdminAccess, AdminCall, Surface},
    allowed_callers::Who,
    authorization::bearer,
    budget::{Budget, BudgetExceeded, BudgetLimits, BudgetOwner, Reservation},
    connection::ConnectionHandle,
    context::{RequestContext, SharedContext},
    cors::Cors,
    dispatch, host,
    http::health,
    hub::{
        self,
        hubs::service::{HubEndpoint, Service},
    },
    legacy,
    peer::{self, TrustedProxies},
    principal::Principal,
    refusal_log::RefusalLog,
    reply::Problem,
    request_body::{self, BodyError, BodyStream},
    response_body::{self, ResponseBody},
    route::{Body, NoRoute},
    routes,
    size_limits::RECEIPT_LEN,
};
use crate::app::{
    App, Error,
    identity::{auth::TokenCheck, refusals::RefusalReason},
};

const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(15);
const BODY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a request waits for memory for its response.
const RESERVATION_TIMEOUT: Duration = Duration::from_secs(1);

/// Cheap to clone.
#[derive(Clone)]
pub struct RequestPipeline {
    app: App,
    hub: hub::Hub,
    readiness: Readiness,
    routes: warp::filters::BoxedFilter<(Response,)>,
    bodies: Budget,
    answers: Budget,
    requests: Budget,
    proxies: TrustedProxies,
    admin: AdminAccess,
    cors: Cors,
    refusal_log: RefusalLog,
}

impl RequestPipeline {
    pub fn new(
        app: App,
        hub: hub::Hub,
        readiness: Readiness,
        proxies: TrustedProxies,
        admin: AdminAccess,
        cors: Cors,
    ) -> RequestPipeline {
        let routes = dispatch::filter();
        let (bodies, answers) =
            (Budget::new(BudgetLimits::BODIES), Budget::new(BudgetLimits::ANSWERS));
        let requests = Budget::new(BudgetLimits::REQUESTS);
        RequestPipeline {
            app,
            hub,
            readiness,
            routes,
            bodies,
            answers,
            requests,
            proxies,
            admin,
            cors,
            refusal_log: RefusalLog::default(),
        }
    }

    /// The same, with the same limits, for the listener of the admin API.
    pub fn for_admin(&self) -> RequestPipeline {
        let mut pipeline = self.clone();
        pipeline.admin.surface = Surface::AdminOnly;
        pipeline
    }

    /// Answers a request that arrived from this address.
    pub async fn handle(
        self,
        mut request: Request<Incoming>,
        connected: IpAddr,
    ) -> ::http::Response<ResponseBody> {
        // Another gateway names the client of a forwarded request.
        let named = self.hub.peer_of(&request);
        let peer = named.unwrap_or_else(|| self.proxies.client(connected, request.headers()));
        if let Some(connection) = request.extensions().get::<ConnectionHandle>() {
            connection.carries(self.proxies.counted_for(connected, peer, request.headers()));
        }
        let begun = Instant::now();
        let id = request_id(request.headers());
        let named = HeaderValue::from_str(&id).ok();
        if let Some(named) = &named {
            // A forwarded request keeps its id.
            request.headers_mut().insert("x-request-id", named.clone());
        }
        let method = request.method().clone();
        let mut label = "other";
        let refusal_log = self.refusal_log.clone();
        let (cors, origin) = (self.cors.clone(), request.headers().get(header::ORIGIN).cloned());
        let names_tls = self.proxies.names_tls(connected, request.headers());
        let early = host::check(&request).map_err(Problem::into_response).err();
        let mut response = match early.or_else(|| cors.answer(&request, names_tls)) {
            Some(early) => response_body::with_reservation(early, None),
            None => self.answer(request, peer, begun, &mut label).await,
        };
        cors.complete(origin.as_ref(), response.headers_mut());
        if let Some(named) = named {
            response.headers_mut().insert("x-request-id", named);
        }
        let (status, route) = (response.status(), label);
        metrics::counter!(
            "esh3ar_http_requests_total", "route" => route, "status" => status.as_str().to_owned()
        )
        .increment(1);
        metrics::histogram!("esh3ar_http_request_seconds", "route" => route)
            .record(begun.elapsed().as_secs_f64());
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
            && let Some(omitted) = refusal_log.admit(peer::block(peer), Instant::now())
        {
            tracing::warn!(
                %method, route, %peer, status = status.as_u16(), omitted, "request refused"
            );
        }
        if status.is_server_error() {
            // Without the path, which may contain a phone number.
            tracing::warn!(
                request = %id, %method, route, %peer, status = status.as_u16(), "request failed"
            );
        } else {
            tracing::debug!(
                request = %id, %method, route, %peer, status = status.as_u16(), "request"
            );
        }
        response
    }

    /// Answers, and sets the label of the route.
    async fn answer(
        self,
        mut request: Request<Incoming>,
        peer: IpAddr,
        came: Instant,
        label: &mut &'static str,
    ) -> ::http::Response<ResponseBody> {
        if let Some(meant) = legacy::address(routes::all(), request.uri().path()) {
            *request.uri_mut() = with_path(request.uri(), meant);
        }
        let path = request.uri().path();
        if let Some((service, endpoint)) = Service::at(path) {
            if !self.admin.surface.has_hubs() {
                let none = NoRoute::Nothing.into_response();
                return response_body::with_reservation(none, None);
            }
            *label = hub_label(service, endpoint);
            if is_encoded(&request) {
                return response_body::with_reservation(Problem::encoded().into_response(), None);
            }
            request.extensions_mut().insert(self.answers.clone());
            // Apart, as other long steps are: a request that waits for its body would else take room for them.
            let handled = Box::pin(self.hub.handle(service, endpoint, request, peer));
            let mut response = handled.await;
            // The reservation moves to the body.
            let reserved = response.extensions_mut().remove::<Arc<Reservation>>();
            return response_body::with_reservation(response, reserved.and_then(Arc::into_inner));
        }
        let is_legacy = legacy::is_address(path);
        self.api(request, peer, came, label).await.unwrap_or_else(|problem| {
            let refused =
                if is_legacy { legacy::http::refused(&problem) } else { problem.into_response() };
            response_body::with_reservation(refused, None)
        })
    }

    async fn api(
        self,
        request: Request<Incoming>,
        peer: IpAddr,
        came: Instant,
        label: &mut &'static str,
    ) -> Result<::http::Response<ResponseBody>, Problem> {
        let encoded = is_encoded(&request);
        let (parts, body) = request.into_parts();
        let mut body = Some(body);
        // A client that sent `Expect` gets the response instead of `100 Continue`.
        let waits = parts.headers.contains_key(header::EXPECT);
        let asked = RequestMeta { peer, encoded, came };
        let answer = self.api_answer(parts, &mut body, asked, label).await;
        if let Some(body) = body.as_mut().filter(|body| !waits && !body.is_end_stream()) {
            request_body::discard(body).await;
        }
        answer
    }

    async fn api_answer(
        self,
        mut parts: Parts,
        incoming: &mut Option<Incoming>,
        asking: RequestMeta,
        label: &mut &'static str,
    ) -> Result<::http::Response<ResponseBody>, Problem> {
        let RequestMeta { peer, encoded, came } = asking;
        let path = parts.uri.path();
        // This path accepts any method.
        let method = if path == legacy::HEALTH { &Method::GET } else { &parts.method };
        let found = self.admin.surface.of(path, dispatch::route_at(method, path));
        let is_open = match &found {
            Ok((route, _)) => {
                *label = route.path;
                route.who == Who::Anyone
            }
            Err(none) => none.is_open() || path.starts_with("/health/"),
        };
        let principal = match (is_open, bearer(&parts.headers)) {
            (true, _) => Principal::Anyone { peer },
            // Without a token a client does not learn which paths exist.
            (false, None) => {
                metrics::counter!("esh3ar_refused_tokens_total", "reason" => "missing")
                    .increment(1);
                return Err(Error::Unauthenticated.into());
            }
            (false, Some(token)) => {
                let check = self.app.identity.check_token(token, peer::block(peer));
                let caller = match (Box::pin(check).await?, &found) {
                    (TokenCheck::Valid(caller), _) => caller,
                    (TokenCheck::Ended(caller), Ok((route, _)))
                        if caller.administrator().is_ok() =>
                    {
                        let (method, headers) = (&parts.method, &parts.headers);
                        let call = AdminCall { route, method, headers, peer };
                        call.refused(&self.app, &caller, RefusalReason::Ended).await;
                        return Err(Error::Unauthenticated.into());
                    }
                    _ => return Err(Error::Unauthenticated.into()),
                };
                if let Some(connection) = parts.extensions.get::<ConnectionHandle>() {
                    connection.authenticated(&caller.party());
                }
                Principal::User(caller)
            }
        };
        let (route, captured) = match found {
            Ok(found) => found,
            Err(none) => return Ok(response_body::with_reservation(none.into_response(), None)),
        };
        let call = AdminCall { route, method: &parts.method, headers: &parts.headers, peer };
        Box::pin(self.admin.admit(&self.app, &principal, &call)).await?;
        // Counts until the response, however slowly the body arrives.
        let mut in_flight = self.requests.of(&principal);
        in_flight.grow(1).map_err(|_| too_many_requests())?;
        principal.count(&self.app, route.writes.counted_first(route.who)).await?;
        let query = parts.uri.query().unwrap_or_default().to_owned();
        dispatch::check_query(route, &query)?;
        let mut reserved = self.bodies.of(&principal);
        let mut stream = None;
        let body = match (route.body, incoming.as_mut()) {
            (Body::None, _) | (_, None) => Bytes::new(),
            _ if encoded => return Err(Problem::encoded()),
            (Body::Json(limit), Some(body)) => read_json(body, limit, &mut reserved).await?,
            (Body::Stream(limit), Some(_)) => {
                stream =
                    incoming.take().map(|body| BodyStream::new(body, limit, BODY_IDLE_TIMEOUT));
                Bytes::new()
            }
        };
        let (wanted, least) = route.answer_room();
        let owner = BudgetOwner::from(&principal);
        // Public responses are small or shared, and health is answered even while others do not read.
        let answered = match route.who {
            Who::Anyone => None,
            // Small: needs no wait, because requests in flight are limited.
            _ if wanted <= RECEIPT_LEN => {
                let mut receipt = self.answers.owned_by(owner);
                receipt.set(wanted);
                Some(receipt)
            }
            _ => Some(
                self.answers
                    .reserve(owner, wanted, least, RESERVATION_TIMEOUT)
                    .await
                    .map_err(too_many_unread)?,
            ),
        };
        let context: SharedContext = Arc::new(RequestContext {
            app: self.app,
            readiness: self.readiness,
            principal,
            peer: Some(peer),
            is_legacy: route.is_legacy,
            route: format!("{} {}", parts.method, parts.uri.path()),
            query,
            headers: std::mem::take(&mut parts.headers),
            body,
            stream: Mutex::new(stream),
            came,
            reserved,
            page_room: answered.as_ref().map_or(wanted, Reservation::bytes),
        });
        let response = Box::pin(dispatch::answer(self.routes, route, captured, context)).await;
        Ok(response_body::with_reservation(response, answered))
    }
}

fn too_many_requests() -> Problem {
    let most = BudgetLimits::REQUESTS.party;
    let text = format!("too many requests in flight: at most {most} per user");
    let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", text);
    Problem { retry_after: Some(1), ..problem }
}

fn too_many_unread(full: BudgetExceeded) -> Problem {
    let retry_after = Duration::from_secs(1);
    match full {
        BudgetExceeded::Party => {
            let most = BudgetLimits::ANSWERS.party;
            let text = format!(
                "too many unread responses: at most {most} bytes per user; read them first"
            );
            let status = StatusCode::TOO_MANY_REQUESTS;
            let problem = Problem::new(status, "too_many_unread_answers", text);
            Problem { retry_after: Some(retry_after.as_secs()), ..problem }
        }
        BudgetExceeded::Everybody => Error::Overloaded { retry_after }.into(),
    }
}

struct RequestMeta {
    peer: IpAddr,
    encoded: bool,
    came: Instant,
}

async fn read_json(
    incoming: &mut Incoming,
    limit: usize,
    reserved: &mut Reservation,
) -> Result<Bytes, Problem> {
    let reading = request_body::read(incoming, limit, BODY_IDLE_TIMEOUT, reserved);
    let read = tokio::time::timeout(BODY_TIMEOUT, reading).await;
    read.unwrap_or(Err(BodyError::TimedOut)).map_err(|error| match error {
        BodyError::TooLarge { limit } => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("body too large: at most {limit} bytes"),
        ),
        BodyError::TimedOut => Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            "timed out waiting for the body",
        ),
        BodyError::Broken => Problem::bad_request("body_broken", "the body is incomplete"),
        BodyError::NoRoom(BudgetExceeded::Party) => {
            let most = BudgetLimits::BODIES.party;
            let text = format!("request bodies in flight exceed {most} bytes per user");
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", text);
            Problem { retry_after: Some(1), ..problem }
        }
        BodyError::NoRoom(BudgetExceeded::Everybody) => {
            let retry_after = Duration::from_secs(1);
            Error::Overloaded { retry_after }.into()
        }
    })
}

/// Whether the request has a compressed body.
fn is_encoded(request: &Request<Incoming>) -> bool {
    let named = request.headers().get_all(header::CONTENT_ENCODING).iter();
    // A value that is no text is no known encoding.
    let mut names = named.flat_map(|value| value.to_str().unwrap_or("unknown").split(','));
    !request.body().is_end_stream()
        && names.any(|name| !matches!(name.trim().to_ascii_lowercase().as_str(), "" | "identity"))
}

/// The client's request id if it is safe to log, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    headers
        .get("x-request-id")
        .and_then(|value| value.to_str().ok())
        .filter(|id| (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()))
        .map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

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

/// What the hubs are called in metrics.
fn hub_label(service: Service, endpoint: HubEndpoint) -> &'static str {
    match (service, endpoint) {
        (Service::Messages, HubEndpoint::Connect) => "/hub",
        (Service::Messages, HubEndpoint::Negotiate) => "/hub/negotiate",
        (Service::Diagnostics, _) => "/hub/diagnostics",
        (Service::LegacyMobile | Service::LegacyBusiness, _) => "legacy hub",
    }
}

/// Answers only metrics and health: for the metrics listener.
pub async fn machine_page(
    app: App,
    readiness: Readiness,
    render: Arc<dyn Fn() -> String + Send + Sync>,
    request: Request<Incoming>,
) -> Response {
    if let Err(problem) = host::check(&request) {
        return problem.into_response();
    }
    if request.uri().path() == "/metrics" {
        let mut response = Response::new(Bytes::from(render()).into());
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
        );
        return response;
    }
    health::machine_page(&app, &readiness, request.uri()).await
}
