//! The requests that make a connection: negotiation and the upgrade to a WebSocket.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use warp::reply::Response;

use super::{
    negotiate::{self, Offer, Transport},
    socket,
};
use crate::{
    app::{App, Caller, Error},
    domain::Party,
    server::{gate, reply::Problem},
};

/// How long a negotiated connection waits for its transport (reference: the official server's
/// disconnect timeout).
/// When a client that came while the process is emptied should come again.
const DRAINED: Duration = Duration::from_secs(5);
const ATTACH_TIMEOUT: Duration = Duration::from_secs(15);
/// Negotiated connections that may wait at once; past that negotiation is refused.
const NEGOTIATED: usize = 50_000;

/// The hub at `/hub`. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    app: App,
    random: SystemRandom,
    negotiated: Mutex<HashMap<String, Negotiated>>,
    places: Arc<Semaphore>,
    stop: CancellationToken,
    tracker: TaskTracker,
}

/// A connection that has been negotiated and has no transport yet.
struct Negotiated {
    party: Party,
    until: Instant,
}

impl Hub {
    /// A hub for this many sockets at once. They are closed when `stop` is cancelled, and `tracker`
    /// waits for them.
    pub fn new(app: App, most: usize, stop: CancellationToken, tracker: TaskTracker) -> Hub {
        Hub {
            inner: Arc::new(Inner {
                app,
                random: SystemRandom::new(),
                negotiated: Mutex::default(),
                places: Arc::new(Semaphore::new(most)),
                stop,
                tracker,
            }),
        }
    }

    /// Answers a request on `/hub` or below.
    pub async fn handle(&self, request: Request<Incoming>) -> Response {
        let origin = request.headers().get(header::ORIGIN).cloned();
        let mut response = self.answer(request).await;
        // Browsers send credentials by default, for which the answer must name the origin. It may
        // be any: there are no cookies here, only tokens that a page must have been given.
        if let Some(origin) = origin {
            let headers = response.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers
                .insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        response
    }

    async fn answer(&self, request: Request<Incoming>) -> Response {
        if request.method() == Method::OPTIONS {
            return preflight();
        }
        let query = request.uri().query().unwrap_or_default();
        let token = gate::bearer(request.headers()).or_else(|| parameter(query, "access_token"));
        let caller = match token {
            None => Err(Error::Unauthenticated),
            Some(token) => self.inner.app.authenticate(token).await,
        };
        let caller = match caller {
            Ok(caller) => caller,
            // Empty, so that clients show the reason phrase.
            Err(Error::Unauthenticated) => return text(StatusCode::UNAUTHORIZED, ""),
            Err(error) => return Problem::from(error).into_response(),
        };
        if self.inner.app.is_draining() {
            // Clients that reconnect by themselves try again, and a load balancer has moved on by then.
            return Problem::from(Error::Overloaded { retry_after: DRAINED }).into_response();
        }
        match (request.uri().path(), request.method()) {
            ("/hub/negotiate", &Method::POST) => self.negotiate(&caller, query),
            ("/hub", &Method::GET) => self.connect(caller, request),
            ("/hub", &Method::POST | &Method::DELETE) => self.on_no_such_transport(query),
            ("/hub" | "/hub/negotiate", _) => text(StatusCode::METHOD_NOT_ALLOWED, ""),
            _ => text(StatusCode::NOT_FOUND, ""),
        }
    }

    fn negotiate(&self, caller: &Caller, query: &str) -> Response {
        let (mut id, mut token) = ([0; 16], [0; 16]);
        if self
            .inner
            .random
            .fill(&mut id)
            .and_then(|()| self.inner.random.fill(&mut token))
            .is_err()
        {
            return Problem::from(Error::Internal).into_response();
        }
        let offer = Offer { transports: &[Transport::WebSockets], stateful: false };
        let answer = negotiate::negotiate(query, id, token, offer);
        if let Some(granted) = &answer.granted {
            let now = Instant::now();
            let mut negotiated = self.negotiated();
            if negotiated.len() >= NEGOTIATED {
                negotiated.retain(|_, waiting| waiting.until > now);
            }
            if negotiated.len() >= NEGOTIATED {
                let retry_after = Duration::from_secs(1);
                return Problem::from(Error::Overloaded { retry_after }).into_response();
            }
            let waiting = Negotiated { party: caller.party(), until: now + ATTACH_TIMEOUT };
            negotiated.insert(granted.token.expose().to_owned(), waiting);
        }
        let length = answer.body.len();
        let mut response = Response::new(bytes::Bytes::from(answer.body).into());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        response
    }

    fn connect(&self, caller: Caller, mut request: Request<Incoming>) -> Response {
        let Some(accept) = websocket_accept(request.headers()) else {
            return self.on_no_such_transport(request.uri().query().unwrap_or_default());
        };
        if let Some(id) = parameter(request.uri().query().unwrap_or_default(), "id") {
            let waiting = self.negotiated().remove(id);
            // A token that somebody else negotiated is no token of this caller's.
            let fits = waiting.is_some_and(|waiting| {
                waiting.until > Instant::now() && waiting.party == caller.party()
            });
            if !fits {
                return text(StatusCode::NOT_FOUND, "No Connection with that ID");
            }
        }
        let Ok(place) = Arc::clone(&self.inner.places).try_acquire_owned() else {
            let retry_after = Duration::from_secs(5);
            return Problem::from(Error::Overloaded { retry_after }).into_response();
        };
        let upgrade = hyper::upgrade::on(&mut request);
        let app = self.inner.app.clone();
        let stop = self.inner.stop.clone();
        self.inner.tracker.spawn(async move {
            match upgrade.await {
                Ok(upgraded) => socket::drive(upgraded, app, caller, stop).await,
                Err(error) => tracing::debug!(%error, "an upgrade was not completed"),
            }
            drop(place);
        });
        let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_TYPE);
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        if let Ok(accept) = HeaderValue::from_str(&accept) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        response
    }

