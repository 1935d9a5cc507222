//! Load, and what came of it: senders over HTTP, recipients over the hub, as cheap as they can be
//! made, because they share the machine with what they measure.
//!
//! This room knows the API and the hub from outside, as any client does.

mod connect;
pub mod figures;
pub mod processes;
mod receive;
mod run;
mod send;
mod waiting;

pub use run::{Error, Plan, Progress, Target, run};
pub use waiting::{idle, pending};
