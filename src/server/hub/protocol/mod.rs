//! The SignalR protocol without I/O: bytes and the time come in, messages and actions go out.

pub mod codec;
pub mod error_text;
pub mod handshake;
pub mod negotiate;
pub mod session;
pub mod token;
