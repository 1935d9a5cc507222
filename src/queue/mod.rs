//! The wake-ups between accepting a message and delivering it: lanes by priority, a queue for each
//! share of the work.
//!
//! What is in here is a hint. Losing it, all of it included, only makes a delivery later: the
//! message's row says when somebody has to look at it.

mod lanes;
mod local;
pub mod rabbit;

pub use lanes::Lanes;
pub use local::LocalQueue;
pub use rabbit::{Consumer, Rabbit, WakeUp};

use crate::domain::Priority;

/// How delivery is woken.
pub enum Queue<T> {
    /// In this process, with what is to be delivered.
    Local(LocalQueue<T>),
    /// By way of the broker, with names.
    Rabbit(Rabbit),
}

impl<T> Queue<T> {
    /// How many wake-ups wait in a lane.
    pub fn depth(&self, lane: Priority) -> usize {
        match self {
            Queue::Local(queue) => queue.depth(lane),
            Queue::Rabbit(rabbit) => rabbit.depth(lane),
        }
    }
}
