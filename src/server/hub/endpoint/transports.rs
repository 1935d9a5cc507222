//! Attaches transports: the first of a connection, and those of a reconnect.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use warp::{Reply as _, reply::Response};

use super::{
    Hub,
    responses::{HubRejection, poll_response, switching_protocols, text},
    table::{PendingConnection, TableEntry, TransportHandle},
};
use crate::{
    app::Caller,
    server::{
        budget::{Budget, BudgetOwner},
        hub::{
            connection::{self, ClientIdentity, ConnectionParams, Reconnect},
            protocol::token::ConnectionKey,
            transport::{
                LongPollTransport, POLL_TIMEOUT, PollBuffer, PollResponse, PostQueue, Transport,
                WebSocketTransport, event_stream,
            },
        },
    },
};

/// For a client that does not read its answers.
const UNREAD_RETRY_AFTER: Duration = Duration::from_secs(1);

impl Hub {
    pub(super) fn attach_websocket(
        &self,
        key: ConnectionKey,
        client: ClientIdentity,
        request: &mut Request<Incoming>,
        accept: &str,
    ) -> Result<Response, HubRejection> {
        let (sender, reconnects) = mpsc::channel(1);
        // Whether stateful reconnect was negotiated is known only after `attach`.
        let handle = TransportHandle::ResumableWebSocket(sender);
        let attached = self.inner.table.attach(key, handle, Instant::now());
        let (pending, entry) = attached.ok_or(HubRejection::Conflict)?;
        let stateful = pending.stateful;
        if !stateful {
            entry.set_transport(TransportHandle::WebSocket);
        }
        let params = connection_params(pending, client, stateful.then_some(reconnects));
        self.upgrade(request, accept, params, Some(entry))
    }

    pub(super) fn upgrade(
        &self,
        request: &mut Request<Incoming>,
        accept: &str,
        params: ConnectionParams,
        entry: Option<TableEntry>,
    ) -> Result<Response, HubRejection> {
        let permit = self.acquire_permit()?;
        let upgrade = hyper::upgrade::on(request);
        let app = self.inner.app.clone();
        let stop = self.inner.stop.clone();
        self.inner.tracker.spawn(async move {
            match upgrade.await {
                Ok(upgraded) => {
                    let transport =
                        Transport::WebSocket(Box::new(WebSocketTransport::new(upgraded).await));
                    connection::drive(app, transport, params, stop).await;
                }
                Err(error) => tracing::debug!(%error, "WebSocket upgrade failed"),
            }
            drop((entry, permit));
        });
        Ok(switching_protocols(accept))
    }

    /// A client reconnects to a connection whose WebSocket it lost.
    pub(super) fn reconnect_websocket(
        &self,
        reconnects: mpsc::Sender<Reconnect>,
        client: ClientIdentity,
        request: &mut Request<Incoming>,
        accept: &str,
    ) -> Result<Response, HubRejection> {
        // Until the connection takes it, the socket counts as a pending handshake.
        let handshake_permit = self.begin_handshake(&client.caller)?;
        let upgrade = hyper::upgrade::on(request);
        self.inner.tracker.spawn(async move {
            match upgrade.await {
                Ok(upgraded) => {
                    let socket = Box::new(WebSocketTransport::new(upgraded).await);
                    // If the connection has ended meanwhile, the socket is closed.
                    let _ = reconnects.send(Reconnect { socket, client }).await;
                }
                Err(error) => tracing::debug!(%error, "WebSocket upgrade failed"),
            }
            drop(handshake_permit);
        });
        Ok(switching_protocols(accept))
    }

    pub(super) fn attach_event_stream(
        &self,
        key: ConnectionKey,
        client: ClientIdentity,
    ) -> Result<Response, HubRejection> {
        let (posts, posted) = PostQueue::new();
        let attached =
            self.inner.table.attach(key, TransportHandle::ServerSentEvents(posts), Instant::now());
        let (pending, entry) = attached.ok_or(HubRejection::Conflict)?;
        let permit = self.acquire_permit()?;
        let (events, body) = event_stream(posted);
        self.start(
            Transport::ServerSentEvents(events),
            connection_params(pending, client, None),
            entry,
            permit,
        );
        let mut response = warp::reply::stream(body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache,no-store"));
        headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("identity"));
        // Otherwise proxies buffer events.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        Ok(response)
    }

    /// The first poll is answered at once: that opens the connection.
    pub(super) fn attach_long_polling(
        &self,
        key: ConnectionKey,
        client: ClientIdentity,
    ) -> Result<Response, HubRejection> {
        let (posts, posted) = PostQueue::new();
        let buffer = PollBuffer::new(client.caller.expires_at);
        let handle = TransportHandle::LongPolling(posts, Arc::clone(&buffer));
        let attached = self.inner.table.attach(key, handle, Instant::now());
        let (pending, entry) = attached.ok_or(HubRejection::Conflict)?;
        let permit = self.acquire_permit()?;
        let transport = Transport::LongPolling(LongPollTransport::new(posted, buffer));
        self.start(transport, connection_params(pending, client, None), entry, permit);
        Ok(poll_response(Bytes::new()))
    }

    fn start(
        &self,
        transport: Transport,
        params: ConnectionParams,
        entry: TableEntry,
        permit: OwnedSemaphorePermit,
    ) {
        let app = self.inner.app.clone();
        let stop = self.inner.stop.clone();
        self.inner.tracker.spawn(async move {
            connection::drive(app, transport, params, stop).await;
            drop((entry, permit));
        });
    }
}

fn connection_params(
    pending: PendingConnection,
    client: ClientIdentity,
    reconnects: Option<mpsc::Receiver<Reconnect>>,
) -> ConnectionParams {
    let PendingConnection { service, connection_id, handshake_permit, .. } = pending;
    ConnectionParams { service, client, connection_id, reconnects, handshake_permit }
}

/// Fetched output counts against the party's budget until it is sent. Without budget, nothing is fetched.
pub(super) async fn poll(
    buffer: &PollBuffer,
    caller: &Caller,
    answers: Option<Budget>,
) -> Result<Response, HubRejection> {
    let reserved = match answers {
        None => None,
        Some(answers) => {
            let owner = BudgetOwner::Party(caller.party());
            let Ok(reserved) = answers.reserve(owner, 1, 1, UNREAD_RETRY_AFTER).await else {
                // A refusal would end the connection, which may belong to another agent than the one that does not read.
                buffer.note_request();
                return Ok(poll_response(Bytes::new()));
            };
            Some(reserved)
        }
    };
    let bytes = match buffer.poll(caller.expires_at, POLL_TIMEOUT).await {
        PollResponse::Bytes(bytes) => bytes,
        PollResponse::Ended => return Ok(text(StatusCode::NO_CONTENT, "")),
    };
    let mut response = poll_response(bytes);
    if let Some(reserved) = reserved {
        response.extensions_mut().insert(Arc::new(reserved));
    }
    Ok(response)
}
