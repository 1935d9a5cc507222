//! The transports: three ways to carry a connection's bytes to a client and from it.
//!
//! What is sent consists of whole messages and is never split; what comes may be cut anywhere. This
//! room knows neither the hub protocol nor who is connected.

mod events;
mod pieces;
mod polls;
mod socket;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

pub use self::{
    events::{SseTransport, event_stream},
    polls::{LongPollTransport, POLL_TIMEOUT, PollBuffer, PollResponse},
    socket::{WebSocketTransport, accept_key},
};

/// How long one write may take before the client counts as stuck (reference: the official server's
/// transport send timeout).
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest chunk of a posted body that is passed on at once.
pub const MAX_CHUNK_LEN: usize = 64 * 1024;
/// The most posted bytes that wait for a connection: the longest message of a client, several times.
const MAX_QUEUED_BYTES: usize = 512 * 1024;
/// Posts of one connection at once: that whose turn it is, and those that wait.
const MAX_QUEUED_POSTS: usize = 5;
/// What a chunk counts beside its bytes.
const CHUNK_OVERHEAD: usize = 64;

/// Why a transport ended whose client could not take what it was sent.
pub const REFUSED: &str = "socket_refused";

/// What comes from the client.
#[derive(Debug)]
pub enum TransportEvent {
    /// Bytes, cut anywhere.
    Bytes(Bytes),
    /// A pong of the client's, asked for or not.
    Pong(Bytes),
    /// The client ended the transport.
    Ended(&'static str),
    /// The transport was lost without a goodbye.
    Lost(&'static str),
}

/// The transport of one connection.
pub enum Transport {
    /// A WebSocket.
    WebSocket(Box<WebSocketTransport>),
    /// Server-Sent Events, and posted input.
    ServerSentEvents(SseTransport),
    /// Held requests, and posted input.
    LongPolling(LongPollTransport),
    /// None for now: the client may come back with one.
    Detached,
}

/// The way of posted bytes to the connection. One post after the other is passed on, whole. Some bytes
/// wait, so that a client whose answers have no room yet need not ask for them before its post is answered.
#[derive(Clone)]
pub struct PostQueue {
    sender: mpsc::Sender<PostChunk>,
    room: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    posts: Arc<Semaphore>,
}

/// Bytes that wait, and the room that they take.
struct PostChunk {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

/// The connection's end of an [`PostQueue`].
pub struct PostedInput(mpsc::Receiver<PostChunk>);

impl PostedInput {
    /// What was posted next; `None` when nobody can post any more. Safe to drop while it waits.
    async fn recv(&mut self) -> Option<Bytes> {
        self.0.recv().await.map(|chunk| chunk.bytes)
    }
}

/// A post's turn.
pub struct PostTurn {
    sender: mpsc::Sender<PostChunk>,
    room: Arc<Semaphore>,
    _turn: OwnedSemaphorePermit,
}

impl PostQueue {
    /// A way, and its end.
    pub fn new() -> (PostQueue, PostedInput) {
        // Never full: so many pieces take all the room there is.
        let (sender, receiver) = mpsc::channel(MAX_QUEUED_BYTES / CHUNK_OVERHEAD);
        let (room, turns) =
            (Arc::new(Semaphore::new(MAX_QUEUED_BYTES)), Arc::new(Semaphore::new(1)));
        let posts = Arc::new(Semaphore::new(MAX_QUEUED_POSTS));
        (PostQueue { sender, room, turns, posts }, PostedInput(receiver))
    }

    /// Lets a post wait for its turn; `None` when too many do. To be kept until the post is over.
    pub fn queue(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.posts).try_acquire_owned().ok()
    }

    /// Waits for the turn of a post; none comes when the connection has ended.
    pub async fn turn(&self) -> Option<PostTurn> {
        let turn = tokio::select! {
            turn = Arc::clone(&self.turns).acquire_owned() => turn.ok()?,
            () = self.sender.closed() => return None,
        };
        let (sender, room) = (self.sender.clone(), Arc::clone(&self.room));
        (!sender.is_closed()).then_some(PostTurn { sender, room, _turn: turn })
    }
}

impl PostTurn {
    /// Hands a chunk over. Whether the connection is still there to take it.
    pub async fn put(&mut self, chunk: Bytes) -> bool {
        let needed =
            u32::try_from((chunk.len() + CHUNK_OVERHEAD).min(MAX_QUEUED_BYTES)).unwrap_or(u32::MAX);
        let room = tokio::select! {
            room = Arc::clone(&self.room).acquire_many_owned(needed) => room,
            () = self.sender.closed() => return false,
        };
        room.is_ok_and(|room| self.sender.try_send(PostChunk { bytes: chunk, _room: room }).is_ok())
    }
}

impl Transport {
    /// What comes next; never, without a transport. Safe to drop while it waits.
    pub async fn receive(&mut self) -> TransportEvent {
        match self {
            Transport::WebSocket(socket) => socket.receive().await,
            Transport::ServerSentEvents(events) => events.receive().await,
            Transport::LongPolling(polls) => polls.receive().await,
            Transport::Detached => std::future::pending().await,
        }
    }

    /// Sends whole messages; `alone` for those that come to the client without what is sent after them.
    /// Without a transport they go nowhere: who may come back is sent them again.
    ///
    /// # Errors
    /// Why the transport is lost.
    pub async fn send(
        &mut self,
        bytes: Bytes,
        text: bool,
        alone: bool,
    ) -> Result<(), &'static str> {
        let sent = async {
            match self {
                Transport::WebSocket(socket) => socket.send(bytes, text).await,
                Transport::ServerSentEvents(events) => events.send(&bytes).await,
                Transport::LongPolling(polls) => polls.send(&bytes, alone).await,
                Transport::Detached => Ok(()),
            }
        };
        tokio::time::timeout(SEND_TIMEOUT, sent).await.unwrap_or(Err("stuck"))
    }

    /// Asks for a sign that what was sent has come, where the transport has one: then a pong with this
    /// payload follows. Whether it has.
    ///
    /// # Errors
    /// Why the transport is lost.
    pub async fn ping(&mut self, payload: Bytes) -> Result<bool, &'static str> {
        let Transport::WebSocket(socket) = self else { return Ok(false) };
        let sent = tokio::time::timeout(SEND_TIMEOUT, socket.ping(payload)).await;
        sent.unwrap_or(Err("stuck")).map(|()| true)
    }

    /// Ends the transport in order. What was sent before arrives; `stopping` while the process stops.
    pub async fn close(self, stopping: bool) {
        match self {
            Transport::WebSocket(socket) => socket.close().await,
            Transport::LongPolling(polls) => polls.close(stopping).await,
            // Dropping it ends the stream after what is in it.
            Transport::ServerSentEvents(_) | Transport::Detached => {}
        }
    }
}
