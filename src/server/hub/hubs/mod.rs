//! The four hubs: a table of methods each, and the handlers behind the rows.

pub mod diagnostic_call;
pub mod diagnostics;
pub mod legacy;
pub mod messages;
pub mod method;
pub mod service;