    /// Server-Sent Events and long polling are not offered, and their requests answered as the
    /// official server answers those of a transport that a hub does not have.
    fn on_no_such_transport(&self, query: &str) -> Response {
        match parameter(query, "id") {
            None => text(StatusCode::BAD_REQUEST, "Connection ID required"),
            Some(id) if !self.negotiated().contains_key(id) => {
                text(StatusCode::NOT_FOUND, "No Connection with that ID")
            }
            Some(_) => text(
                StatusCode::NOT_FOUND,
                "LongPolling transport not supported by this end point type",
            ),
        }
    }

    fn negotiated(&self) -> MutexGuard<'_, HashMap<String, Negotiated>> {
        self.inner.negotiated.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The value of `Sec-WebSocket-Accept` if this is a request for a WebSocket (RFC 6455, 4.2.1).
fn websocket_accept(headers: &HeaderMap) -> Option<String> {
    let has = |name: header::HeaderName, wanted: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(wanted))
    };
    let wanted = has(header::UPGRADE, "websocket")
        && has(header::CONNECTION, "upgrade")
        && has(header::SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    wanted.then(|| derive_accept_key(key.as_bytes()))
}

fn preflight() -> Response {
    let mut response = text(StatusCode::NO_CONTENT, "");
    let headers = response.headers_mut();
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, POST, DELETE"),
    );
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static(
            "authorization, content-type, x-requested-with, x-signalr-user-agent",
        ),
    );
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("3600"));
    response
}

fn text(status: StatusCode, body: &'static str) -> Response {
    let mut response = Response::new(bytes::Bytes::from_static(body.as_bytes()).into());
    *response.status_mut() = status;
    if !body.is_empty() {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    response
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find_map(|(key, value)| (key == name && !value.is_empty()).then_some(value))
}
