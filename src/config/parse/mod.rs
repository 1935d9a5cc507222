//! Parsers of values. An error text follows the name of the key.

pub(super) mod login;

use std::{
    fmt::Display, net::SocketAddr, ops::RangeInclusive, path::PathBuf, str::FromStr, time::Duration,
};

use super::{Secret, duration as durations};
use crate::domain::trace::TraceSampler;

/// Upper bound of most timeouts and delays.
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// The value, or an error that names what is expected and the text.
pub(super) fn expected<T>(value: Option<T>, what: impl Display, text: &str) -> Result<T, String> {
    value.ok_or_else(|| format!("must be {what}, not '{text}'"))
}

/// An optional value.
pub(super) fn optional<T>(
    parse: impl Fn(&str) -> Result<T, String>,
) -> impl Fn(&str) -> Result<Option<T>, String> {
    move |text| if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
}

pub(super) fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text))
}

/// A secret; errors must not repeat it.
pub(super) fn secret(text: &str) -> Result<Secret, String> {
    Ok(Secret::new(text.to_owned()))
}

pub(super) fn flag(text: &str) -> Result<bool, String> {
    expected(text.parse().ok(), "true or false", text)
}

/// One of several choices.
pub(super) fn one_of<T: Copy>(
    choices: &'static [(&'static str, T)],
) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        let chosen = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let listed = match words.as_slice() {
            [others @ .., last] if !others.is_empty() => {
                format!("{} or {last}", others.join(", "))
            }
            words => words.concat(),
        };
        expected(chosen, listed, text)
    }
}

pub(super) fn whole<T: FromStr + PartialOrd + Display>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        let value = text.parse().ok().filter(|number| range.contains(number));
        let what = format!("a whole number from {} to {}", range.start(), range.end());
        expected(value, what, text)
    }
}

/// A limit; 0 means none.
pub(super) fn limit<T: From<u32>>(text: &str) -> Result<T, String> {
    let what = format!("a whole number up to {}; 0 for no limit", u32::MAX);
    expected(text.parse::<u32>().ok().map(T::from), what, text)
}

/// A fraction from 0 to 1.
pub(super) fn sampler(text: &str) -> Result<TraceSampler, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    expected(share.map(TraceSampler::new), "a number from 0 to 1", text)
}

/// A duration that is not zero.
pub(super) fn duration(longest: Duration) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| {
        let value = durations::parse(text).filter(|d| !d.is_zero() && *d <= longest);
        let most = durations::format(longest);
        expected(value, format!("a duration such as 250ms, 5s, 10m or 2h, at most {most}"), text)
    }
}

/// A retention; `None` is forever.
pub(super) fn retention(text: &str) -> Result<Option<Duration>, String> {
    if matches!(text, "" | "0") {
        return Ok(None);
    }
    let value = durations::parse(text).filter(|d| !d.is_zero() && *d <= durations::MAX_DURATION);
    expected(value, "a duration such as 90d, at most 36500d; unset or 0 for forever", text)
        .map(Some)
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    expected(text.parse().ok(), "an address and port such as 127.0.0.1:5000", text)
}

/// A list of URLs. A comma may also separate the hosts within one URL.
pub(super) fn urls(text: &str) -> Result<Vec<Secret>, String> {
    let mut urls: Vec<String> = Vec::new();
    for part in text.split([',', '\n']).map(str::trim).filter(|part| !part.is_empty()) {
        match urls.last_mut() {
            Some(last) if !part.contains("://") => {
                last.push(',');
                last.push_str(part);
            }
            _ => urls.push(part.to_owned()),
        }
    }
    Ok(urls.into_iter().map(Secret::new).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_to_choose_from_are_told_as_one_says_them() {
        let told = |choices| one_of::<u8>(choices)("x").unwrap_err();
        assert_eq!(told(&[("a", 1)]), "must be a, not 'x'");
        assert_eq!(told(&[("a", 1), ("b", 2)]), "must be a or b, not 'x'");
        assert_eq!(told(&[("a", 1), ("b", 2), ("c", 3)]), "must be a, b or c, not 'x'");
        assert_eq!(one_of(&[("a", 1), ("b", 2)])("b"), Ok(2));
    }

    #[test]
    fn a_number_is_told_its_range_and_keeps_its_type() {
        assert_eq!(whole(1..=64u16)("64"), Ok(64));
        let told = whole(1..=64u16)("65").unwrap_err();
        assert_eq!(told, "must be a whole number from 1 to 64, not '65'");
        assert_eq!(limit::<u64>("0"), Ok(0));
        assert!(limit::<u64>("4294967296").is_err());
    }

    #[test]
    fn what_is_unset_or_zero_is_kept_for_ever() {
        assert_eq!((retention(""), retention("0")), (Ok(None), Ok(None)));
        assert_eq!(retention("90d"), Ok(Some(90 * DAY)));
        assert!(retention("0s").is_err() && retention("36501d").is_err());
    }
}
