//! Requests for a connection of another gateway: passed to its owner, and the answer back. So any gateway
//! takes any request, and a load balancer needs to know nothing of connections.
//!
//! Posts and held requests go over kept HTTP/1.1 connections, event streams are passed on piece by piece,
//! and the WebSocket of a connection that outlives it becomes a tunnel (others are at home where they come
//! in). The owner finds out by itself who asks; here it was found out before,
//! so that a stranger costs the owner nothing.

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

/// Says which gateway passed a request on; one that has it is never passed on again.
const FORWARDED_BY: HeaderName = HeaderName::from_static("x-esh3ar-forwarded-by");
/// Whose request it is, by the word of the gateway that passed it on.
const PEER: HeaderName = HeaderName::from_static("x-esh3ar-peer");
/// How long the owner may take for an answer: as long as it may hold a request, and some more.
const RESPONSE_TIMEOUT: Duration = POLL_TIMEOUT.saturating_add(Duration::from_secs(20));
/// How long a connection to another gateway is kept without a use. Shorter than the owner's patience
/// (`http.header_timeout`), which would otherwise hang up just when a request is on its way.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Unused connections kept to each.
const MAX_IDLE_PER_GATEWAY: usize = 64;

/// What is between two processes and no concern of a third (RFC 9110, 7.6.1); and the origin, for which
/// the answer is completed here.
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

/// The way to the other gateways.
pub struct Forwarder {
    client: Client<GatewayConnector, Incoming>,
    name: HeaderValue,
    streams: ForwardedStreams,
    tracker: TaskTracker,
}

/// A request for another gateway's connection.
pub struct ForwardRequest {
    /// Where the owner is.
    pub owner: Uri,
    /// The place of a connection that stays: a socket, or a stream of events.
    pub permit: Option<OwnedSemaphorePermit>,
    /// Whether it asks for a WebSocket.
    pub socket: bool,
    /// From which address it comes.
    pub peer: IpAddr,
}

/// The failures that are not the owner's own answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardError {
    /// The owner cannot be reached: the client has to negotiate again.
    Unreachable,
    /// This process drains or stops, and the request would hold it up.
    Stopping,
}

/// Whether a request comes from another gateway.
pub fn was_forwarded(headers: &HeaderMap) -> bool {
    headers.contains_key(FORWARDED_BY)
}

impl Forwarder {
    /// What passes through here is cut when `stop` is cancelled, or when the process is emptied.
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

    /// Passes a request on. The owner's answer, whatever it is.
    ///
    /// # Errors
    /// [`ForwardError::Unreachable`] when the owner cannot be reached, so that the client begins anew;
    /// [`HubRejection::Unavailable`] when this process is about to go.
    pub async fn forward(
        &self,
        signer: &TokenSigner,
        forward: ForwardRequest,
        mut request: Request<Incoming>,
    ) -> Result<Response, ForwardError> {
        let ForwardRequest { owner, permit, socket, peer } = forward;
        let upgrade = socket.then(|| hyper::upgrade::on(&mut request));
        // A post is short and is let through; what is held open would hold up the stop.
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
                // The address without what was asked there, which may hold a token.
                tracing::debug!(%owner, %error, "another gateway could not be asked");
                return Err(self.unreachable());
            }
            Err(_) => {
                tracing::debug!(%owner, "another gateway did not answer in time");
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

    /// Where a request comes from that another gateway passed on.
    pub fn peer_of<B>(signer: &TokenSigner, request: &Request<B>) -> Option<IpAddr> {
        signer.read_peer(request.headers().get(PEER)?.to_str().ok()?, target(request))
    }

    fn unreachable(&self) -> ForwardError {
        metrics::counter!("esh3ar_hub_forwarded_total", "result" => "unreachable").increment(1);
        ForwardError::Unreachable
    }

    /// The same request, to the owner, from this gateway.
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

/// What a request asks for, on every gateway the same.
fn target<B>(request: &Request<B>) -> &str {
    request.uri().path_and_query().map_or("", |target| target.as_str())
}

/// Removes what is between two processes, and what they named as such.
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

/// The owner's answer, piece by piece as it comes, until it ends or this process has to go.
fn stream_back(
    response: http::Response<Incoming>,
    stream: ForwardedStream,
    permit: Option<OwnedSemaphorePermit>,
) -> Response {
    let (mut parts, body) = response.into_parts();
    remove_hop_by_hop(&mut parts.headers);
    let gone = stream.cancelled_owned();
    let pieces = BodyDataStream::new(body).take_until(gone).map(move |piece| {
        // They stay for as long as the stream does.
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
