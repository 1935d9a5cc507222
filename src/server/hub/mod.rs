//! The hub: the ASP.NET Core SignalR protocol, spoken so that the official clients are our SDKs.
//!
//! [`codec`], [`handshake`], [`negotiate`], [`session`] and [`diagnostics`] are values and functions of
//! values: bytes and the time come in, actions go out. [`endpoint`] takes requests, [`table`] knows
//! which connection they mean, `forward` passes on those for another gateway's, [`wire`] has the three transports, [`connection`] drives one connection
//! over any of them, [`services`] knows the hubs, a row of [`method`] says who may call what, and [`methods`] does what clients call. Where the protocol's specification and
//! its official implementations disagree, the implementations win, because the clients in the field
//! are the implementations.

mod answers;
pub mod codec;
pub mod connection;
pub mod diagnostics;
pub mod endpoint;
mod forward;
pub mod handshake;
mod leaving;
pub mod method;
pub mod methods;
pub mod negotiate;
mod newcomers;
pub mod services;
pub mod session;
pub mod table;
pub mod token;
pub mod wire;

pub use endpoint::{Hub, HubOptions};
