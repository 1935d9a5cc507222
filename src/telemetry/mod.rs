//! What the appliance says about itself: logs, metrics, traces, and words to the service manager.

pub mod log;
pub mod metrics;
pub mod notify;
mod process;
pub mod traces;
