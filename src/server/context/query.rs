//! Query parameters as texts, phone numbers, times and flags.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::RequestContext;
use crate::{
    domain::{Phone, phone::normalized, suggestion::nearest, text::excerpt},
    server::reply::Problem,
};

impl RequestContext {
    /// A decoded query parameter; the last one of a name counts.
    ///
    /// # Errors
    /// It is not valid UTF-8.
    pub fn parameter(&self, name: &'static str) -> Result<Option<String>, Problem> {
        self.parameter_by(name, decode)
    }

    fn parameter_by(
        &self,
        name: &'static str,
        decode: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<String>, Problem> {
        // The existing system ignores case.
        let is_named = |key: &str| key == name || self.is_legacy && key.eq_ignore_ascii_case(name);
        let mut found = None;
        for pair in self.query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if is_named(key) || decode(key).is_some_and(|key| is_named(&key)) {
                found = Some(decode(value).ok_or_else(|| {
                    Problem::field(name, "invalid_encoding", format!("{name} is not valid UTF-8"))
                })?);
            }
        }
        Ok(found)
    }

    /// The text of a phone number. An unencoded plus sign is kept.
    ///
    /// # Errors
    /// It is not valid UTF-8.
    pub fn phone_text(&self, name: &'static str) -> Result<Option<String>, Problem> {
        self.parameter_by(name, decode_number)
    }

    /// A phone number that is valid, or stored as one.
    ///
    /// # Errors
    /// It is none.
    pub fn phone(&self, name: &'static str) -> Result<Option<Phone>, Problem> {
        let Some(text) = self.phone_text(name)? else { return Ok(None) };
        Ok(Some(self.app.identity.parse_stored_phone(name, &text)?))
    }

    /// The text of a time. An unencoded plus sign is kept, because it starts the UTC offset.
    ///
    /// # Errors
    /// It is not valid UTF-8.
    pub fn time_text(&self, name: &'static str) -> Result<Option<String>, Problem> {
        self.parameter_by(name, decode_plainly)
    }

    /// # Errors
    /// It is none.
    pub fn time(&self, name: &'static str) -> Result<Option<OffsetDateTime>, Problem> {
        let Some(text) = self.time_text(name)? else { return Ok(None) };
        read_time(name, &text).map(Some)
    }

    /// # Errors
    /// It is neither true nor false.
    pub fn flag(&self, name: &'static str) -> Result<Option<bool>, Problem> {
        match self.parameter(name)?.as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => {
                Err(Problem::field(name, "unknown", format!("{name} must be true or false")))
            }
        }
    }
}

/// The problem for an unknown query parameter, with a suggestion.
pub fn unknown_parameter(query: &str, known: &[&str]) -> Option<Problem> {
    let names = query.split('&').map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name));
    let unknown = names.filter(|name| !name.is_empty()).find(|name| !known.contains(name))?;
    let name = decode(unknown).unwrap_or_else(|| unknown.to_owned());
    // An encoded name differs as text and is the same name.
    if known.contains(&name.as_str()) {
        return None;
    }
    let name = excerpt(&name);
    let told = match (nearest(&name, known.iter().copied()), known) {
        (Some(near), _) => format!("unknown parameter {name}; did you mean {near}?"),
        (None, []) => format!("unknown parameter {name}; this route has no parameters"),
        (None, known) => {
            format!("unknown parameter {name}; known parameters: {}", known.join(", "))
        }
    };
    Some(Problem::bad_request("unknown_parameter", told))
}

/// Parses a time.
///
/// # Errors
/// It is none; `name` is the parameter or field.
pub fn read_time(name: &'static str, text: &str) -> Result<OffsetDateTime, Problem> {
    OffsetDateTime::parse(text.trim(), &Rfc3339).map_err(|_| {
        let message = format!("{name} must be a time such as 2026-01-31T12:00:00Z");
        Problem::field(name, "invalid_time", message)
    })
}

/// Percent-decodes a text and keeps plus signs.
pub fn decode_plainly(text: &str) -> Option<String> {
    decode(&text.replace('+', "%2B"))
}

