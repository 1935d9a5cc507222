//! Forwards requests to the gateway that owns their connection, and its answer back. So any gateway takes any
//! request, and a load balancer needs no affinity.
//!
//! Posts and polls use pooled HTTP/1.1 connections, event streams are passed on chunk by chunk, and a WebSocket
//! with stateful reconnect becomes a tunnel (others are served where they arrive). The owner authenticates the
//! client itself; this gateway has done so before, so that a stranger costs the owner nothing.

mod connector;
mod streams;
mod tunnel;

use std::{net::IpAddr, time::Duration};

use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use http_body_util::BodyDataStream;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use warp::{Reply as _, reply::Response};

use self::{
    connector::GatewayConnector,
    streams::{ForwardedStream, ForwardedStreams},
};
use crate::{
    app::App,
    domain::NodeId,
    server::hub::{protocol::token::TokenSigner, transport::POLL_TIMEOUT},
};

/// Names the gateway that forwarded a request; a request with this header is not forwarded again.
const FORWARDED_BY: HeaderName = HeaderName::from_static("x-esh3ar-forwarded-by");
/// The client's address, signed by the gateway that forwarded the request.
const PEER: HeaderName = HeaderName::from_static("x-esh3ar-peer");
/// The owner may hold a poll for as long as its own timeout.
const RESPONSE_TIMEOUT: Duration = POLL_TIMEOUT.saturating_add(Duration::from_secs(20));
/// Shorter than the owner's `http.header_timeout`: otherwise the owner closes a connection just when a request
/// is on its way.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_IDLE_PER_GATEWAY: usize = 64;

/// Headers between two hops (RFC 9110, 7.6.1), and the origin, for which the answer is completed here.
const HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::EXPECT,
    header::ORIGIN,
    PEER,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

pub struct Forwarder {
    client: Client<GatewayConnector, Incoming>,
    name: HeaderValue,
    streams: ForwardedStreams,
    tracker: TaskTracker,
}

/// The target of a request for another gateway's connection.
pub struct ForwardRequest {
    /// The owner's address.
    pub owner: Uri,
    /// For a WebSocket or an event stream.
    pub permit: Option<OwnedSemaphorePermit>,
    /// Whether it asks for a WebSocket.
    pub socket: bool,
    /// The client's address.
    pub peer: IpAddr,
}

/// Failures other than the owner's own answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardError {
    /// The client has to negotiate again.
    Unreachable,
    /// This process drains or stops, and the request would delay it.
    Stopping,
}

pub fn was_forwarded(headers: &HeaderMap) -> bool {
    headers.contains_key(FORWARDED_BY)
}

