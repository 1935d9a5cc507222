//! The requests of clients: negotiation, the three transports, posts and the goodbye.

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

use super::{
    answers::{Refused, not_allowed, preflight, text},
    connection::{Beginning, Client},
    forward::{self, Forward, Passage},
    negotiate::{self, Offer, Transport, parameter},
    newcomers::{Newcomer, Newcomers},
    services::{Asked, Service},
    table::{Found, Key, Link, Negotiated, Table},
    token::{self, Signer},
    wire::{Inbox, PIECE, accept_key},
};
use crate::{
    app::{App, Caller, Error},
    domain::NodeId,
    server::{authorization, budget::Budget, connection::ConnectionHandle, peer, reply::Problem},
};

/// When a client that came while the process is emptied should come again.
const DRAINED: Duration = Duration::from_secs(5);
/// When a client for whom there was no place should come again.
const FULL: Duration = Duration::from_secs(5);
/// How long a posted body may pause.
const BODY_IDLE: Duration = Duration::from_secs(15);
/// How long a post may take in all, the wait for its turn included.
const POST_TIMEOUT: Duration = Duration::from_secs(120);
/// The transports in the order in which clients are to try them.
const TRANSPORTS: [Transport; 3] =
    [Transport::WebSockets, Transport::ServerSentEvents, Transport::LongPolling];

/// The hubs of this server. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    app: App,
    random: SystemRandom,
    signer: Signer,
    table: Table,
    newcomers: Newcomers,
    forward: Forward,
    places: Arc<Semaphore>,
    diagnostics: bool,
    stop: CancellationToken,
    tracker: TaskTracker,
}

/// What hubs need besides the use cases.
pub struct HubOptions {
    /// Connections at once.
    pub most: usize,
    /// Whether the diagnostics hub is there.
    pub diagnostics: bool,
    /// The name of this process among those of a cluster.
    pub node: NodeId,
    /// What connection tokens are signed with.
    pub secret: Vec<u8>,
}

impl Hub {
    /// Hubs whose connections are closed when `stop` is cancelled; `tracker` waits for them.
    pub fn new(
        app: App,
        options: &HubOptions,
        stop: CancellationToken,
        tracker: TaskTracker,
    ) -> Hub {
        Hub {
            inner: Arc::new(Inner {
                forward: Forward::new(&app, options.node, stop.clone(), tracker.clone()),
                app,
                random: SystemRandom::new(),
                signer: Signer::new(options.node, &options.secret),
                table: Table::default(),
                newcomers: Newcomers::default(),
                places: Arc::new(Semaphore::new(options.most)),
                diagnostics: options.diagnostics,
                stop,
                tracker,
            }),
        }
    }

    /// Where a request comes from that another gateway passed on.
    pub fn peer_of<B>(&self, request: &Request<B>) -> Option<IpAddr> {
        Forward::peer_of(&self.inner.signer, request)
    }

