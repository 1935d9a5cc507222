//! The HTTP requests of clients to a hub: negotiation, the three transports, posts and DELETE.

mod responses;
mod table;
mod transports;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use warp::reply::Response;

use self::{
    responses::{HubRejection, method_not_allowed, text},
    table::{HubConnections, Lookup, PendingConnection, TransportHandle},
};
use crate::{
    app::{App, Caller, Error},
    domain::NodeId,
    server::{
        authorization,
        budget::Budget,
        connection::ConnectionHandle,
        hub::{
            connection::{ClientIdentity, ConnectionParams, HandshakeLimiter, HandshakePermit},
            forward::{self, ForwardRequest, Forwarder},
            hubs::service::{HubEndpoint, Service},
            protocol::{
                negotiate::{self, TransportKind, TransportOffer, parameter},
                token::{self, ConnectionKey, TokenSigner},
            },
            transport::{MAX_CHUNK_LEN, PostQueue, accept_key},
        },
        peer,
        reply::Problem,
    },
};

const DRAIN_RETRY_AFTER: Duration = Duration::from_secs(5);
const FULL_RETRY_AFTER: Duration = Duration::from_secs(5);
/// How long a posted body may stall.
const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// For a whole post, including the wait for its turn.
const POST_TIMEOUT: Duration = Duration::from_secs(120);
/// In the order in which clients are to try them.
const TRANSPORTS: [TransportKind; 3] =
    [TransportKind::WebSockets, TransportKind::ServerSentEvents, TransportKind::LongPolling];

/// The hubs of this server. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    app: App,
    random: SystemRandom,
    signer: TokenSigner,
    table: HubConnections,
    handshakes: HandshakeLimiter,
    forwarder: Forwarder,
    permits: Arc<Semaphore>,
    diagnostics: bool,
    stop: CancellationToken,
    tracker: TaskTracker,
}

pub struct HubOptions {
    pub max_connections: usize,
    /// Whether the diagnostics hub exists.
    pub diagnostics: bool,
    pub node: NodeId,
    /// Signs connection tokens.
    pub secret: Vec<u8>,
}

impl Hub {
    /// Connections are closed when `stop` is cancelled; `tracker` waits for them.
    pub fn new(
        app: App,
        options: &HubOptions,
        stop: CancellationToken,
        tracker: TaskTracker,
    ) -> Hub {
        Hub {
            inner: Arc::new(Inner {
                forwarder: Forwarder::new(&app, options.node, stop.clone(), tracker.clone()),
                app,
                random: SystemRandom::new(),
                signer: TokenSigner::new(options.node, &options.secret),
                table: HubConnections::default(),
                handshakes: HandshakeLimiter::default(),
                permits: Arc::new(Semaphore::new(options.max_connections)),
                diagnostics: options.diagnostics,
                stop,
                tracker,
            }),
        }
    }

    /// The client's address of a request that another gateway forwarded.
    pub fn peer_of<B>(&self, request: &Request<B>) -> Option<IpAddr> {
        Forwarder::peer_of(&self.inner.signer, request)
    }

