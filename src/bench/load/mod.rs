//! Load, and what came of it: senders over HTTP, recipients over the hub, as cheap as they can be
//! made, because they share the machine with what they measure.
//!
//! This room knows the API and the hub from outside, as any client does.

mod connect;
pub mod figures;
mod pages;
mod plan;
pub mod processes;
mod receive;
mod run;
mod send;
mod talk;
mod waiting;

pub use pages::{Pages, pages};
pub use plan::{Error, Plan, Progress, Target};
pub use run::{run, talk};
pub use talk::{Chat, Talk};
pub use waiting::{idle, pending};
