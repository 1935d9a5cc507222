//! Where traces go.

use super::Reader;
use crate::config::Traces;

impl Reader {
    pub(super) fn traces(&mut self) -> Option<Traces> {
        let endpoint = self.text("traces.endpoint");
        if !endpoint.is_empty() {
            let address = ["http://", "https://"].iter().find_map(|s| endpoint.strip_prefix(s));
            let good = address.is_some_and(|address| {
                !address.is_empty()
                    && !address.starts_with('/')
                    && !address.contains(['@', '?', '#', ','])
                    && !address.contains(char::is_whitespace)
            });
            if !good {
                // Without the value: somebody may have written a password into it.
                let wanted = "must be an address such as http://127.0.0.1:4318, without a login; \
                              headers come from OTEL_EXPORTER_OTLP_HEADERS";
                self.fault("traces.endpoint", wanted.to_owned());
            }
        }
        let sample = self.share("traces.sample");
        (!endpoint.is_empty()).then_some(Traces { endpoint, sample })
    }

    /// A share of all messages.
    pub(super) fn share(&mut self, key: &str) -> f64 {
        let share = self.value(key, "a number from 0 to 1", |text| {
            text.parse().ok().filter(|share| (0.0..=1.0).contains(share))
        });
        share.unwrap_or_default()
    }
}
