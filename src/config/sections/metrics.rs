//! `metrics.*`: metrics and health for machines.

use std::net::SocketAddr;

use crate::config::{key::default, parse::expected, sections::section::section};

section! {
    /// Metrics and health for machines.
    pub struct MetricsConfig in "metrics." {
        /// Listen address of /metrics and the detailed health pages; off disables them.
        listen: Option<SocketAddr> = default("127.0.0.1:5001") => address_or_off,
    }
}

fn address_or_off(text: &str) -> Result<Option<SocketAddr>, String> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let what = "an address and port such as 127.0.0.1:5001, or off";
    expected(text.parse().ok(), what, text).map(Some)
}