/// Decodes a phone number. A plus before the first digit was not encoded, unless that digit is 0: read as a
/// space, the number would belong to another country. A plus between digits is a space.
fn decode_number(text: &str) -> Option<String> {
    let spaced = decode(text)?;
    let (before, after) = text.split_once('+').unwrap_or((text, ""));
    let stands_first = !decode(before)?.contains(char::is_alphanumeric);
    let spaced_after = normalized(&decode(after)?);
    let first = spaced_after.chars().find(|c| c.is_alphanumeric());
    let is_plus =
        stands_first && first.is_some_and(|c| c != '0') && !normalized(&spaced).contains('+');
    Some(if is_plus { format!("+{}", spaced.trim()) } else { spaced })
}

/// Percent-decodes a text; a plus is a space. `None` if the result is not UTF-8.
pub fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = |at: usize| tail.get(at).and_then(|b| char::from(*b).to_digit(16));
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => match (hex(0), hex(1)) {
                (Some(high), Some(low)) => {
                    bytes.push((high * 16 + low) as u8);
                    rest = tail.get(2..).unwrap_or_default();
                }
                _ => bytes.push(b'%'),
            },
            other => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plus_that_is_not_encoded_begins_a_number() {
        for text in [
            "+967771234567",
            "%2B967771234567",
            "+967+77+1234567",
            "+967%2077-1234567",
            "(%2B967)+771234567",
            "(+967)+771234567",
            "%20+967771234567",
            "+%D9%A9%D9%A6%D9%A7771234567",
            "00967771234567",
            "+00967771234567",
            "+%2B967771234567",
            "%EF%BC%8B967771234567",
            "+%EF%BC%8B967771234567",
        ] {
            let read = decode_number(text).unwrap();
            for region in ["DE", "US", "YE"] {
                let phone = Phone::parse(&read, Some(region.parse().unwrap()));
                let phone = phone.unwrap_or_else(|why| panic!("{text}: {read:?} {why}"));
                assert_eq!(phone.as_str(), "+967771234567", "{text}: {read:?}");
            }
        }
        // Elsewhere a plus is a space.
        assert_eq!(decode_number("+0771+234567").as_deref(), Some(" 0771 234567"));
        assert_eq!(decode_number("").as_deref(), Some(""));
        assert_eq!(decode_number("+").as_deref(), Some(" "));
        assert_eq!(decode_number("%ff"), None);
    }

    #[test]
    fn a_plus_that_is_not_encoded_begins_an_offset() {
        let wanted = read_time("since", "2026-01-31T09:00:00Z").unwrap();
        for text in
            ["2026-01-31T12:00:00+03:00", "2026-01-31T12:00:00%2B03:00", "2026-01-31T09:00:00Z"]
        {
            let read = decode_plainly(text).unwrap();
            assert_eq!(read_time("since", &read).unwrap(), wanted, "{text}");
        }
        for bad in ["2026-01-31", "1h", "", "+", "2026-01-31T12:00:00"] {
            assert!(read_time("since", &decode_plainly(bad).unwrap()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_unknown_parameter_is_told_with_its_neighbour() {
        let known = ["limit", "after", "status"];
        let told = |query| unknown_parameter(query, &known).map(|problem| problem.detail);
        assert_eq!(told(""), None);
        assert_eq!(told("limit=2&&after=&st%61tus=sent"), None);
        let near = "unknown parameter limti; did you mean limit?";
        assert_eq!(told("status=sent&limti=2").as_deref(), Some(near));
        let far = "unknown parameter colour; known parameters: limit, after, status";
        assert_eq!(told("colour").as_deref(), Some(far));
        assert!(
            unknown_parameter("x=1", &[]).unwrap().detail.ends_with("this route has no parameters")
        );
        assert!(told(&"y".repeat(5000)).unwrap().len() < 200);
    }

    #[test]
    fn queries_are_decoded() {
        assert_eq!(decode("a%20b+c%2Bd").as_deref(), Some("a b c+d"));
        assert_eq!(decode("100%").as_deref(), Some("100%"));
        assert_eq!(decode("%ff"), None);
    }
}
