//! What a handler knows of its request.

mod idempotency;
mod json_body;
mod paging;
mod query;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Instant,
};

use bytes::Bytes;
use http::HeaderMap;

pub use json_body::unreadable;
pub use paging::{cursor, parse_cursor, text_cursor, timed_cursor};
pub use query::{decode, decode_plainly, read_time, unknown_parameter};

use super::{
    Readiness, budget::Reservation, principal::Principal, reply::Problem, request_body::BodyStream,
};
use crate::{
    app::{App, By, Caller},
    domain::{Message, trace::Cause},
};

/// A request that its route may answer: its principal was admitted, its body is whole or comes in chunks.
pub struct RequestContext {
    /// The appliance.
    pub app: App,
    /// Whether the gateway takes requests.
    pub readiness: Readiness,
    /// Who asks.
    pub principal: Principal,
    /// From which address; none for a command on the server.
    pub peer: Option<IpAddr>,
    /// Whether the route belongs to the existing system's API.
    pub is_legacy: bool,
    /// The route as the client wrote it: part of what an idempotency key stands for.
    pub route: String,
    /// The query, undecoded.
    pub query: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; empty when it comes in chunks.
    pub body: Bytes,
    /// The body in chunks, for routes that take it so.
    pub stream: Mutex<Option<BodyStream>>,
    /// When it came.
    pub came: Instant,
    /// What the body holds of the budget.
    pub reserved: Reservation,
    /// How many bytes a page may have.
    pub page_room: usize,
}

/// What travels in a request's extensions.
pub type SharedContext = Arc<RequestContext>;

impl RequestContext {
    /// The owner of the token.
    ///
    /// # Errors
    /// There is none.
    pub fn caller(&self) -> Result<&Caller, Problem> {
        self.principal.caller()
    }

    /// The principal as an administrator, with the reason that the header `X-Reason` gives, the id of
    /// the request and the address that it came from.
    ///
    /// # Errors
    /// It is none; a reason that is none.
    pub fn administrator(&self) -> Result<By, Problem> {
        let by = self.principal.administrator()?;
        if let Principal::Operator(_) = self.principal {
            return Ok(by);
        }
        let text = |name: &str| {
            let value = self.headers.get(name).map(http::HeaderValue::as_bytes);
            value.map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        };
        let by = by.because(text("x-reason").as_deref())?;
        Ok(by.in_request(text("x-request-id").as_deref(), self.peer))
    }

    /// The request made these durable; for who follows them.
    pub fn accepted<'a>(&self, messages: impl IntoIterator<Item = &'a Message>) {
        let cause = || Cause::parse(self.headers.get("traceparent")?.to_str().ok()?);
        self.app.trace_accepted(self.came, cause, messages);
    }
}
