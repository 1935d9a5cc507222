//! Wake-ups between accepting a message and delivering it: lanes by priority (the priority queues), a queue for
//! each share of the work.
//!
//! A wake-up is a hint. Losing all of them only delays deliveries: the row of a message says when it is due.

mod lanes;
mod local;
pub mod rabbit;

pub use lanes::Lanes;
pub use local::LocalQueue;
pub use rabbit::{Consumer, Rabbit, WakeUp};

use crate::domain::Priority;

pub enum Queue<T> {
    /// In this process. Carries the deliveries themselves.
    Local(LocalQueue<T>),
    /// Through the broker. Carries names of messages.
    Rabbit(Rabbit),
}

impl<T> Queue<T> {
    /// Wake-ups in a lane.
    pub fn depth(&self, lane: Priority) -> usize {
        match self {
            Queue::Local(queue) => queue.depth(lane),
            Queue::Rabbit(rabbit) => rabbit.depth(lane),
        }
    }
}
