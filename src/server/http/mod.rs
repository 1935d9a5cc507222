//! The handlers of the HTTP API, a file per resource. They translate between JSON and use cases; the rules are
//! in `app`.

pub mod admin;
pub mod conversations;
pub mod dead_letters;
pub mod health;
pub mod messages;
pub mod stats;
