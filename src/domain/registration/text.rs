//! The text that carries a code.

use super::{AppPlatform, OtpRules, TextLocale};

/// Where the code stands in a configured text.
pub const CODE_PLACE: &str = "{code}";

/// The text for a phone. What a system looks for is its last line: on Android the app's hash, in browsers the
/// origin with the code.
pub fn message(
    rules: &OtpRules,
    locale: TextLocale,
    platform: Option<AppPlatform>,
    code: &str,
) -> String {
    let text = rules.template(locale).replace(CODE_PLACE, code);
    match (platform, &rules.android_hash, &rules.web_origin) {
        (Some(AppPlatform::Android), Some(hash), _) => format!("{text}\n{hash}"),
        (Some(AppPlatform::Web), _, Some(origin)) => format!("{text}\n\n@{origin} #{code}"),
        _ => text,
    }
}

/// The subject of a mail, which never has the code: subjects are shown on locked screens and logged.
pub const fn mail_subject(locale: TextLocale) -> &'static str {
    match locale {
        TextLocale::Arabic => "رمز التسجيل",
        TextLocale::English => "Your registration code",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rules() -> OtpRules {
        OtpRules {
            countries: Vec::new(),
            ttl: Duration::from_secs(300),
            daily_budget: 1,
            per_address_hour: 1,
            per_phone_hour: 1,
            per_phone_day: 1,
            per_prefix_hour: 1,
            per_country_hour: 1,
            log_codes: false,
            android_hash: Some("FA+9qCX9VSu".to_owned()),
            web_origin: Some("example.com".to_owned()),
            locale: TextLocale::English,
            text_en: "{code} is your code".to_owned(),
            text_ar: "رمزك {code}".to_owned(),
        }
    }

    #[test]
    fn the_last_line_is_what_the_platform_looks_for() {
        let text = |locale, platform| message(&rules(), locale, platform, "012345");
        assert_eq!(text(TextLocale::English, None), "012345 is your code");
        assert_eq!(text(TextLocale::English, Some(AppPlatform::Ios)), "012345 is your code");
        assert_eq!(text(TextLocale::Arabic, None), "رمزك 012345");
        let android = text(TextLocale::Arabic, Some(AppPlatform::Android));
        assert_eq!(android, "رمزك 012345\nFA+9qCX9VSu");
        let web = text(TextLocale::English, Some(AppPlatform::Web));
        assert_eq!(web.lines().last(), Some("@example.com #012345"));
        let plain = OtpRules { android_hash: None, web_origin: None, ..rules() };
        for platform in AppPlatform::ALL {
            let text = message(&plain, TextLocale::English, Some(platform), "012345");
            assert_eq!(text, "012345 is your code");
        }
    }

    #[test]
    fn a_subject_has_no_digit() {
        for locale in TextLocale::ALL {
            assert!(!mail_subject(locale).contains(|c: char| c.is_ascii_digit()));
        }
    }
}
