//! The hub: the ASP.NET Core SignalR protocol, so that the official clients are our SDKs.
//!
//! Six rooms; each may import only those above it in this list (held by `tests/arch.rs`):
//!
//! | room | what |
//! | --- | --- |
//! | [`protocol`] | codec, handshake, negotiation, tokens and the session state machine; pure, no I/O |
//! | [`transport`] | WebSocket, Server-Sent Events, long polling: carry bytes, know no messages |
//! | [`hubs`] | the hubs, their method tables and handlers |
//! | [`connection`] | drives one connection over any transport |
//! | `forward` | passes requests on to the gateway that owns their connection |
//! | [`endpoint`] | HTTP requests to a hub; the table of connections by token |
//!
//! Where the specification of the protocol and its official implementations disagree, the
//! implementations win, because the clients in the field are the implementations.

// Public only for tests of the whole crate: items whose name says everything need no comment.

pub mod connection;
pub mod endpoint;
mod forward;
pub mod hubs;
pub mod protocol;
pub mod transport;

pub use endpoint::{Hub, HubOptions};
