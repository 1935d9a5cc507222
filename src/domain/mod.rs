//! The rules of messaging, as plain values and functions.
//!
//! Nothing here does I/O, reads a clock, draws a random number or knows a wire format: time and
//! chance come in as arguments and decisions go out as values, so that every rule can be tested by
//! itself. Everything else in the house may use this room; it uses none.

pub mod audit;
pub mod backpressure;
pub mod bounded_map;
pub mod breaker;
pub mod conversation;
pub mod dead_letter;
pub mod fair_queue;
pub mod feed;
pub mod figures;
pub mod ids;
pub mod job;
pub mod limits;
pub mod message;
pub mod nearest;
pub mod network;
pub mod partitions;
pub mod party;
pub mod permission;
pub mod phone;
pub mod provider;
pub mod rate;
pub mod replica;
pub mod retention;
pub mod retry;
pub mod status;
pub mod suspects;
pub mod text;
pub mod trace;
pub mod verdict;

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
