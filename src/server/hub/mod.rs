//! The hub: the ASP.NET Core SignalR protocol, spoken so that the official clients are our SDKs.
//!
//! [`codec`], [`handshake`], [`negotiate`] and [`session`] are values and functions of values: bytes
//! and the time come in, actions go out. [`endpoint`] answers the requests that make a connection,
//! [`socket`] drives one, [`methods`] does what clients call. Where the protocol's specification and
//! its official implementations disagree, the implementations win, because the clients in the field
//! are the implementations.

pub mod codec;
pub mod endpoint;
pub mod handshake;
pub mod methods;
pub mod negotiate;
pub mod session;
pub mod socket;

pub use endpoint::Hub;
