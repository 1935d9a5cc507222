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
