//! How much and how long: the numbers of a connection.

use std::time::Duration;

/// The limits of a connection. The times are those of the official server, which the official clients are
/// made for.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// The longest message from a client in bytes, without its frame: 256 KiB. Every message that may be
    /// said fits, however a client writes it: 10,000 characters, each of two escapes of six bytes.
    pub max_message: usize,
    /// The most unread input in bytes: 1 MiB and a message. Clients join what they had to hold back
    /// into one frame. A driver that heeds [`super::Session::wants_input`] stays below it if no chunk it
    /// passes is longer than this less `max_message`.
    pub max_buffered: usize,
    /// From the start to the handshake: 15 s.
    pub handshake_timeout: Duration,
    /// How long a client that has pinged once may be silent: 30 s.
    pub client_timeout: Duration,
    /// From one ping of the server to the next: 15 s. Clients give up after 30 s without a message.
    pub ping_interval: Duration,
    /// How long a connection that may come back waits for its client: 15 s.
    pub disconnect_timeout: Duration,
    /// The most bytes kept for a client that may come back: 512 KiB, so that the 128 connections of a
    /// business user keep 64 MiB. Past it the oldest is dropped, and the client cannot come back until it
    /// has acknowledged that. Messages and pages are not sent past it: live messages stop at
    /// [`super::Session::is_full`], pages need [`super::Session::has_room`].
    pub max_kept: usize,
}

/// What a connection's transport can do.
#[derive(Clone, Copy, Debug, Default)]
pub struct TransportCapabilities {
    /// The connection may outlive its transport: stateful reconnect was negotiated.
    pub stateful: bool,
    /// It carries text only.
    pub text_only: bool,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            max_message: 256 * 1024,
            max_buffered: 1024 * 1024 + 256 * 1024,
            handshake_timeout: Duration::from_secs(15),
            client_timeout: Duration::from_secs(30),
            ping_interval: Duration::from_secs(15),
            disconnect_timeout: Duration::from_secs(15),
            max_kept: 512 * 1024,
        }
    }
}
