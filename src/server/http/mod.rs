//! The HTTP API, one file a noun. A handler takes plain values and returns an answer; it decides
//! nothing.

pub mod admin;
pub mod conversations;
pub mod dead_letters;
pub mod health;
pub mod messages;
pub mod registrations;
pub mod stats;
