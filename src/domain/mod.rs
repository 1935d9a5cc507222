//! The rules of messaging, as plain values and functions.
//!
//! Nothing here does I/O, reads a clock, draws a random number or knows a wire format: time and randomness
//! are arguments and decisions are results, so that every rule can be tested alone. Every other room may use
//! this one; it uses none.
#![deny(missing_docs)]

pub mod audit;
pub mod audit_chain;
pub mod backpressure;
pub mod bounded_map;
pub mod breaker;
pub mod content_policy;
pub mod conversation;
pub mod dead_letter;
pub mod fair_queue;
pub mod feed;
pub mod html;
pub mod ids;
pub mod job;
pub mod limits;
pub mod mail_address;
pub mod message;
pub mod network;
pub mod partitions;
pub mod party;
pub mod permission;
pub mod phone;
pub mod poison;
pub mod process_stats;
pub mod provider;
pub mod rate;
pub mod registration;
pub mod replica;
pub mod retention;
pub mod retry;
pub mod sms;
pub mod status;
pub mod suggestion;
pub mod text;
pub mod timeline;
pub mod trace;
pub mod verdict;
pub mod web_origin;

pub use bounded_map::{BoundedMap, WhenFull};
pub use conversation::{Conversation, ConversationStatus};
pub use dead_letter::DeadLetterClass;
pub use fair_queue::FairQueue;
pub use ids::{ConversationId, DeadLetterId, MessageId, MobileUserId, NodeId, TokenId, UserId};
pub use message::{ContentType, Message, MessageKind, Priority};
pub use party::Party;
pub use permission::{Permission, Permissions};
pub use phone::Phone;
pub use status::Status;
