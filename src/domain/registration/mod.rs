//! Registration of a phone by a one-time code: its rules, as values and functions.

pub mod counts;
pub mod text;

use std::time::Duration;

use time::OffsetDateTime;

use self::counts::SendLimits;
use super::phone::Region;

/// Guesses at one code that are judged.
pub const MAX_TRIES: i32 = 5;
/// A code with less life than this is not sent again: a new one is made.
const MIN_REPEATED_LIFE: Duration = Duration::from_secs(60);
/// Between a send and the next resend, by the number of sends; the last one also after all further sends.
const RESEND_WAITS: [Duration; 4] = [
    Duration::from_secs(60),
    Duration::from_secs(120),
    Duration::from_secs(300),
    Duration::from_secs(600),
];

/// The way on which a code was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeRoute {
    /// A text message to the phone.
    Sms,
    /// A mail to the address stored for the number.
    Email,
}

impl CodeRoute {
    /// All of them.
    pub const ALL: [CodeRoute; 2] = [CodeRoute::Sms, CodeRoute::Email];

    /// The name in JSON and SQL.
    pub const fn name(self) -> &'static str {
        match self {
            CodeRoute::Sms => "sms",
            CodeRoute::Email => "email",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<CodeRoute> {
        CodeRoute::ALL.into_iter().find(|route| route.name() == name)
    }
}

/// Where the app that registers runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppPlatform {
    /// Android.
    Android,
    /// An iPhone or iPad.
    Ios,
    /// A browser.
    Web,
}

impl AppPlatform {
    /// All of them.
    pub const ALL: [AppPlatform; 3] = [AppPlatform::Android, AppPlatform::Ios, AppPlatform::Web];

    /// The name in JSON and SQL.
    pub const fn name(self) -> &'static str {
        match self {
            AppPlatform::Android => "android",
            AppPlatform::Ios => "ios",
            AppPlatform::Web => "web",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<AppPlatform> {
        AppPlatform::ALL.into_iter().find(|platform| platform.name() == name)
    }
}

/// The language of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextLocale {
    /// Arabic.
    Arabic,
    /// English.
    English,
}

impl TextLocale {
    /// All of them.
    pub const ALL: [TextLocale; 2] = [TextLocale::Arabic, TextLocale::English];

    /// The name in JSON and SQL.
    pub const fn name(self) -> &'static str {
        match self {
            TextLocale::Arabic => "ar",
            TextLocale::English => "en",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<TextLocale> {
        TextLocale::ALL.into_iter().find(|locale| locale.name() == name)
    }
}

/// The configured rules, `otp.*`.
#[derive(Clone, Debug)]
pub struct OtpRules {
    /// Countries whose numbers may register; empty: those that the default region says.
    pub countries: Vec<Region>,
    /// The life of a code.
    pub ttl: Duration,
    /// Sends a day in all.
    pub daily_budget: u32,
    /// Sends an hour that one client address asked for.
    pub per_address_hour: u32,
    /// Sends an hour to one phone.
    pub per_phone_hour: u32,
    /// Sends a day to one phone.
    pub per_phone_day: u32,
    /// Sends an hour to numbers that differ in the last four digits only.
    pub per_prefix_hour: u32,
    /// Sends an hour to one country.
    pub per_country_hour: u32,
    /// Whether codes are logged where neither a gateway nor a mail server is configured.
    pub log_codes: bool,
    /// The last line of a text for Android, by which the system finds the app.
    pub android_hash: Option<String>,
    /// The host in the last line of a text for browsers.
    pub web_origin: Option<String>,
    /// The language where nothing else says one.
    pub locale: TextLocale,
    /// The English text.
    pub text_en: String,
    /// The Arabic text.
    pub text_ar: String,
}

impl OtpRules {
    /// The limits on sends.
    pub const fn limits(&self) -> SendLimits {
        SendLimits {
            daily_budget: self.daily_budget,
            per_address_hour: self.per_address_hour,
            per_phone_hour: self.per_phone_hour,
            per_phone_day: self.per_phone_day,
            per_prefix_hour: self.per_prefix_hour,
            per_country_hour: self.per_country_hour,
        }
    }

    /// Whether numbers of a country may register. Without a list and without a default region all may.
    pub fn allows(&self, country: &str, default_region: Option<Region>) -> bool {
        match (self.countries.as_slice(), default_region) {
            ([], None) => true,
            ([], Some(region)) => region.code() == country,
            (countries, _) => countries.iter().any(|region| region.code() == country),
        }
    }

    /// The text with the place for the code.
    pub fn template(&self, locale: TextLocale) -> &str {
        match locale {
            TextLocale::Arabic => &self.text_ar,
            TextLocale::English => &self.text_en,
        }
    }
}

/// How long after the last of `sends` sends the next resend may be asked for.
pub fn resend_wait(sends: u32) -> Duration {
    let last = RESEND_WAITS.len() - 1;
    let at = usize::try_from(sends.saturating_sub(1)).unwrap_or(last).min(last);
    RESEND_WAITS.get(at).copied().unwrap_or_default()
}

/// Whether a code that is not used is sent again: it has a minute of life left, and tries.
pub fn is_repeated(expires_at: OffsetDateTime, tries: i32, now: OffsetDateTime) -> bool {
    tries < MAX_TRIES && expires_at - now >= MIN_REPEATED_LIFE
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waits_grow_and_stay_at_ten_minutes() {
        let waits: Vec<u64> = (1..=6).map(|sends| resend_wait(sends).as_secs()).collect();
        assert_eq!(waits, [60, 120, 300, 600, 600, 600]);
        assert_eq!(resend_wait(0), resend_wait(1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn a_code_is_repeated_while_it_has_a_minute_and_a_try(left in -600i64..600, tries in 0i32..9) {
            let now = OffsetDateTime::UNIX_EPOCH;
            let repeated = is_repeated(now + time::Duration::seconds(left), tries, now);
            prop_assert_eq!(repeated, left >= 60 && tries < 5);
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for route in CodeRoute::ALL {
            assert_eq!(CodeRoute::parse(route.name()), Some(route));
        }
        for platform in AppPlatform::ALL {
            assert_eq!(AppPlatform::parse(platform.name()), Some(platform));
        }
        for locale in TextLocale::ALL {
            assert_eq!(TextLocale::parse(locale.name()), Some(locale));
        }
        assert_eq!(CodeRoute::parse("voice"), None);
    }
}