    pub async fn handle(
        &self,
        service: Service,
        endpoint: HubEndpoint,
        request: Request<Incoming>,
        peer: IpAddr,
    ) -> Response {
        if service == Service::Diagnostics && !self.inner.diagnostics {
            return text(StatusCode::NOT_FOUND, "");
        }
        let query = request.uri().query().unwrap_or_default();
        let token =
            authorization::bearer(request.headers()).or_else(|| parameter(query, "access_token"));
        let caller = match token {
            None => {
                metrics::counter!("esh3ar_refused_tokens_total", "reason" => "missing")
                    .increment(1);
                Err(Error::Unauthenticated)
            }
            Some(shown) => self.inner.app.identity.authenticate(shown, peer::block(peer)).await,
        };
        let caller = match caller {
            Ok(caller) if service.admits(&caller) => caller,
            Ok(_) => return text(StatusCode::FORBIDDEN, ""),
            // Empty, so that clients show the reason phrase.
            Err(Error::Unauthenticated) => return text(StatusCode::UNAUTHORIZED, ""),
            Err(error) => return Problem::from(error).into_response(),
        };
        if let Some(connection) = request.extensions().get::<ConnectionHandle>() {
            connection.authenticated(&caller.party());
        }
        // The probe of the process itself takes no part in the delivery of messages.
        let service = if caller.is_probe() { Service::Diagnostics } else { service };
        if endpoint == HubEndpoint::Connect
            && let Some((node, key)) = self.remote_owner(&request)
        {
            let passed = match accept_key(request.headers()) {
                Some(accept) if !token::is_stateful(&key) => {
                    self.connect_locally(
                        service,
                        ClientIdentity { caller, peer },
                        &key,
                        request,
                        &accept,
                    )
                    .await
                }
                socket => self.forward(node, request, socket.is_some(), peer).await,
            };
            return passed.unwrap_or_else(HubRejection::into_response);
        }
        let answered = match (endpoint, request.method()) {
            // Refused here, because clients do not show why a WebSocket was refused.
            (HubEndpoint::Negotiate, &Method::POST) => {
                match self.inner.app.limits.check_connect(&caller).await {
                    Ok(()) => self.negotiate(service, &caller, query),
                    Err(limited) => Err(HubRejection::RateLimited(limited)),
                }
            }
            (HubEndpoint::Connect, &Method::GET) => {
                self.connect(service, ClientIdentity { caller, peer }, request).await
            }
            (HubEndpoint::Connect, &Method::POST) => self.post(service, &caller, request).await,
            (HubEndpoint::Connect, &Method::DELETE) => self.delete(service, &caller, query),
            (HubEndpoint::Negotiate, _) => Ok(method_not_allowed("POST")),
            (HubEndpoint::Connect, _) => Ok(method_not_allowed("GET, POST, DELETE")),
        };
        answered.unwrap_or_else(HubRejection::into_response)
    }

    /// Clients with automatic reconnect try again; by then the load balancer uses another gateway.
    fn refuse_while_draining(&self) -> Result<(), HubRejection> {
        if self.inner.app.process.is_draining() {
            Err(HubRejection::Unavailable(DRAIN_RETRY_AFTER))
        } else {
            Ok(())
        }
    }

    fn random(&self) -> Result<[u8; 16], HubRejection> {
        let mut bytes = [0; 16];
        self.inner.random.fill(&mut bytes).map_err(|_| HubRejection::NoRandomness)?;
        Ok(bytes)
    }

    fn negotiate(
        &self,
        service: Service,
        caller: &Caller,
        query: &str,
    ) -> Result<Response, HubRejection> {
        self.refuse_while_draining()?;
        self.inner.table.clean_up(Instant::now());
        let handshake_permit = self.begin_handshake(caller)?;
        let key =
            token::with_stateful_bit(self.random()?, negotiate::wants_stateful_reconnect(query));
        let id = self.inner.signer.connection_id(&key);
        let offer = TransportOffer { transports: &TRANSPORTS, stateful: true };
        let answer = negotiate::negotiate(query, id, self.inner.signer.sign(&key), offer);
        if let Some(granted) = answer.connection {
            let pending = PendingConnection {
                party: caller.party(),
                service,
                connection_id: granted.connection_id,
                stateful: granted.stateful,
                handshake_permit,
            };
            if !self.inner.table.negotiate(key, pending, Instant::now()) {
                return Err(HubRejection::Unavailable(FULL_RETRY_AFTER));
            }
        }
        let length = answer.body.len();
        let mut response = Response::new(Bytes::from(answer.body).into());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        Ok(response)
    }

    /// The connection that a request names by its token.
    fn find(
        &self,
        service: Service,
        caller: &Caller,
        query: &str,
    ) -> Result<(ConnectionKey, Lookup), HubRejection> {
        let token = parameter(query, "id").filter(|id| !id.is_empty());
        let (node, key) = self
            .inner
            .signer
            .read(token.ok_or(HubRejection::MissingId)?)
            .ok_or(HubRejection::UnknownId)?;
        if !self.inner.signer.is_ours(&node) {
            return Err(HubRejection::UnknownId);
        }
        let table = &self.inner.table;
        // A token negotiated by another party is unknown to this caller.
        let found = table.find(&key, &caller.party(), service, Instant::now());
        Ok((key, found.ok_or(HubRejection::UnknownId)?))
    }