impl Forwarder {
    /// Streams are closed when `stop` is cancelled, or when the process drains.
    pub fn new(
        app: &App,
        node: NodeId,
        stop: CancellationToken,
        tracker: TaskTracker,
    ) -> Forwarder {
        let name = node.to_string();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE_PER_GATEWAY)
            .http1_max_buf_size(16 * 1024)
            .build(GatewayConnector::new());
        let streams = ForwardedStreams::default();
        tracker.spawn(streams.clone().close_in_waves(app.clone(), stop));
        Forwarder {
            client,
            name: HeaderValue::from_str(&name).unwrap_or_else(|_| HeaderValue::from_static("-")),
            streams,
            tracker,
        }
    }

    /// Forwards a request. Returns the owner's answer, whatever it is.
    pub async fn forward(
        &self,
        signer: &TokenSigner,
        forward: ForwardRequest,
        mut request: Request<Incoming>,
    ) -> Result<Response, ForwardError> {
        let ForwardRequest { owner, permit, socket, peer } = forward;
        let upgrade = socket.then(|| hyper::upgrade::on(&mut request));
        // A post is short and may finish; a held request would delay the stop.
        let stays = request.method() == Method::GET;
        let stream = self.streams.register();
        let mut request = self.address(&owner, request, socket).ok_or(ForwardError::Unreachable)?;
        if let Ok(named) = signer.sign_peer(peer, target(&request)).parse() {
            request.headers_mut().insert(PEER, named);
        }
        let answered = tokio::time::timeout(RESPONSE_TIMEOUT, self.client.request(request));
        let answered = tokio::select! {
            biased;
            answered = answered => answered,
            () = stream.cancelled(), if stays => return Err(ForwardError::Stopping),
        };
        let mut response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                // Only the address: the path may hold a token.
                tracing::debug!(%owner, %error, "cannot reach the gateway that owns a connection");
                return Err(self.unreachable());
            }
            Err(_) => {
                tracing::debug!(%owner, "the gateway that owns a connection timed out");
                return Err(self.unreachable());
            }
        };
        metrics::counter!("esh3ar_hub_forwarded_total", "result" => "passed").increment(1);
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(client_side) = upgrade else { return Err(ForwardError::Unreachable) };
            let owner_side = hyper::upgrade::on(&mut response);
            self.tracker.spawn(async move {
                tunnel::join(client_side, owner_side, &stream).await;
                drop((stream, permit));
            });
            let (parts, _) = response.into_parts();
            let mut answer = Response::new(bytes::Bytes::new().into());
            *answer.status_mut() = parts.status;
            *answer.headers_mut() = parts.headers;
            return Ok(answer);
        }
        Ok(stream_back(response, stream, permit))
    }

    /// The client's address of a request that another gateway forwarded.
    pub fn peer_of<B>(signer: &TokenSigner, request: &Request<B>) -> Option<IpAddr> {
        signer.read_peer(request.headers().get(PEER)?.to_str().ok()?, target(request))
    }

    fn unreachable(&self) -> ForwardError {
        metrics::counter!("esh3ar_hub_forwarded_total", "result" => "unreachable").increment(1);
        ForwardError::Unreachable
    }

    /// The same request, addressed to the owner.
    fn address(
        &self,
        owner: &Uri,
        request: Request<Incoming>,
        socket: bool,
    ) -> Option<Request<Incoming>> {
        let (mut parts, body) = request.into_parts();
        let mut target = owner.clone().into_parts();
        target.path_and_query = parts.uri.path_and_query().cloned();
        parts.uri = Uri::from_parts(target).ok()?;
        parts.version = Version::HTTP_11;
        parts.extensions.clear();
        let headers = &mut parts.headers;
        remove_hop_by_hop(headers);
        if socket {
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        headers.insert(FORWARDED_BY, self.name.clone());
        Some(Request::from_parts(parts, body))
    }
}

/// The path and query, which every gateway sees alike.
fn target<B>(request: &Request<B>) -> &str {
    request.uri().path_and_query().map_or("", |target| target.as_str())
}

/// Removes the headers between two hops, and those that `Connection` names.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// The owner's answer chunk by chunk, until it ends or this process closes it.
fn stream_back(
    response: http::Response<Incoming>,
    stream: ForwardedStream,
    permit: Option<OwnedSemaphorePermit>,
) -> Response {
    let (mut parts, body) = response.into_parts();
    remove_hop_by_hop(&mut parts.headers);
    let gone = stream.cancelled_owned();
    let pieces = BodyDataStream::new(body).take_until(gone).map(move |piece| {
        // They live as long as the stream.
        let _ = (&stream, &permit);
        piece
    });
    let mut answer = warp::reply::stream(pieces).into_response();
    *answer.status_mut() = parts.status;
    *answer.headers_mut() = parts.headers;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_two_processes_goes_no_further() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, X-Private"),
            ("keep-alive", "timeout=5"),
            ("x-private", "1"),
            ("transfer-encoding", "chunked"),
            ("origin", "https://a.example"),
            ("authorization", "Bearer t"),
            ("accept", "text/event-stream"),
            ("x-request-id", "7"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        remove_hop_by_hop(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "authorization", "x-request-id"]);
    }
}
