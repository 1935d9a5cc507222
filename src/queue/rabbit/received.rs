//! What the broker has delivered and no worker has taken yet.

use std::sync::atomic::AtomicU64;

use super::{
    partition_channel::DEAD_PREFETCH,
    unacked::{DeadFrame, Item},
};
use crate::queue::LocalQueue;

/// Shared by the connection that fills it and the workers that empty it.
pub(super) struct Received {
    /// How often the consumer has connected.
    pub(super) connections: AtomicU64,
    pub(super) waiting: LocalQueue<Item>,
    pub(super) dead: LocalQueue<DeadFrame>,
}

impl Received {
    pub(super) fn new(shares: usize, capacity: usize) -> Received {
        Received {
            connections: AtomicU64::new(0),
            waiting: LocalQueue::new(shares, capacity),
            dead: LocalQueue::new(1, usize::from(DEAD_PREFETCH)),
        }
    }
}
