//! The gateway: the HTTP API, the hub, and the listener for metrics. It speaks JSON and protocols; the use
//! cases are in `app`. A request goes from `listen` through `pipeline` to `hub`, or through `dispatch` and
//! `routes` to a handler in `http`.

pub mod admin_access;
mod allowed_callers;
mod authorization;
pub mod bounded_list;
pub mod budget;
mod chunked_body;
pub mod connection;
pub mod connection_limits;
mod connection_registry;
pub mod context;
pub mod cors;
pub mod dispatch;
mod host;
pub mod http;
pub mod hub;
pub mod in_process;
mod json_lines;
pub mod legacy;
pub mod listen;
pub mod liveness;
pub mod openapi;
pub mod pagination;
pub mod peer;
pub mod pipeline;
pub mod principal;
mod proxy_protocol;
pub mod realtime_check;
mod refusal_log;
pub mod reply;
pub mod request_body;
pub mod response_body;
pub mod route;
pub mod routes;
pub mod size_limits;
pub mod stream_timeout;
pub mod timestamp;
pub mod tls;
pub mod view;
mod write_timeout;

use std::sync::{Arc, atomic::AtomicBool};

/// Whether the gateway accepts requests; false while it starts and stops.
pub type Readiness = Arc<AtomicBool>;
