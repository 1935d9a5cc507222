//! Numbering plans: number lengths and dialling prefixes by country.
//!
//! The tables are from `phonenumber`; its parser is not used: it parses international numbers by the given
//! region's rules, too, removes the country code from national numbers that begin alike (91 in India), and
//! removes a national prefix twice (8 in Russia).

use phonenumber::metadata::{DATABASE, Descriptor, Metadata};

use super::{PhoneError, Region};

/// Maximum number of digits with country code (E.164).
const MAX_DIGITS: usize = 15;
/// Minimum number of digits.
const MIN_DIGITS: usize = 5;

/// A country code and its countries, which may share it.
struct Plan {
    code: u16,
    regions: Vec<&'static Metadata>,
}

impl Plan {
    fn of(code: u16) -> Option<Plan> {
        DATABASE.by_code(&code).map(|regions| Plan { code, regions })
    }

    /// Splits off the country code. No code is a prefix of another.
    fn split(digits: &str) -> Option<(Plan, &str)> {
        // No code begins with 0.
        let digits = Some(digits).filter(|digits| !digits.starts_with('0'))?;
        (1..=3).find_map(|length| {
            let (code, national) = digits.split_at_checked(length)?;
            Some((Plan::of(code.parse().ok()?)?, national))
        })
    }

    fn code_length(&self) -> usize {
        self.code.to_string().len()
    }

    /// Whether numbers that people have, mobile or not, have as many digits: those of the other kinds are few
    /// and of any length, so that with them a number without its area code would be one in Canada. The
    /// lengths that the tables give for all kinds together are empty.
    fn has_length(&self, national: &str) -> bool {
        let possible = |kind: &Descriptor| {
            kind.possible_length().iter().any(|length| usize::from(*length) == national.len())
        };
        let has = |region: &&Metadata| {
            let all = region.descriptors();
            match (all.mobile(), all.fixed_line()) {
                // Codes of no country, such as 800.
                (None, None) => kinds(region).any(possible),
                ordinary => <[_; 2]>::from(ordinary).into_iter().flatten().any(possible),
            }
        };
        self.fits(national) && self.regions.iter().any(has)
    }

    fn fits(&self, national: &str) -> bool {
        self.code_length() + national.len() <= MAX_DIGITS
    }

    /// Whether the tables know the range that it is in. Ranges are opened faster than tables are made, so
    /// of ordinary numbers this only decides between two readings.
    fn is_assigned(&self, national: &str) -> bool {
        self.fits(national) && self.regions.iter().any(|region| is_assigned(region, national))
    }

    /// Whether it is in a range of mobile numbers.
    fn is_mobile(&self, national: &str) -> bool {
        let mobile = |region: &&'static Metadata| {
            region.descriptors().mobile().is_some_and(|kind| is_of(kind, national))
        };
        self.fits(national) && self.regions.iter().any(mobile)
    }
}

/// The descriptions of those kinds of numbers that can be reached from abroad.
fn kinds(region: &Metadata) -> impl Iterator<Item = &Descriptor> {
    let all = region.descriptors();
    let kinds = [
        all.mobile(),
        all.fixed_line(),
        all.toll_free(),
        all.premium_rate(),
        all.shared_cost(),
        all.personal_number(),
        all.voip(),
        all.pager(),
        all.uan(),
        all.voicemail(),
    ];
    kinds.into_iter().flatten()
}

fn is_assigned(region: &Metadata, national: &str) -> bool {
    kinds(region).any(|kind| is_of(kind, national))
}

/// Whether it is a number of a kind, to its last digit: the patterns have no end of their own.
fn is_of(kind: &Descriptor, national: &str) -> bool {
    let whole = |found: usize| found == national.len();
    kind.is_match(national)
        && kind.national_number().find(national).is_some_and(|found| whole(found.end()))
}

/// Reads digits that begin with a country code, and changes none of them: E.164, without the plus sign.
/// `bracketed` is the place of a zero in brackets of its own.
pub(super) fn international(digits: &str, bracketed: Option<usize>) -> Result<String, PhoneError> {
    if digits.len() < MIN_DIGITS {
        return Err(PhoneError::NotANumber);
    }
    let (plan, national) = Plan::split(digits).ok_or(PhoneError::UnknownCountry)?;
    let prefixes = || plan.regions.iter().filter_map(|region| region.national_prefix());
    // "+49 (0)151 …": who writes the brackets says that it is dialled within the country only. In Italy it
    // is dialled from everywhere.
    let national = match bracketed {
        Some(place) if place == plan.code_length() && prefixes().any(|prefix| prefix == "0") => {
            national.strip_prefix('0').unwrap_or(national)
        }
        _ => national,
    };
    // The same zero without brackets. Taking it off is a guess, and a table older than the country's plan
    // would guess wrong.
    let without = |prefix: &str| national.strip_prefix(prefix).is_some_and(|n| plan.is_assigned(n));
    if prefixes().any(without) && !plan.is_assigned(national) {
        return Err(PhoneError::NationalPrefix);
    }
    match plan.has_length(national) || plan.is_assigned(national) {
        true => Ok(format!("{}{national}", plan.code)),
        false => Err(PhoneError::WrongLength),
    }
}