    /// Answers a request to a hub that comes from this address.
    pub async fn handle(
        &self,
        service: Service,
        asked: Asked,
        request: Request<Incoming>,
        peer: IpAddr,
    ) -> Response {
        let origin = request.headers().get(header::ORIGIN).cloned();
        let mut response = self.answer(service, asked, request, peer).await;
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

    async fn answer(
        &self,
        service: Service,
        asked: Asked,
        request: Request<Incoming>,
        peer: IpAddr,
    ) -> Response {
        if service == Service::Diagnostics && !self.inner.diagnostics {
            return text(StatusCode::NOT_FOUND, "");
        }
        if request.method() == Method::OPTIONS {
            return preflight(request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS));
        }
        let query = request.uri().query().unwrap_or_default();
        let token =
            authorization::bearer(request.headers()).or_else(|| parameter(query, "access_token"));
        let caller = match token {
            None => Err(Error::Unauthenticated),
            Some(shown) => self.inner.app.authenticate(shown, peer::block(peer)).await,
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
        // The process's own look at the hub takes no part in the delivery of messages.
        let service = if caller.is_probe() { Service::Diagnostics } else { service };
        if asked == Asked::Connect
            && let Some((node, key)) = self.elsewhere(&request)
        {
            let passed = match accept_key(request.headers()) {
                Some(accept) if !token::returns(&key) => {
                    self.adopt(service, Client { caller, peer }, &key, request, &accept).await
                }
                socket => self.forward(node, request, socket.is_some(), peer).await,
            };
            return passed.unwrap_or_else(Refused::into_response);
        }
        let answered = match (asked, request.method()) {
            // Refused here, because clients do not show why a socket was refused.
            (Asked::Negotiate, &Method::POST) => {
                match self.inner.app.check_connect(&caller).await {
                    Ok(()) => self.negotiate(service, &caller, query),
                    Err(limited) => Err(Refused::Limited(limited)),
                }
            }
            (Asked::Connect, &Method::GET) => {
                self.connect(service, Client { caller, peer }, request).await
            }
            (Asked::Connect, &Method::POST) => self.post(service, &caller, request).await,
            (Asked::Connect, &Method::DELETE) => self.delete(service, &caller, query),
            (Asked::Negotiate, _) => Ok(not_allowed("POST, OPTIONS")),
            (Asked::Connect, _) => Ok(not_allowed("GET, POST, DELETE, OPTIONS")),
        };
        answered.unwrap_or_else(Refused::into_response)
    }

    /// Clients that reconnect by themselves try again, and a load balancer has moved on by then.
    fn refuse_while_draining(&self) -> Result<(), Refused> {
        if self.inner.app.is_draining() { Err(Refused::ComeBack(DRAINED)) } else { Ok(()) }
    }

    fn random(&self) -> Result<[u8; 16], Refused> {
        let mut bytes = [0; 16];
        self.inner.random.fill(&mut bytes).map_err(|_| Refused::NoRandomness)?;
        Ok(bytes)
    }

    fn negotiate(
        &self,
        service: Service,
        caller: &Caller,
        query: &str,
    ) -> Result<Response, Refused> {
        self.refuse_while_draining()?;
        self.inner.table.tidy(Instant::now());
        let newcomer = self.enter(caller)?;
        let key = token::mark(self.random()?, negotiate::asks_to_return(query));
        let id = self.inner.signer.name(&key);
        let offer = Offer { transports: &TRANSPORTS, stateful: true };
        let answer = negotiate::negotiate(query, id, self.inner.signer.sign(&key), offer);
        if let Some(granted) = answer.granted {
            let negotiated = Negotiated {
                party: caller.party(),
                service,
                connection_id: granted.connection_id,
                stateful: granted.stateful,
                newcomer,
            };
            if !self.inner.table.negotiate(key, negotiated, Instant::now()) {
                return Err(Refused::ComeBack(FULL));
            }
        }
        let length = answer.body.len();
        let mut response = Response::new(Bytes::from(answer.body).into());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        Ok(response)
    }

    /// The connection that a request names.
    fn find(
        &self,
        service: Service,
        caller: &Caller,
        query: &str,
    ) -> Result<(Key, Found), Refused> {
        let token = parameter(query, "id").filter(|id| !id.is_empty());
        let (node, key) =
            self.inner.signer.read(token.ok_or(Refused::NoId)?).ok_or(Refused::UnknownId)?;
        if !self.inner.signer.is_ours(&node) {
            return Err(Refused::UnknownId);
        }
        let table = &self.inner.table;
        // A token that somebody else negotiated is no token of this caller's.
        let found = table.find(&key, &caller.party(), service, Instant::now());
        Ok((key, found.ok_or(Refused::UnknownId)?))
    }

    /// The connection that a request names, if it is another gateway's.
    fn elsewhere(&self, request: &Request<Incoming>) -> Option<(NodeId, Key)> {
        let token = parameter(request.uri().query()?, "id")?;
        let (node, key) = self.inner.signer.read(token)?;
        // What came from another gateway is for us, or for nobody.
        let ours = self.inner.signer.is_ours(&node) || forward::was_forwarded(request.headers());
        (!ours).then_some((node, key))
    }

    /// A socket that ends with its connection needs nothing of the gateway that negotiated it, and is as
    /// one that came without negotiation. It is at home here, which spares both of us a tunnel.
    async fn adopt(
        &self,
        service: Service,
        client: Client,
        key: &Key,
        mut request: Request<Incoming>,
        accept: &str,
    ) -> Result<Response, Refused> {
        self.refuse_while_draining()?;
        self.count(&client.caller).await?;
        let connection_id = negotiate::id(self.inner.signer.name(key));
        let newcomer = self.enter(&client.caller)?;
        let beginning = Beginning { service, client, connection_id, returns: None, newcomer };
        self.upgrade(&mut request, accept, beginning, None)
    }

    async fn forward(
        &self,
        node: NodeId,
        request: Request<Incoming>,
        socket: bool,
        peer: IpAddr,
    ) -> Result<Response, Refused> {
        let (method, headers) = (request.method(), request.headers());
        if ![Method::GET, Method::POST, Method::DELETE].contains(method) {
            return Ok(not_allowed("GET, POST, DELETE, OPTIONS"));
        }
        let address = self.inner.app.find_address(node).await;
        let owner = address.and_then(|address| address.parse().ok()).ok_or(Refused::UnknownId)?;
        let stays = socket || *method == Method::GET && wants_events(headers);
        let seat = if stays { Some(self.seat()?) } else { None };
        let passage = Passage { owner, seat, socket, peer };
        self.inner.forward.pass(&self.inner.signer, passage, request).await
    }

    async fn connect(
        &self,
        service: Service,
        client: Client,
        mut request: Request<Incoming>,
    ) -> Result<Response, Refused> {
        let query = request.uri().query().unwrap_or_default();
        let accept = accept_key(request.headers());
        let named = parameter(query, "id").is_some_and(|id| !id.is_empty());
        if let (Some(accept), false) = (&accept, named) {
            // Without negotiation: only WebSockets need none.
            self.refuse_while_draining()?;
            self.count(&client.caller).await?;
            let connection_id = negotiate::id(self.random()?);
            let newcomer = self.enter(&client.caller)?;
            let beginning = Beginning { service, client, connection_id, returns: None, newcomer };
            return self.upgrade(&mut request, accept, beginning, None);
        }
        let (key, found) = self.find(service, &client.caller, query)?;
        let begins = match &found {
            Found::Waiting => true,
            Found::Living(link) => matches!(link, Link::Returning(_)) && accept.is_some(),
        };
        if begins {
            self.count(&client.caller).await?;
        }
        let wants_events = wants_events(request.headers());
        match (found, accept) {
            (Found::Waiting, Some(accept)) => self.first_socket(key, client, &mut request, &accept),
            (Found::Waiting, None) if wants_events => self.first_events(key, client),
            (Found::Waiting, None) => self.first_poll(key, client),
            // The handshake asked for a version that has no return.
            (Found::Living(Link::Returning(returns)), Some(_)) if returns.is_closed() => {
                Err(Refused::Taken)
            }
            (Found::Living(Link::Returning(returns)), Some(accept)) => {
                self.another_socket(returns, client, &mut request, &accept)
            }
            (Found::Living(Link::Socket), Some(_)) => Err(Refused::Taken),
            (Found::Living(Link::Events(_)), None) if wants_events => Err(Refused::Taken),
            (Found::Living(Link::Polls(_, mailbox)), None) if !wants_events => {
                let answers = request.extensions().get::<Budget>().cloned();
                transports::poll(&mailbox, &client.caller, answers).await
            }
            (Found::Living(_), _) => {
                Err(Refused::BadRequest("Cannot change transports mid-connection"))
            }
        }
    }

    /// Counts a connection that gets a transport, the first or another.
    async fn count(&self, caller: &Caller) -> Result<(), Refused> {
        self.inner.app.count_connect(caller).await.map_err(Refused::Limited)
    }

    fn enter(&self, caller: &Caller) -> Result<Newcomer, Refused> {
        self.inner.newcomers.enter(caller.party()).ok_or(Refused::ComeBack(FULL))
    }

    fn seat(&self) -> Result<OwnedSemaphorePermit, Refused> {
        Arc::clone(&self.inner.places).try_acquire_owned().map_err(|_| Refused::ComeBack(FULL))
    }

    /// What the client says, where its transport carries only what the server says.
    async fn post(
        &self,
        service: Service,
        caller: &Caller,
        request: Request<Incoming>,
    ) -> Result<Response, Refused> {
        let query = request.uri().query().unwrap_or_default();
        let inbox = match self.find(service, caller, query)?.1 {
            Found::Living(Link::Events(inbox) | Link::Polls(inbox, _)) => inbox,
            Found::Living(Link::Socket | Link::Returning(_)) => return Err(Refused::NoPosts),
            Found::Waiting => return Err(Refused::UnknownId),
        };
        let queued = inbox.queue().ok_or(Refused::TooManyPosts)?;
        let taken = tokio::time::timeout(POST_TIMEOUT, take(&inbox, request.into_body())).await;
        drop(queued);
        taken.unwrap_or_else(|_| Ok(text(StatusCode::REQUEST_TIMEOUT, "")))
    }

    fn delete(&self, service: Service, caller: &Caller, query: &str) -> Result<Response, Refused> {
        let (key, Found::Living(Link::Polls(_, mailbox))) = self.find(service, caller, query)?
        else {
            let what = "Cannot terminate this connection using the DELETE endpoint.";
            return Err(Refused::BadRequest(what));
        };
        self.inner.table.forget(&key);
        mailbox.end();
        Ok(text(StatusCode::ACCEPTED, ""))
    }
}

/// Passes a posted body on to its connection: one post after the other, each whole.
async fn take(inbox: &Inbox, mut body: Incoming) -> Result<Response, Refused> {
    let mut turn = inbox.turn().await.ok_or(Refused::UnknownId)?;
    loop {
        let frame = match tokio::time::timeout(BODY_IDLE, body.frame()).await {
            Ok(None) => return Ok(text(StatusCode::OK, "")),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => return Err(Refused::BadRequest("")),
            Err(_) => return Ok(text(StatusCode::REQUEST_TIMEOUT, "")),
        };
        let Ok(mut data) = frame.into_data() else { continue };
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(PIECE));
            if !turn.put(piece).await {
                return Err(Refused::UnknownId);
            }
        }
    }
}

fn wants_events(headers: &HeaderMap) -> bool {
    let wanted =
        |value: &HeaderValue| value.to_str().is_ok_and(|value| value.contains("text/event-stream"));
    headers.get_all(header::ACCEPT).iter().any(wanted)
}
