//! The services outside the installation that jobs need.

use std::time::Duration;

/// A service that jobs need; each has a circuit breaker of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    /// The mail server.
    Smtp,
}

impl Provider {
    /// After how many failures in a row its breaker opens, and for how long.
    pub const fn breaker(self) -> (u32, Duration) {
        match self {
            Provider::Smtp => (5, Duration::from_secs(60)),
        }
    }

    /// The label `kind` of its breaker in the metrics: alerts and dashboards know it.
    pub const fn label(self) -> &'static str {
        match self {
            Provider::Smtp => "mail",
        }
    }
}