/// Reads digits as they are dialled in a region.
pub(super) fn national(digits: &str, region: Region) -> Result<String, PhoneError> {
    let here = DATABASE.by_id(region.id()).ok_or(PhoneError::NoCountryCode)?;
    let plan = Plan::of(here.country_code()).ok_or(PhoneError::NoCountryCode)?;
    let whole = |national: &str| international(&format!("{}{national}", plan.code), None);
    let plain = unprefixed(here, &plan, digits);
    // The country code without a plus sign.
    let rest = digits.strip_prefix(&plan.code.to_string());
    let shorter = rest.map(|rest| unprefixed(here, &plan, rest)).filter(|rest| *rest != plain);
    let is_short = |of: fn(&Plan, &str) -> bool| shorter.as_ref().is_some_and(|n| of(&plan, n));
    if plan.is_assigned(&plain) {
        // 49151 … is a mobile number of Germany with its code, and a telephone in Leer without.
        let is_other = is_short(Plan::is_mobile) && !plan.is_mobile(&plain);
        // Another country's mobile number whose plus sign is missing: 967771 … is Yemen's, and in Bavaria.
        if !is_other && !plan.is_mobile(&plain) && is_mobile(digits) {
            return Err(PhoneError::Ambiguous);
        }
        return whole(shorter.as_deref().filter(|_| is_other).unwrap_or(&plain));
    }
    if let Some(abroad) = dialled_abroad(here, digits) {
        return Ok(abroad);
    }
    match shorter.as_deref() {
        Some(shorter) if plan.is_assigned(shorter) => whole(shorter),
        Some(_) if plan.has_length(&plain) => Err(PhoneError::Ambiguous),
        Some(shorter) => whole(shorter),
        // Another country's number again.
        None if plan.has_length(&plain) && is_assigned_anywhere(digits) => {
            Err(PhoneError::Ambiguous)
        }
        None => whole(&plain),
    }
}

/// A number abroad as it is dialled in a region, such as 011 49 … in the United States.
fn dialled_abroad(here: &Metadata, digits: &str) -> Option<String> {
    let prefix = here.international_prefix()?.find(digits).filter(|found| found.start() == 0)?;
    international(digits.get(prefix.end()..)?, None).ok()
}

/// A number without what is dialled before it in its own country, as that country's rule says.
fn unprefixed(here: &Metadata, plan: &Plan, digits: &str) -> String {
    let shorter = match here.national_prefix_for_parsing() {
        Some(rule) => rule.captures(digits).and_then(|found| {
            let all = found.get(0).filter(|all| all.start() == 0)?;
            let last = found.len().checked_sub(1).filter(|last| *last > 0);
            let last =
                last.and_then(|last| found.get(last)).is_some_and(|m| !m.as_str().is_empty());
            Some(match here.national_prefix_transform_rule().filter(|_| last) {
                Some(transform) => rule.replace(digits, transform).into_owned(),
                None => digits.get(all.end()..)?.to_owned(),
            })
        }),
        None => here.national_prefix().and_then(|p| digits.strip_prefix(p)).map(str::to_owned),
    };
    // What is a number as it stands only begins like the prefix (800 … in Russia, whose prefix is 8).
    match shorter {
        Some(shorter) if is_assigned(here, &shorter) && plan.fits(&shorter) => shorter,
        Some(shorter) if !plan.is_assigned(digits) && plan.has_length(&shorter) => shorter,
        _ => digits.to_owned(),
    }
}

/// Whether the range of a number is known, given in E.164 without the plus sign.
pub(super) fn is_assigned_anywhere(digits: &str) -> bool {
    Plan::split(digits).is_some_and(|(plan, national)| plan.is_assigned(national))
}

/// The code of the country that a number belongs to: of those that share its country code, the one whose ranges
/// have it, else the main one. `None` for codes of no country.
pub(super) fn country_of(digits: &str) -> Option<&'static str> {
    let (plan, national) = Plan::split(digits)?;
    let owner = plan.regions.iter().find(|region| is_assigned(region, national));
    let region = owner.or(plan.regions.first())?;
    Some(region.id()).filter(|id| id.bytes().all(|c| c.is_ascii_alphabetic()))
}

/// Whether it is in a range of mobile numbers.
pub(super) fn is_mobile(digits: &str) -> bool {
    Plan::split(digits).is_some_and(|(plan, national)| plan.is_mobile(national))
}

/// What versions before this one may have been given when they stored a number of another country:
/// they took the prefix of the region of the configuration off it. Without plus signs.
pub(super) fn before_mending(digits: &str, region: Region) -> Option<String> {
    let prefix = DATABASE.by_id(region.id())?.national_prefix()?;
    let (plan, national) = Plan::split(digits)?;
    let given = format!("{}{prefix}{national}", plan.code);
    let read = phonenumber::parse(Some(region.0), format!("+{given}")).ok()?;
    let stored = read.format().mode(phonenumber::Mode::E164).to_string();
    // In Italy 39… is a mobile number, and 039… another's telephone: of a mobile number it is only said when
    // the other is one too.
    let is_likely = is_mobile(&given) || (is_assigned_anywhere(&given) && !is_mobile(digits));
    (stored.strip_prefix('+') == Some(digits) && is_likely).then_some(given)
}

/// The digits after the country code.
pub(super) fn national_part(digits: &str) -> Option<&str> {
    Plan::split(digits).map(|(_, national)| national)
}

/// Whether there are numbering rules of a region.
pub(super) fn knows(id: &str) -> bool {
    DATABASE.by_id(id).is_some()
}
