//! The gateway: HTTP, the hub, and the page for machines. Its borders speak JSON and protocols; what
//! they ask for is done by the use cases.

pub mod audience;
mod authorization;
pub mod bounded_list;
pub mod budget;
mod chunked_body;
pub mod connection;
pub mod connection_limits;
mod connection_registry;
pub mod context;
pub mod dispatch;
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

/// Whether the gateway takes requests; false while it starts and stops.
pub type Readiness = Arc<AtomicBool>;
