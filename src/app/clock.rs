//! The time, as it is stored: UTC with microseconds.

use time::OffsetDateTime;

/// Now, cut to the microseconds that the database keeps, so that an answer shows the same time as a
/// later read.
pub fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_microsecond(now.microsecond()).unwrap_or(now)
}
