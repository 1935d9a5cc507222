//! The hub: the ASP.NET Core SignalR protocol, spoken so that the official clients are our SDKs.
//!
//! Everything here is a value or a function of values: bytes and the time come in, actions go out.
//! Sockets, tasks, clocks, users and the methods of the hub are the business of those who drive a
//! [`session::Session`]. Where the protocol's specification and its official implementations
//! disagree, the implementations win, because the clients in the field are the implementations.

pub mod codec;
pub mod handshake;
pub mod negotiate;
pub mod session;
