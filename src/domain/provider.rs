//! External services that jobs need.

use std::time::Duration;

/// An external service; each has a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    /// The mail server.
    Smtp,
}

/// Failures in a row that open the breaker of a gateway for SMS, and for how long.
pub const SMS_BREAKER: (u32, Duration) = (5, Duration::from_secs(60));

impl Provider {
    /// Failures in a row that open its breaker, and for how long.
    pub const fn breaker(self) -> (u32, Duration) {
        match self {
            Provider::Smtp => (5, Duration::from_secs(60)),
        }
    }

    /// The label `kind` of its breaker in metrics, which alerts and dashboards use.
    pub const fn label(self) -> &'static str {
        match self {
            Provider::Smtp => "mail",
        }
    }
}
