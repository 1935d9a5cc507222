//! The three transports: each carries the bytes of one connection to the client and back.
//!
//! Output consists of whole messages and is never split. Input may be cut anywhere. This room knows
//! neither the hub protocol nor the party.

mod frame_splitter;
mod long_polling;
mod post_queue;
mod server_sent_events;
mod websocket;

use std::time::Duration;

use bytes::Bytes;

pub use self::{
    long_polling::{LongPollTransport, POLL_TIMEOUT, PollBuffer, PollResponse},
    post_queue::{MAX_CHUNK_LEN, PostQueue, PostedInput},
    server_sent_events::{SseTransport, event_stream},
    websocket::{WebSocketTransport, accept_key},
};

/// Reference: the official server's transport send timeout.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// The reason for the end of a transport whose client could not process what it received.
pub const CLIENT_REFUSED: &str = "socket_refused";

#[derive(Debug)]
pub enum TransportEvent {
    Bytes(Bytes),
    /// Clients may send a pong that answers no ping.
    Pong(Bytes),
    /// The client closed the transport.
    Ended(&'static str),
    /// The transport broke without a close handshake.
    Lost(&'static str),
}

pub enum Transport {
    WebSocket(Box<WebSocketTransport>),
    ServerSentEvents(SseTransport),
    LongPolling(LongPollTransport),
    /// No transport at the moment: the client may reconnect.
    Detached,
}

impl Transport {
    /// The next event; pending forever while detached. Cancel-safe.
    pub async fn receive(&mut self) -> TransportEvent {
        match self {
            Transport::WebSocket(socket) => socket.receive().await,
            Transport::ServerSentEvents(events) => events.receive().await,
            Transport::LongPolling(polls) => polls.receive().await,
            Transport::Detached => std::future::pending().await,
        }
    }

    /// Sends whole messages. With `separate` they are not joined with messages sent later. While detached
    /// they are dropped: the session replays them to a client that reconnects.
    ///
    /// # Errors
    /// The reason for the loss of the transport.
    pub async fn send(
        &mut self,
        bytes: Bytes,
        text: bool,
        separate: bool,
    ) -> Result<(), &'static str> {
        let sent = async {
            match self {
                Transport::WebSocket(socket) => socket.send(bytes, text).await,
                Transport::ServerSentEvents(events) => events.send(&bytes).await,
                Transport::LongPolling(polls) => polls.send(&bytes, separate).await,
                Transport::Detached => Ok(()),
            }
        };
        tokio::time::timeout(SEND_TIMEOUT, sent).await.unwrap_or(Err("stuck"))
    }

    /// Sends a ping, where the transport has pings: a pong with this payload confirms that the client
    /// received everything sent before. Returns whether the transport has pings.
    ///
    /// # Errors
    /// The reason for the loss of the transport.
    pub async fn ping(&mut self, payload: Bytes) -> Result<bool, &'static str> {
        let Transport::WebSocket(socket) = self else { return Ok(false) };
        let sent = tokio::time::timeout(SEND_TIMEOUT, socket.ping(payload)).await;
        sent.unwrap_or(Err("stuck")).map(|()| true)
    }

    /// Closes the transport after the output sent so far. `stopping` shortens the wait for the client.
    pub async fn close(self, stopping: bool) {
        match self {
            Transport::WebSocket(socket) => socket.close().await,
            Transport::LongPolling(polls) => polls.close(stopping).await,
            // Dropping the stream ends it after the events in it.
            Transport::ServerSentEvents(_) | Transport::Detached => {}
        }
    }
}
