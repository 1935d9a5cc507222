//! Postgres: the truth, and the only room with SQL in it.
//!
//! A file's statements stand together in one block, each by name ([`statement`]); below it one function a
//! statement, and the mapping of its rows, whose columns are read by name. Decisions are not made here:
//! what a statement needs to know comes in as arguments, the time included, so that what is stored can be
//! told from what was asked.

pub mod accounts;
pub mod audit;
pub mod backup;
pub mod books;
pub mod chat;
pub mod checkup;
pub mod client;
mod conditions;
mod connect;
pub mod conversations;
pub mod dead_letters;
pub mod deleted;
pub mod embedded;
mod erased;
pub mod error;
mod figures;
pub mod idempotency;
pub mod import;
pub mod jobs;
pub mod messages;
pub mod migrate;
pub mod nodes;
pub mod notices;
pub mod numbers;
pub mod outcome;
pub mod personal;
pub mod pool;
mod primary;
pub mod replicas;
pub mod retention;
pub mod rows;
pub mod secrets;
mod shares;
mod slice;
pub mod statement;
pub mod stats;
pub mod story;
pub mod tokens;
pub mod trail;
pub mod versions;

pub use client::{Client, Group, Statements, Transaction};
pub use error::Error;
pub use pool::{PartyStore, Store};
pub use slice::{Cut, LOOKED_AT, Slice};
pub use statement::Statement;
