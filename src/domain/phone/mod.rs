//! Phone numbers: parsed once at the border, E.164 everywhere inside.

mod normalize;
mod plan;

use std::{fmt, str::FromStr, sync::Arc};

pub use normalize::normalized;

/// A phone number in E.164, such as `+967771234567`. Cheap to clone.
///
/// `Debug` is masked, because phone numbers are personal data and debug output ends in logs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Phone(Arc<str>);

/// A region whose numbers may be written without the country code, such as `YE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region(phonenumber::country::Id);

/// Why a text is not a phone number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PhoneError {
    /// It is not a number.
    #[error("is not a phone number; write it in international form, such as +967771234567")]
    NotANumber,
    /// It is a decimal, negative or exponential number.
    #[error(
        "is a phone number mangled by a spreadsheet (such as 771234567.0 or 9.67E+11); format the \
         column as text and export again"
    )]
    Spreadsheet,
    /// It is a national number, and no region is configured.
    #[error("has no country code; write it in international form, such as +967771234567")]
    NoCountryCode,
    /// The country code is unknown.
    #[error("has an unknown country code")]
    UnknownCountry,
    /// The country has no numbers of this length.
    #[error("has the wrong length for its country")]
    WrongLength,
    /// The national prefix follows the country code.
    #[error("has a national prefix, such as 0, after its country code; remove the prefix")]
    NationalPrefix,
    /// It is valid with its first digits as a country code, and without.
    #[error(
        "is ambiguous: it is valid with and without a country code; write it in international form, \
         such as +967771234567"
    )]
    Ambiguous,
}

/// An unknown region code.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a region; use a two-letter code such as YE")]
pub struct UnknownRegion(pub String);

impl FromStr for Region {
    type Err = UnknownRegion;
    fn from_str(code: &str) -> Result<Self, Self::Err> {
        let known = code.to_ascii_uppercase().parse().ok().map(Region);
        known
            .filter(|region| plan::knows(region.id()))
            .ok_or_else(|| UnknownRegion(code.to_owned()))
    }
}

impl Region {
    fn id(&self) -> &str {
        self.0.as_ref()
    }

    /// The two-letter code.
    pub fn code(&self) -> &str {
        self.id()
    }
}

/// Maximum length with separators; longer input is refused unread.
const MAX_INPUT_LEN: usize = 40;
/// The same before invisible characters are removed.
const MAX_UNFOLDED_LEN: usize = 200;
/// With fewer digits, the missing country code is not the problem.
const MIN_NATIONAL_DIGITS: usize = 5;
/// This many digits before a dot are not an area code.
const MIN_WHOLE_DIGITS: usize = 7;

/// The parsed input.
struct ParsedInput {
    digits: String,
    /// Whether it begins with `+` or `00`.
    is_international: bool,
    /// Number of digits before a bracketed zero.
    bracketed: Option<usize>,
}

impl ParsedInput {
    fn read(text: &str) -> Result<ParsedInput, PhoneError> {
        if text.len() > MAX_UNFOLDED_LEN {
            return Err(PhoneError::NotANumber);
        }
        let text = normalized(text);
        if text.is_empty() || text.len() > MAX_INPUT_LEN {
            return Err(PhoneError::NotANumber);
        }
        if is_computed(&text) {
            return Err(PhoneError::Spreadsheet);
        }
        // Keypad letters ("+1800FLOWERS") are refused.
        if !text.bytes().all(|c| c.is_ascii_digit() || b" -().+/".contains(&c)) {
            return Err(PhoneError::NotANumber);
        }
        let (before, after) = text.split_once('+').unwrap_or(("", &text));
        if before.bytes().any(|c| c.is_ascii_digit()) || after.contains('+') {
            return Err(PhoneError::NotANumber);
        }
        let spaceless: String = after.chars().filter(|c| *c != ' ').collect();
        let count = |text: &str| text.bytes().filter(u8::is_ascii_digit).count();
        let bracketed = spaceless.find("(0)").and_then(|at| spaceless.get(..at)).map(count);
        let digits: String = after.chars().filter(char::is_ascii_digit).collect();
        Ok(match digits.strip_prefix("00").filter(|_| !text.contains('+')) {
            Some(rest) => ParsedInput {
                digits: rest.to_owned(),
                is_international: true,
                bracketed: bracketed.and_then(|place| place.checked_sub(2)),
            },
            None => ParsedInput { digits, is_international: text.contains('+'), bracketed },
        })
    }
}

