//! How a connection begins over each transport, and how it comes back to one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use warp::{Reply as _, reply::Response};

use super::Hub;
use crate::{
    app::Caller,
    server::{
        budget::{Budget, BudgetOwner},
        hub::{
            answers::{Refused, polled, switching, text},
            connection::{self, Beginning, Client},
            table::{Key, Link, Negotiated, Place, Return},
            wire::{HOLD, Inbox, Mailbox, Poll, Polls, Socket, Wire, event_stream},
        },
    },
};

/// When a client that does not read its answers should come again.
const UNREAD: Duration = Duration::from_secs(1);

impl Hub {
    pub(super) fn first_socket(
        &self,
        key: Key,
        client: Client,
        request: &mut Request<Incoming>,
        accept: &str,
    ) -> Result<Response, Refused> {
        let (sender, returns) = mpsc::channel(1);
        // Whether it may come back was said in the negotiation, which only `attach` gives.
        let link = Link::Returning(sender);
        let attached = self.inner.table.attach(key, link, Instant::now());
        let (negotiated, place) = attached.ok_or(Refused::Taken)?;
        let stateful = negotiated.stateful;
        if !stateful {
            place.relink(Link::Socket);
        }
        let beginning = beginning(negotiated, client, stateful.then_some(returns));
        self.upgrade(request, accept, beginning, Some(place))
    }

    pub(super) fn upgrade(
        &self,
        request: &mut Request<Incoming>,
        accept: &str,
        beginning: Beginning,
        place: Option<Place>,
    ) -> Result<Response, Refused> {
        let seat = self.seat()?;
        let upgrade = hyper::upgrade::on(request);
        let app = self.inner.app.clone();
        let stop = self.inner.stop.clone();
        self.inner.tracker.spawn(async move {
            match upgrade.await {
                Ok(upgraded) => {
                    let wire = Wire::Socket(Box::new(Socket::new(upgraded).await));
                    connection::drive(app, wire, beginning, stop).await;
                }
                Err(error) => tracing::debug!(%error, "an upgrade was not completed"),
            }
            drop((place, seat));
        });
        Ok(switching(accept))
    }

    /// A client comes back to a connection whose socket it lost.
    pub(super) fn another_socket(
        &self,
        returns: mpsc::Sender<Return>,
        client: Client,
        request: &mut Request<Incoming>,
        accept: &str,
    ) -> Result<Response, Refused> {
        // Until the connection takes it, the socket counts as one of the party's on its way in.
        let newcomer = self.enter(&client.caller)?;
        let upgrade = hyper::upgrade::on(request);
        self.inner.tracker.spawn(async move {
            match upgrade.await {
                Ok(upgraded) => {
                    let socket = Box::new(Socket::new(upgraded).await);
                    // If the connection has ended meanwhile, so does the socket.
                    let _ = returns.send(Return { socket, client }).await;
                }
                Err(error) => tracing::debug!(%error, "an upgrade was not completed"),
            }
            drop(newcomer);
        });
        Ok(switching(accept))
    }

    pub(super) fn first_events(&self, key: Key, client: Client) -> Result<Response, Refused> {
        let (inbox, posted) = Inbox::new();
        let attached = self.inner.table.attach(key, Link::Events(inbox), Instant::now());
        let (negotiated, place) = attached.ok_or(Refused::Taken)?;
        let seat = self.seat()?;
        let (events, body) = event_stream(posted);
        self.start(Wire::Events(events), beginning(negotiated, client, None), place, seat);
        let mut response = warp::reply::stream(body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache,no-store"));
        headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("identity"));
        // Proxies would gather events otherwise.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        Ok(response)
    }

    /// The first request is answered at once: that opens the connection.
    pub(super) fn first_poll(&self, key: Key, client: Client) -> Result<Response, Refused> {
        let (inbox, posted) = Inbox::new();
        let mailbox = Mailbox::new(client.caller.expires_at);
        let link = Link::Polls(inbox, Arc::clone(&mailbox));
        let attached = self.inner.table.attach(key, link, Instant::now());
        let (negotiated, place) = attached.ok_or(Refused::Taken)?;
        let seat = self.seat()?;
        let wire = Wire::Polls(Polls::new(posted, mailbox));
        self.start(wire, beginning(negotiated, client, None), place, seat);
        Ok(polled(Bytes::new()))
    }

    fn start(&self, wire: Wire, beginning: Beginning, place: Place, seat: OwnedSemaphorePermit) {
        let app = self.inner.app.clone();
        let stop = self.inner.stop.clone();
        self.inner.tracker.spawn(async move {
            connection::drive(app, wire, beginning, stop).await;
            drop((place, seat));
        });
    }
}

fn beginning(
    negotiated: Negotiated,
    client: Client,
    returns: Option<mpsc::Receiver<Return>>,
) -> Beginning {
    let Negotiated { service, connection_id, newcomer, .. } = negotiated;
    Beginning { service, client, connection_id, returns, newcomer }
}

/// What was fetched counts for the party until it is sent. None is fetched for a party that does not read its answers.
pub(super) async fn poll(
    mailbox: &Mailbox,
    caller: &Caller,
    answers: Option<Budget>,
) -> Result<Response, Refused> {
    let reserved = match answers {
        None => None,
        Some(answers) => {
            let owner = BudgetOwner::Party(caller.party());
            let Ok(reserved) = answers.reserve(owner, 1, 1, UNREAD).await else {
                // A refusal would end the connection, which may be another agent's than the one that does not read.
                mailbox.note_asked();
                return Ok(polled(Bytes::new()));
            };
            Some(reserved)
        }
    };
    let bytes = match mailbox.poll(caller.expires_at, HOLD).await {
        Poll::Bytes(bytes) => bytes,
        Poll::Over => return Ok(text(StatusCode::NO_CONTENT, "")),
    };
    let mut response = polled(bytes);
    if let Some(reserved) = reserved {
        response.extensions_mut().insert(Arc::new(reserved));
    }
    Ok(response)
}
