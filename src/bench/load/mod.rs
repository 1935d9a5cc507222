//! The load generator: senders over HTTP and recipients over the hub. They are as cheap as possible, because
//! they share the machine with the server that they measure.
//!
//! Knows the API and the hub from outside, as any client does.

mod chat;
mod history_pages;
mod idle_and_pending;
mod plan;
pub mod process_cost;
mod receive;
pub mod results;
mod run;
mod run_state;
mod send;
mod server_address;

pub use chat::{ChatConversation, ChatLoad};
pub use history_pages::{PageResults, read_history};
pub use idle_and_pending::{idle, pending};
pub use plan::{Error, LoadProgress, LoadTarget, Plan};
pub use run::{run, run_chat};
