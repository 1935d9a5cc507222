//! The limits of a connection, and the capabilities of its transport.

use std::time::Duration;

/// The times are those of the official server, which the official clients expect.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// The longest message from a client in bytes, without its frame: 256 KiB. Content of 10,000
    /// characters fits however a client encodes it: two escapes of six bytes for each.
    pub max_message: usize,
    /// The most unread input in bytes: 1 MiB and a message, because clients join queued messages into one
    /// frame. A driver that heeds [`super::Session::wants_input`] stays below it if its chunks are no
    /// longer than this minus `max_message`.
    pub max_buffered: usize,
    pub handshake_timeout: Duration,
    /// The longest silence of a client that has pinged once: 30 s.
    pub client_timeout: Duration,
    /// Clients time out after 30 s without a message.
    pub ping_interval: Duration,
    /// How long a detached connection waits for its client.
    pub disconnect_timeout: Duration,
    /// The most bytes kept for a client that may reconnect: 512 KiB, so that the 128 connections of a
    /// business user keep 64 MiB. Past it the oldest message is dropped, and the client cannot reconnect
    /// until it has acknowledged that message. Live messages stop earlier, at
    /// [`super::Session::is_full`]; pages need [`super::Session::has_room`].
    pub max_kept: usize,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct TransportCapabilities {
    /// Stateful reconnect was negotiated: the connection may outlive its transport.
    pub stateful: bool,
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
