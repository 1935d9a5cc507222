//! Posted input of a connection: posts are passed on one after the other, each whole.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The longest chunk of a posted body that is passed on at once.
pub const MAX_CHUNK_LEN: usize = 64 * 1024;
/// Posted bytes that wait for a connection: several times the longest message of a client.
const MAX_QUEUED_BYTES: usize = 512 * 1024;
/// Concurrent posts to one connection: the active one and those that wait for their turn.
const MAX_QUEUED_POSTS: usize = 5;
/// What a chunk counts besides its bytes.
const CHUNK_OVERHEAD: usize = 64;

/// The sending half. It buffers some bytes, so that a client whose output is blocked need not poll before
/// its post is answered.
#[derive(Clone)]
pub struct PostQueue {
    sender: mpsc::Sender<PostChunk>,
    capacity: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    posts: Arc<Semaphore>,
}

struct PostChunk {
    bytes: Bytes,
    _capacity: OwnedSemaphorePermit,
}

/// The receiving half of a [`PostQueue`].
pub struct PostedInput(mpsc::Receiver<PostChunk>);

impl PostedInput {
    /// `None` when the sending half is gone. Cancel-safe.
    pub(super) async fn recv(&mut self) -> Option<Bytes> {
        self.0.recv().await.map(|chunk| chunk.bytes)
    }
}

/// Held by the post that may send.
pub struct PostTurn {
    sender: mpsc::Sender<PostChunk>,
    capacity: Arc<Semaphore>,
    _turn: OwnedSemaphorePermit,
}

impl PostQueue {
    pub fn new() -> (PostQueue, PostedInput) {
        // Never full: this many chunks take the whole capacity.
        let (sender, receiver) = mpsc::channel(MAX_QUEUED_BYTES / CHUNK_OVERHEAD);
        let capacity = Arc::new(Semaphore::new(MAX_QUEUED_BYTES));
        let turns = Arc::new(Semaphore::new(1));
        let posts = Arc::new(Semaphore::new(MAX_QUEUED_POSTS));
        (PostQueue { sender, capacity, turns, posts }, PostedInput(receiver))
    }

    /// Admits a post; `None` when too many wait. Hold the permit until the post ends.
    pub fn queue(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.posts).try_acquire_owned().ok()
    }

    /// Waits for the turn of a post; `None` when the connection has ended.
    pub async fn turn(&self) -> Option<PostTurn> {
        let turn = tokio::select! {
            turn = Arc::clone(&self.turns).acquire_owned() => turn.ok()?,
            () = self.sender.closed() => return None,
        };
        let (sender, capacity) = (self.sender.clone(), Arc::clone(&self.capacity));
        (!sender.is_closed()).then_some(PostTurn { sender, capacity, _turn: turn })
    }
}

impl PostTurn {
    /// Returns whether the connection is still there.
    pub async fn put(&mut self, chunk: Bytes) -> bool {
        let needed =
            u32::try_from((chunk.len() + CHUNK_OVERHEAD).min(MAX_QUEUED_BYTES)).unwrap_or(u32::MAX);
        let capacity = tokio::select! {
            capacity = Arc::clone(&self.capacity).acquire_many_owned(needed) => capacity,
            () = self.sender.closed() => return false,
        };
        capacity.is_ok_and(|capacity| {
            self.sender.try_send(PostChunk { bytes: chunk, _capacity: capacity }).is_ok()
        })
    }
}