    /// The owner of the connection that a request names, if it is another gateway.
    fn remote_owner(&self, request: &Request<Incoming>) -> Option<(NodeId, ConnectionKey)> {
        let token = parameter(request.uri().query()?, "id")?;
        let (node, key) = self.inner.signer.read(token)?;
        // A request is forwarded once at most.
        let ours = self.inner.signer.is_ours(&node) || forward::was_forwarded(request.headers());
        (!ours).then_some((node, key))
    }

    /// A WebSocket without stateful reconnect needs nothing of the gateway that negotiated it: it is served here,
    /// like one without negotiation, which saves a tunnel.
    async fn connect_locally(
        &self,
        service: Service,
        client: ClientIdentity,
        key: &ConnectionKey,
        mut request: Request<Incoming>,
        accept: &str,
    ) -> Result<Response, HubRejection> {
        self.refuse_while_draining()?;
        self.count_connect(&client.caller).await?;
        let connection_id = negotiate::id(self.inner.signer.connection_id(key));
        let handshake_permit = self.begin_handshake(&client.caller)?;
        let params =
            ConnectionParams { service, client, connection_id, reconnects: None, handshake_permit };
        self.upgrade(&mut request, accept, params, None)
    }

    async fn forward(
        &self,
        node: NodeId,
        request: Request<Incoming>,
        socket: bool,
        peer: IpAddr,
    ) -> Result<Response, HubRejection> {
        let (method, headers) = (request.method(), request.headers());
        if ![Method::GET, Method::POST, Method::DELETE].contains(method) {
            return Ok(method_not_allowed("GET, POST, DELETE"));
        }
        let address = self.inner.app.process.find_address(node).await;
        let owner =
            address.and_then(|address| address.parse().ok()).ok_or(HubRejection::UnknownId)?;
        let stays = socket || *method == Method::GET && wants_events(headers);
        let permit = if stays { Some(self.acquire_permit()?) } else { None };
        let target = ForwardRequest { owner, permit, socket, peer };
        Ok(self.inner.forwarder.forward(&self.inner.signer, target, request).await?)
    }

    async fn connect(
        &self,
        service: Service,
        client: ClientIdentity,
        mut request: Request<Incoming>,
    ) -> Result<Response, HubRejection> {
        let query = request.uri().query().unwrap_or_default();
        let accept = accept_key(request.headers());
        let named = parameter(query, "id").is_some_and(|id| !id.is_empty());
        if let (Some(accept), false) = (&accept, named) {
            // Only WebSockets need no negotiation.
            self.refuse_while_draining()?;
            self.count_connect(&client.caller).await?;
            let connection_id = negotiate::id(self.random()?);
            let handshake_permit = self.begin_handshake(&client.caller)?;
            let params = ConnectionParams {
                service,
                client,
                connection_id,
                reconnects: None,
                handshake_permit,
            };
            return self.upgrade(&mut request, accept, params, None);
        }
        let (key, found) = self.find(service, &client.caller, query)?;
        let begins = match &found {
            Lookup::Negotiated => true,
            Lookup::Attached(handle) => {
                matches!(handle, TransportHandle::ResumableWebSocket(_)) && accept.is_some()
            }
        };
        if begins {
            self.count_connect(&client.caller).await?;
        }
        let wants_events = wants_events(request.headers());
        match (found, accept) {
            (Lookup::Negotiated, Some(accept)) => {
                self.attach_websocket(key, client, &mut request, &accept)
            }
            (Lookup::Negotiated, None) if wants_events => self.attach_event_stream(key, client),
            (Lookup::Negotiated, None) => self.attach_long_polling(key, client),
            // The handshake chose a version without stateful reconnect.
            (Lookup::Attached(TransportHandle::ResumableWebSocket(reconnects)), Some(_))
                if reconnects.is_closed() =>
            {
                Err(HubRejection::Conflict)
            }
            (Lookup::Attached(TransportHandle::ResumableWebSocket(reconnects)), Some(accept)) => {
                self.reconnect_websocket(reconnects, client, &mut request, &accept)
            }
            (Lookup::Attached(TransportHandle::WebSocket), Some(_)) => Err(HubRejection::Conflict),
            (Lookup::Attached(TransportHandle::ServerSentEvents(_)), None) if wants_events => {
                Err(HubRejection::Conflict)
            }
            (Lookup::Attached(TransportHandle::LongPolling(_, buffer)), None) if !wants_events => {
                let answers = request.extensions().get::<Budget>().cloned();
                transports::poll(&buffer, &client.caller, answers).await
            }
            (Lookup::Attached(_), _) => {
                Err(HubRejection::BadRequest("Cannot change transports mid-connection"))
            }
        }
    }

