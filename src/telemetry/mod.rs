//! Logs, metrics, traces and service manager notifications.

pub mod log;
pub mod metric_list;
pub mod metrics;
pub mod notify;
mod process;
pub mod traces;
