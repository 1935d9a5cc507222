//! What the appliance says about itself: logs, metrics, traces, and words to the service manager.

pub mod log;
pub mod metrics;
pub mod notify;
pub mod traces;
