//! The gateway: HTTP, the hub, and the page for machines. Its borders speak JSON and protocols; what
//! they ask for is done by the use cases.

pub mod answer_body;
pub mod body;
pub mod budget;
pub mod connection;
mod connections;
pub mod context;
pub mod dispatch;
pub mod gate;
pub mod http;
pub mod hub;
pub mod inside;
pub mod legacy;
pub mod listen;
pub mod many;
pub mod moment;
pub mod openapi;
pub mod pages;
pub mod peer;
pub mod places;
pub mod principal;
pub mod probe;
mod proxy_protocol;
pub mod pulse;
pub mod reply;
pub mod route;
pub mod routes;
mod sent_body;
mod stream;
pub mod streams;
pub mod tls;
pub mod view;
mod watched_io;

use std::sync::{Arc, atomic::AtomicBool};

/// Whether the gateway takes requests; false while it starts and stops.
pub type Readiness = Arc<AtomicBool>;
