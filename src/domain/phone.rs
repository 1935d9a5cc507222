//! Phone numbers: parsed once at the edge, E.164 everywhere inside.

use std::{fmt, str::FromStr, sync::Arc};

/// A phone number in E.164, such as `+967771234567`. Cheap to clone.
///
/// `Debug` is masked, because phone numbers are personal data and debug output ends in logs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Phone(Arc<str>);

/// A region whose national numbers may be written without the country code, such as `YE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region(phonenumber::country::Id);

/// Why something is no phone number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PhoneError {
    /// Nothing that reads as a number.
    #[error("is not a phone number; write it in international form, such as +967771234567")]
    NotANumber,
    /// A national number, and no default region to read it by.
    #[error("has no country code; write it in international form, such as +967771234567")]
    NoCountryCode,
    /// The country has no numbers of this length.
    #[error("has a length that no number of its country has")]
    WrongLength,
}

/// A code that names no region.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no region; use a two-letter code such as YE")]
pub struct UnknownRegion(pub String);

impl FromStr for Region {
    type Err = UnknownRegion;
    fn from_str(code: &str) -> Result<Self, Self::Err> {
        code.to_ascii_uppercase().parse().map(Region).map_err(|_| UnknownRegion(code.to_owned()))
    }
}

/// Longer than any number with separators; refused before it is looked at.
const LONGEST_INPUT: usize = 40;

impl Phone {
    /// Reads a number as a person wrote it, with spaces, dashes, a leading `00` or `+`.
    ///
    /// A number passes whose country exists and has numbers of that length; whether the range is
    /// assigned is not judged, because ranges open faster than any table of them is updated.
    ///
    /// # Errors
    /// What is wrong with it; the texts complete a sentence that begins with the field's name.
    pub fn parse(text: &str, default_region: Option<Region>) -> Result<Phone, PhoneError> {
        let text = text.trim();
        if text.is_empty() || text.len() > LONGEST_INPUT {
            return Err(PhoneError::NotANumber);
        }
        // Letters would be read as a keypad ("+1800FLOWERS"), which nobody who sends messages means.
        if !text.chars().all(|c| c.is_ascii_digit() || " -().+/\u{a0}".contains(c)) {
            return Err(PhoneError::NotANumber);
        }
        let international = text.strip_prefix("00").map(|rest| format!("+{rest}"));
        let text = international.as_deref().unwrap_or(text);
        if !text.starts_with('+') && default_region.is_none() {
            return Err(if text.chars().filter(char::is_ascii_digit).count() >= 5 {
                PhoneError::NoCountryCode
            } else {
                PhoneError::NotANumber
            });
        }
        let number = phonenumber::parse(default_region.map(|region| region.0), text)
            .map_err(|_| PhoneError::NotANumber)?;
        let written = number.format().mode(phonenumber::Mode::E164).to_string();
        let code = number.code().value();
        let national = written.len().saturating_sub(1 + code.to_string().len());
        let possible = phonenumber::metadata::DATABASE.by_code(&code).is_some_and(|regions| {
            regions.iter().any(|region| {
                region
                    .descriptors()
                    .general()
                    .possible_length()
                    .iter()
                    .any(|length| usize::from(*length) == national)
            })
        });
        if possible || phonenumber::is_valid(&number) {
            Ok(Phone(written.into()))
        } else {
            Err(PhoneError::WrongLength)
        }
    }

    /// Takes a number that was parsed before it was stored.
    pub fn from_stored(e164: &str) -> Phone {
        Phone(e164.into())
    }

    /// The E.164 text. For the wire and the database, never for a log.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number as logs may show it: the country and the last two digits.
    pub fn masked(&self) -> String {
        let (head, rest) = self.0.split_at(self.0.len().min(4));
        let tail = rest.get(rest.len().saturating_sub(2)..).unwrap_or_default();
        format!("{head}{}{tail}", "*".repeat(rest.len().saturating_sub(2)))
    }
}

impl fmt::Debug for Phone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn yemen() -> Option<Region> {
        Some("ye".parse().unwrap())
    }

    #[test]
    fn the_usual_ways_to_write_one_number() {
        for text in ["+967771234567", "+967 77 123 4567", "00967771234567", " +967-77-1234567 "] {
            assert_eq!(Phone::parse(text, None).unwrap().as_str(), "+967771234567", "{text}");
        }
        assert_eq!(Phone::parse("771234567", yemen()).unwrap().as_str(), "+967771234567");
        assert_eq!(Phone::parse("+49 151 23456789", yemen()).unwrap().as_str(), "+4915123456789");
    }

    #[test]
    fn what_is_no_number_is_refused() {
        assert_eq!(Phone::parse("771234567", None), Err(PhoneError::NoCountryCode));
        for text in ["", "abc", "+", "123", "+1", "+abc", "+9677712x4567", "0", &"1".repeat(60)] {
            assert_eq!(Phone::parse(text, None), Err(PhoneError::NotANumber), "{text}");
        }
        for text in ["+96777", "+9677712345678901", "+999123456789"] {
            assert!(Phone::parse(text, None).is_err(), "{text}");
        }
        assert!(Phone::parse("+967771234567\0", None).is_err());
    }

    #[test]
    fn debug_shows_no_number() {
        let phone = Phone::parse("+967771234567", None).unwrap();
        assert_eq!(format!("{phone:?}"), "+967*******67");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn no_input_panics_and_what_passes_is_e164(text in ".{0,50}", digits in "\\+?[0-9 ()-]{0,20}") {
            for candidate in [text, digits] {
                if let Ok(phone) = Phone::parse(&candidate, yemen()) {
                    prop_assert!(phone.as_str().starts_with('+'));
                    prop_assert!(phone.as_str()[1..].bytes().all(|b| b.is_ascii_digit()));
                    prop_assert!(phone.as_str().len() <= 18);
                    // Parsing what was stored gives the same again.
                    prop_assert_eq!(Phone::parse(phone.as_str(), None), Ok(phone.clone()));
                }
            }
        }
    }
}
