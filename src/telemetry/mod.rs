//! Logs, metrics, traces and service manager notifications.

pub mod log;
pub mod metrics;
pub mod notify;
mod process;
pub mod traces;
