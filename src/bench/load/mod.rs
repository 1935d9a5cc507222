//! Load, and what came of it: senders over HTTP, recipients over the hub, as cheap as they can be
//! made, because they share the machine with what they measure.
//!
//! This room knows the API and the hub from outside, as any client does.

mod chat;
mod history_pages;
mod idle_and_pending;
mod plan;
pub mod process_cost;
mod receive;
pub mod results;
mod run;
mod send;
mod server_address;

pub use chat::{ChatConversation, ChatLoad};
pub use history_pages::{PageResults, read_history};
pub use idle_and_pending::{idle, pending};
pub use plan::{Error, LoadProgress, LoadTarget, Plan};
pub use run::{run, run_chat};
