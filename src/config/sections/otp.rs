//! `otp.*`: registration by one-time code.

use std::time::Duration;

use crate::{
    config::{
        key::{default, unset},
        parse::{duration, expected, flag, one_of, optional, whole},
        sections::section::section,
    },
    domain::{
        phone::Region,
        registration::{OtpRules, TextLocale, text::CODE_PLACE},
    },
};

const MAX_TTL: Duration = Duration::from_secs(600);
/// Android looks for a hash of this length.
const ANDROID_HASH_LEN: usize = 11;
/// In characters.
const MAX_TEXT_LEN: usize = 300;

section! {
    fill OtpRules in "otp." {
        /// Countries whose numbers may register, as two-letter codes. Unset: the country of
        /// phone.default_region; if that is unset too, all countries.
        countries = unset("[\"YE\", \"SA\"]").reloadable() => countries,
        /// How long a code is valid, from 1s to 10m.
        ttl = default("5m").reloadable() => ttl,
        /// Maximum number of codes sent in a day, counted from midnight UTC.
        daily_budget = default("5000").reloadable() => whole(1..=100_000_000),
        /// Maximum number of codes sent in an hour at the request of one client address (IPv6: one /64
        /// network). A verified code does not count.
        per_address_hour = default("10").reloadable() => whole(1..=100_000_000),
        /// Maximum number of codes sent in an hour to one phone number.
        per_phone_hour = default("5").reloadable() => whole(1..=100_000_000),
        /// Maximum number of codes sent in 24 hours to one phone number.
        per_phone_day = default("10").reloadable() => whole(1..=100_000_000),
        /// Maximum number of codes sent in an hour to phone numbers that differ only in their last four digits.
        per_prefix_hour = default("20").reloadable() => whole(1..=100_000_000),
        /// Maximum number of codes sent in an hour to one country.
        per_country_hour = default("500").reloadable() => whole(1..=100_000_000),
        /// Write codes to the log if neither a gateway nor a mail server is configured. Only for development.
        log_codes = default("false").reloadable() => flag,
        /// Hash of the Android app, the last line of texts for Android. Unset: none.
        android_hash = unset("FA+9qCX9VSu").reloadable() => optional(android_hash),
        /// Host of the web app, in the last line of texts for browsers. Unset: none.
        web_origin = unset("example.com").reloadable() => optional(web_origin),
        /// Language of the text if the request names none: en or ar.
        locale = default("en").reloadable() => one_of(&[
            ("en", TextLocale::English),
            ("ar", TextLocale::Arabic),
        ]),
        /// English text. {code} is replaced by the code.
        text_en as "text.en" = default("{code} is your code").reloadable() => text,
        /// Arabic text. {code} is replaced by the code.
        text_ar as "text.ar" = default("رمزك {code}").reloadable() => text,
    }
}

fn countries(text: &str) -> Result<Vec<Region>, String> {
    let codes = text.split(',').map(str::trim).filter(|code| !code.is_empty());
    codes
        .map(|code| expected(code.parse().ok(), "two-letter country codes such as YE", code))
        .collect()
}

fn ttl(text: &str) -> Result<Duration, String> {
    let life = duration(MAX_TTL)(text)?;
    expected(Some(life).filter(|life| life.as_secs() >= 1), "a duration from 1s to 10m", text)
}

fn android_hash(text: &str) -> Result<String, String> {
    let signs = |text: &str| text.bytes().all(|c| c.is_ascii_alphanumeric() || b"+/".contains(&c));
    let hash = Some(text).filter(|text| text.len() == ANDROID_HASH_LEN && signs(text));
    expected(hash.map(str::to_owned), "the 11 characters of an app's hash", text)
}

fn web_origin(text: &str) -> Result<String, String> {
    let signs = |text: &str| text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-.".contains(&c));
    let host = Some(text).filter(|text| signs(text) && text.contains('.') && text.len() <= 253);
    expected(host.map(str::to_owned), "a host name such as example.com", text)
}

fn text(text: &str) -> Result<String, String> {
    if text.matches(CODE_PLACE).count() != 1 {
        return Err("must contain {code} once".to_owned());
    }
    if text.chars().count() > MAX_TEXT_LEN {
        return Err(format!("must have at most {MAX_TEXT_LEN} characters"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_texts_are_checked() {
        let codes: Vec<String> =
            countries("YE, sa").unwrap().iter().map(|region| region.code().to_owned()).collect();
        assert_eq!(codes, ["YE", "SA"]);
        assert!(countries("").unwrap().is_empty());
        assert!(countries("YE,Yemen").is_err());
        assert_eq!(ttl("1s").unwrap(), Duration::from_secs(1));
        assert!(ttl("500ms").is_err() && ttl("11m").is_err());
        assert!(android_hash("FA+9qCX9VSu").is_ok() && android_hash("short").is_err());
        assert!(web_origin("example.com").is_ok() && web_origin("https://example.com").is_err());
        assert!(
            text("{code}").is_ok() && text("no code").is_err() && text("{code}{code}").is_err()
        );
    }
}
