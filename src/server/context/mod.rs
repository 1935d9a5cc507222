//! The context of a request: what its handler knows.

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
    domain::{Message, trace::TraceParent},
};

/// An authorised request, with its body or the stream of its body.
pub struct RequestContext {
    pub app: App,
    pub readiness: Readiness,
    pub principal: Principal,
    /// The client's address; `None` for a command on the server.
    pub peer: Option<IpAddr>,
    /// Whether the route belongs to the API of the existing system.
    pub is_legacy: bool,
    /// Method and path as the client wrote them, which an idempotency key is bound to.
    pub route: String,
    pub query: String,
    pub headers: HeaderMap,
    /// Empty for a streamed body.
    pub body: Bytes,
    /// For routes with a streamed body.
    pub stream: Mutex<Option<BodyStream>>,
    pub came: Instant,
    /// The reservation of the body.
    pub reserved: Reservation,
    /// Maximum bytes of a page.
    pub page_room: usize,
}

pub type SharedContext = Arc<RequestContext>;

impl RequestContext {
    /// # Errors
    /// There is no token.
    pub fn caller(&self) -> Result<&Caller, Problem> {
        self.principal.caller()
    }

    /// The principal as an administrator, with the reason in `X-Reason`, the request id and the client's
    /// address.
    ///
    /// # Errors
    /// It is no administrator, or the reason is invalid.
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

    /// Records traces of messages that the request stored.
    pub fn accepted<'a>(&self, messages: impl IntoIterator<Item = &'a Message>) {
        let cause = || TraceParent::parse(self.headers.get("traceparent")?.to_str().ok()?);
        self.app.delivery.trace_accepted(self.came, cause, messages);
    }
}