/// Whether a normalized text is a decimal, negative or exponential number. A spreadsheet may have lost some of
/// the digits.
pub fn is_computed(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    if text.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
        return true;
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    let text = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => {
            let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            let plain = |c: u8| c.is_ascii_digit() || b".,".contains(&c);
            return digits(exponent) && !number.is_empty() && number.bytes().all(plain);
        }
        None => text,
    };
    // One separator followed by one or two digits, by zeros, or by any digits after as many as a number has:
    // 77.12.34.50 and 030.1234560 are valid ways to write a number.
    text.rsplit_once(['.', ',']).is_some_and(|(whole, part)| {
        let grouped = |c: u8| c.is_ascii_digit() || b" ,".contains(&c);
        let count = whole.bytes().filter(u8::is_ascii_digit).count();
        digits(part)
            && (part.len() <= 2 || part.bytes().all(|c| c == b'0') || count >= MIN_WHOLE_DIGITS)
            && whole.starts_with(|c: char| c.is_ascii_digit())
            && whole.bytes().all(grouped)
    })
}

impl Phone {
    /// Parses a number as people write it: spaces, dashes, a leading `00` or `+`, digits of any script.
    ///
    /// A number with `+` or `00` is parsed without the region, and its digits are not changed. A number is
    /// valid if its country exists and has numbers of that length; assigned ranges are not checked, because
    /// ranges open faster than tables of them are updated.
    ///
    /// # Errors
    /// What is wrong; the text follows the name of the field.
    pub fn parse(text: &str, default_region: Option<Region>) -> Result<Phone, PhoneError> {
        let written = ParsedInput::read(text)?;
        if written.is_international {
            return plan::international(&written.digits, written.bracketed).map(Phone::of_digits);
        }
        if written.digits.len() < MIN_NATIONAL_DIGITS {
            return Err(PhoneError::NotANumber);
        }
        let region = default_region.ok_or(PhoneError::NoCountryCode)?;
        plan::national(&written.digits, region).map(Phone::of_digits)
    }

    /// Parses a number as systems store it: country code and digits, with or without `+`. Otherwise like
    /// [`Phone::parse`].
    ///
    /// # Errors
    /// As [`Phone::parse`]; [`PhoneError::Ambiguous`] for digits that are valid both with a country code and
    /// as a national number of the region.
    pub fn parse_stored(text: &str, default_region: Option<Region>) -> Result<Phone, PhoneError> {
        let digits = normalized(text);
        let bare = !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit());
        let read = Phone::parse(text, default_region);
        let Some(whole) = bare.then(|| plan::international(&digits, None).ok()).flatten() else {
            return read;
        };
        let whole = Phone::of_digits(whole);
        match read {
            Ok(national) if national == whole => Ok(whole),
            // The number is unassigned, and the national one is assigned.
            Ok(national) if !whole.is_assigned() && national.is_assigned() => Ok(national),
            // Known ranges prove nothing: others open.
            Ok(_) | Err(PhoneError::Ambiguous) => Err(PhoneError::Ambiguous),
            Err(_) => Ok(whole),
        }
    }

    fn of_digits(digits: String) -> Phone {
        Phone(format!("+{digits}").into())
    }

    fn is_assigned(&self) -> bool {
        self.0.strip_prefix('+').is_some_and(plan::is_assigned_anywhere)
    }

    /// The number without country code, as E.164 has it: a trunk zero is not part of it.
    pub fn national(&self) -> &str {
        let digits = self.0.strip_prefix('+').unwrap_or(&self.0);
        plan::national_part(digits).unwrap_or(digits)
    }

    /// Why a stored number needs a check, given the `region` configured when it was stored; `None` if it does
    /// not.
    pub fn doubt(&self, region: Option<Region>) -> Option<PhoneIssue> {
        match Phone::parse(&self.0, None) {
            Err(why) => return Some(PhoneIssue::Unreadable(why)),
            Ok(read) if read != *self => return Some(PhoneIssue::ReadAs(read)),
            Ok(_) => {}
        }
        let given = plan::before_mending(self.0.strip_prefix('+')?, region?)?;
        Some(PhoneIssue::MayHaveBeen(Phone::of_digits(given)))
    }

    /// A number from the database, which was parsed before.
    pub fn from_stored(e164: &str) -> Phone {
        Phone(e164.into())
    }

    /// The E.164 text, for the wire and the database, never for a log.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The two-letter code of its country; `None` for a number of no country, such as +800.
    pub fn country(&self) -> Option<&'static str> {
        plan::country_of(self.0.strip_prefix('+')?)
    }

    /// The number for logs: country code and last two digits.
    pub fn masked(&self) -> String {
        let (head, rest) = self.0.split_at(self.0.len().min(4));
        let tail = rest.get(rest.len().saturating_sub(2)..).unwrap_or_default();
        format!("{head}{}{tail}", "*".repeat(rest.len().saturating_sub(2)))
    }
}

/// Why a stored number needs a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PhoneIssue {
    /// It is not a number.
    Unreadable(PhoneError),
    /// It parses as another number.
    ReadAs(Phone),
    /// It may be a mangled form of this number.
    MayHaveBeen(Phone),
}

impl fmt::Debug for Phone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

#[cfg(test)]
mod tests;
