//! How long things are kept.

use std::time::Duration;

use super::Reader;
use crate::config::duration;

impl Reader {
    /// How long something is kept; `None` is for ever.
    pub(super) fn kept(&mut self, key: &str) -> Option<Duration> {
        let wanted = "a duration such as 90d, at most 36500d; unset or 0 for ever";
        self.value(key, wanted, |text| match text {
            "" | "0" => Some(None),
            text => {
                duration::parse(text).filter(|d| !d.is_zero() && *d <= duration::LONGEST).map(Some)
            }
        })
        .flatten()
    }
}