    /// Counts a connection, or a reconnect, against the rate limit.
    async fn count_connect(&self, caller: &Caller) -> Result<(), HubRejection> {
        self.inner.app.limits.count_connect(caller).await.map_err(HubRejection::RateLimited)
    }

    fn begin_handshake(&self, caller: &Caller) -> Result<HandshakePermit, HubRejection> {
        self.inner
            .handshakes
            .begin(caller.party())
            .ok_or(HubRejection::Unavailable(FULL_RETRY_AFTER))
    }

    fn acquire_permit(&self) -> Result<OwnedSemaphorePermit, HubRejection> {
        Arc::clone(&self.inner.permits)
            .try_acquire_owned()
            .map_err(|_| HubRejection::Unavailable(FULL_RETRY_AFTER))
    }

    /// Input of a client whose transport carries only output.
    async fn post(
        &self,
        service: Service,
        caller: &Caller,
        request: Request<Incoming>,
    ) -> Result<Response, HubRejection> {
        let query = request.uri().query().unwrap_or_default();
        let posts = match self.find(service, caller, query)?.1 {
            Lookup::Attached(
                TransportHandle::ServerSentEvents(posts) | TransportHandle::LongPolling(posts, _),
            ) => posts,
            Lookup::Attached(
                TransportHandle::WebSocket | TransportHandle::ResumableWebSocket(_),
            ) => return Err(HubRejection::PostNotAllowed),
            Lookup::Negotiated => return Err(HubRejection::UnknownId),
        };
        let queued = posts.queue().ok_or(HubRejection::TooManyPosts)?;
        let taken =
            tokio::time::timeout(POST_TIMEOUT, enqueue_body(&posts, request.into_body())).await;
        drop(queued);
        taken.unwrap_or_else(|_| Ok(text(StatusCode::REQUEST_TIMEOUT, "")))
    }

    fn delete(
        &self,
        service: Service,
        caller: &Caller,
        query: &str,
    ) -> Result<Response, HubRejection> {
        let (key, Lookup::Attached(TransportHandle::LongPolling(_, buffer))) =
            self.find(service, caller, query)?
        else {
            let what = "Cannot terminate this connection using the DELETE endpoint.";
            return Err(HubRejection::BadRequest(what));
        };
        self.inner.table.remove(&key);
        buffer.end();
        Ok(text(StatusCode::ACCEPTED, ""))
    }
}

/// Passes a posted body on to its connection, after the posts before it.
async fn enqueue_body(posts: &PostQueue, mut body: Incoming) -> Result<Response, HubRejection> {
    let mut turn = posts.turn().await.ok_or(HubRejection::UnknownId)?;
    loop {
        let frame = match tokio::time::timeout(BODY_IDLE_TIMEOUT, body.frame()).await {
            Ok(None) => return Ok(text(StatusCode::OK, "")),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => return Err(HubRejection::BadRequest("")),
            Err(_) => return Ok(text(StatusCode::REQUEST_TIMEOUT, "")),
        };
        let Ok(mut data) = frame.into_data() else { continue };
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(MAX_CHUNK_LEN));
            if !turn.put(chunk).await {
                return Err(HubRejection::UnknownId);
            }
        }
    }
}

fn wants_events(headers: &HeaderMap) -> bool {
    let wanted =
        |value: &HeaderValue| value.to_str().is_ok_and(|value| value.contains("text/event-stream"));
    headers.get_all(header::ACCEPT).iter().any(wanted)
}
