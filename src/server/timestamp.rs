//! Timestamps in JSON: RFC 3339 in UTC, always with six fractional digits, so that texts sort as the times do.

use serde::{Deserializer, Serializer, ser::Error as _};
use time::{
    OffsetDateTime, UtcOffset, format_description::StaticFormatDescription,
    macros::format_description,
};

const FORMAT: StaticFormatDescription =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
const TEXT_LEN: usize = "2026-01-31T12:00:00.000000Z".len();

/// # Errors
/// Its year does not have four digits.
fn write(at: OffsetDateTime, text: &mut [u8; TEXT_LEN]) -> Result<&str, time::error::Format> {
    let utc = at.to_offset(UtcOffset::UTC);
    utc.format_into(&mut &mut text[..], FORMAT)?;
    Ok(std::str::from_utf8(text).unwrap_or_default())
}

/// The text of a time; empty if its year does not have four digits.
pub fn text(at: OffsetDateTime) -> String {
    write(at, &mut [0; TEXT_LEN]).unwrap_or_default().to_owned()
}

/// For `#[serde(with)]`.
///
/// # Errors
/// The serializer fails, or the year does not have four digits.
pub fn serialize<S: Serializer>(at: &OffsetDateTime, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(write(*at, &mut [0; TEXT_LEN]).map_err(S::Error::custom)?)
}

/// For `#[serde(with)]`. Accepts every RFC 3339 text.
///
/// # Errors
/// The deserializer fails, or the text is no time.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<OffsetDateTime, D::Error> {
    time::serde::rfc3339::deserialize(from)
}

/// The same for `Option`.
pub mod option {
    use super::{Deserializer, OffsetDateTime, Serializer};

    /// For `#[serde(with)]`.
    ///
    /// # Errors
    /// As of the other.
    pub fn serialize<S: Serializer>(at: &Option<OffsetDateTime>, to: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => super::serialize(at, to),
            None => to.serialize_none(),
        }
    }

    /// For `#[serde(with)]`.
    ///
    /// # Errors
    /// As of the other.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<OffsetDateTime>, D::Error> {
        time::serde::rfc3339::option::deserialize(from)
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_time_has_six_digits_whatever_it_is() {
        for (at, text) in [
            (datetime!(2026-01-31 12:00:00 UTC), "2026-01-31T12:00:00.000000Z"),
            (datetime!(2026-01-31 12:00:00.5 UTC), "2026-01-31T12:00:00.500000Z"),
            (datetime!(2026-01-31 12:00:00.000_001 UTC), "2026-01-31T12:00:00.000001Z"),
            (datetime!(2026-01-31 23:59:59.999_999_999 UTC), "2026-01-31T23:59:59.999999Z"),
            (datetime!(2026-01-31 12:00:00 +3), "2026-01-31T09:00:00.000000Z"),
            (datetime!(0001-01-01 00:00:00 UTC), "0001-01-01T00:00:00.000000Z"),
        ] {
            assert_eq!(write(at, &mut [0; TEXT_LEN]).unwrap(), text);
        }
    }
}
