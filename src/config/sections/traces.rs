//! `traces.*`: traces of messages.

use crate::{
    config::{
        key::{default, unset},
        parse::{optional, sampler},
        sections::section::section,
    },
    domain::trace::TraceSampler,
};

section! {
    /// Traces of messages; without an endpoint there are none.
    pub struct TracesConfig in "traces." {
        /// OTLP/HTTP endpoint of a trace collector, such as http://127.0.0.1:4318. Unset: no tracing.
        endpoint: Option<String> = unset("http://127.0.0.1:4318") => optional(collector),
        /// Fraction of messages that are traced, 0 to 1.
        sample: TraceSampler = default("0.01") => sampler,
    }
}

fn collector(endpoint: &str) -> Result<String, String> {
    let address = ["http://", "https://"].iter().find_map(|scheme| endpoint.strip_prefix(scheme));
    let good = address.is_some_and(|address| {
        !address.is_empty()
            && !address.starts_with('/')
            && !address.contains(['@', '?', '#', ','])
            && !address.contains(char::is_whitespace)
    });
    if good {
        return Ok(endpoint.to_owned());
    }
    // Without the value: somebody may have written a password into it.
    Err("must be an address such as http://127.0.0.1:4318, without a login; headers come from \
         OTEL_EXPORTER_OTLP_HEADERS"
        .to_owned())
}
