//! Postgres: the source of truth, and the only room that contains SQL.
//!
//! Each file declares its statements in one block, each with a name ([`statement`]); below it stands one
//! function per statement, with the mapping of its rows. Columns are read by name. No decisions are made
//! here: everything a statement depends on is an argument, also the time.

pub mod access_changes;
pub mod accounts;
pub mod audit;
pub mod audit_chain;
pub mod backup;
pub mod chat;
pub mod client;
mod connect;
mod connection_limiter;
pub mod content_policy;
pub mod conversations;
pub mod dead_letter_digest;
pub mod dead_letters;
pub mod deleted;
pub mod embedded;
mod erasure;
pub mod error;
pub mod idempotency;
pub mod import;
pub mod jobs;
mod list_page;
pub mod message_status;
pub mod messages;
pub mod migrate;
pub mod nodes;
mod password_guard;
pub mod pool;
pub mod presence_log;
mod primary;
pub mod privacy;
mod process_stats;
pub mod reconciliation;
pub mod registration_counts;
pub mod registrations;
pub mod replicas;
pub mod retention;
pub mod roles;
pub mod rows;
pub mod secrets;
pub mod server_checks;
pub mod statement;
mod statement_group;
pub mod stats;
pub mod stored_phones;
pub mod timeline;
pub mod tokens;
pub mod versions;
mod where_clause;

pub use client::{Client, Statements, Transaction};
pub use error::Error;
pub use list_page::{ListPage, MAX_SCANNED_ROWS, ScanPosition};
pub use pool::{PartyStore, Store};
pub use statement::Statement;
pub use statement_group::StatementGroup;
