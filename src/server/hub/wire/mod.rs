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
    events::{Events, event_stream},
    polls::{HOLD, Mailbox, Poll, Polls},
    socket::{Socket, accept_key},
};

/// How long one write may take before the client counts as stuck (reference: the official server's
/// transport send timeout).
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest piece of a posted body that is passed on at once.
pub const PIECE: usize = 64 * 1024;
/// The most posted bytes that wait for a connection: the longest message of a client, several times.
const POSTED: usize = 512 * 1024;
/// Posts of one connection at once: that whose turn it is, and those that wait.
const POSTS: usize = 5;
/// What a piece counts beside its bytes.
const EACH: usize = 64;

/// Why a transport ended whose client could not take what it was sent.
pub const REFUSED: &str = "socket_refused";

/// What comes from the client.
#[derive(Debug)]
pub enum Heard {
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
pub enum Wire {
    /// A WebSocket.
    Socket(Box<Socket>),
    /// Server-Sent Events, and posted input.
    Events(Events),
    /// Held requests, and posted input.
    Polls(Polls),
    /// None for now: the client may come back with one.
    Away,
}

/// The way of posted bytes to the connection. One post after the other is passed on, whole. Some bytes
/// wait, so that a client whose answers have no room yet need not ask for them before its post is answered.
#[derive(Clone)]
pub struct Inbox {
    sender: mpsc::Sender<Piece>,
    room: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    posts: Arc<Semaphore>,
}

/// Bytes that wait, and the room that they take.
struct Piece {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

/// The connection's end of an [`Inbox`].
pub struct Posted(mpsc::Receiver<Piece>);

impl Posted {
    /// What was posted next; `None` when nobody can post any more. Safe to drop while it waits.
    async fn recv(&mut self) -> Option<Bytes> {
        self.0.recv().await.map(|piece| piece.bytes)
    }
}

/// A post's turn.
pub struct Turn {
    sender: mpsc::Sender<Piece>,
    room: Arc<Semaphore>,
    _turn: OwnedSemaphorePermit,
}

impl Inbox {
    /// A way, and its end.
    pub fn new() -> (Inbox, Posted) {
        // Never full: so many pieces take all the room there is.
        let (sender, receiver) = mpsc::channel(POSTED / EACH);
        let (room, turns) = (Arc::new(Semaphore::new(POSTED)), Arc::new(Semaphore::new(1)));
        let posts = Arc::new(Semaphore::new(POSTS));
        (Inbox { sender, room, turns, posts }, Posted(receiver))
    }

    /// Lets a post wait for its turn; `None` when too many do. To be kept until the post is over.
    pub fn queue(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.posts).try_acquire_owned().ok()
    }

    /// Waits for the turn of a post; none comes when the connection has ended.
    pub async fn turn(&self) -> Option<Turn> {
        let turn = tokio::select! {
            turn = Arc::clone(&self.turns).acquire_owned() => turn.ok()?,
            () = self.sender.closed() => return None,
        };
        let (sender, room) = (self.sender.clone(), Arc::clone(&self.room));
        (!sender.is_closed()).then_some(Turn { sender, room, _turn: turn })
    }
}

impl Turn {
    /// Hands a piece over. Whether the connection is still there to take it.
    pub async fn put(&mut self, piece: Bytes) -> bool {
        let needed = u32::try_from((piece.len() + EACH).min(POSTED)).unwrap_or(u32::MAX);
        let room = tokio::select! {
            room = Arc::clone(&self.room).acquire_many_owned(needed) => room,
            () = self.sender.closed() => return false,
        };
        room.is_ok_and(|room| self.sender.try_send(Piece { bytes: piece, _room: room }).is_ok())
    }
}

impl Wire {
    /// What comes next; never, without a transport. Safe to drop while it waits.
    pub async fn receive(&mut self) -> Heard {
        match self {
            Wire::Socket(socket) => socket.receive().await,
            Wire::Events(events) => events.receive().await,
            Wire::Polls(polls) => polls.receive().await,
            Wire::Away => std::future::pending().await,
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
                Wire::Socket(socket) => socket.send(bytes, text).await,
                Wire::Events(events) => events.send(&bytes).await,
                Wire::Polls(polls) => polls.send(&bytes, alone).await,
                Wire::Away => Ok(()),
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
        let Wire::Socket(socket) = self else { return Ok(false) };
        let sent = tokio::time::timeout(SEND_TIMEOUT, socket.ping(payload)).await;
        sent.unwrap_or(Err("stuck")).map(|()| true)
    }

    /// Ends the transport in order. What was sent before arrives; `hurried` while the process stops.
    pub async fn close(self, hurried: bool) {
        match self {
            Wire::Socket(socket) => socket.close().await,
            Wire::Polls(polls) => polls.close(hurried).await,
            // Dropping it ends the stream after what is in it.
            Wire::Events(_) | Wire::Away => {}
        }
    }
}
