//! The administrator's commands: what they ask of the admin API, in this process or of a server elsewhere.

pub(crate) mod audit;
mod audit_chain;
mod audit_reason;
pub(crate) mod backup;
pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod conversations;
pub(crate) mod dlq;
pub(crate) mod drain;
pub mod import;
pub(crate) mod messages;
pub(crate) mod mobiles;
pub(crate) mod policy;
mod privacy;
mod query;
pub(crate) mod secrets;
pub(crate) mod sms;
pub(crate) mod tokens;
pub(crate) mod top;
mod transport;
pub(crate) mod users;
