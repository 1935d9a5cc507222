//! The API of the existing system, translated to the same use cases.
//!
//! Names, numbers and spellings in here are those of the existing system and must not be corrected. Nothing
//! else knows them.

pub mod http;
pub mod registration;
pub mod sanitize;

use super::route::Route;
use crate::domain::{Status, phone::normalized};

/// Hub of mobile users.
pub const MOBILE_HUB: &str = "/online-mobile-user";
/// Hub of business users.
pub const BUSINESS_HUB: &str = "/business-user";

/// Health check.
pub const HEALTH: &str = "/health-status";

/// The path of a legacy route. Case and a trailing slash are ignored.
pub fn address(routes: &'static [Route], path: &str) -> Option<&'static str> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let all = routes.iter().filter(|route| route.is_legacy).map(|route| route.path);
    all.into_iter().find(|known| known.eq_ignore_ascii_case(path))
}

/// Whether a path is under the prefix of the existing API.
pub fn is_address(path: &str) -> bool {
    path.get(..http::BASE.len()).is_some_and(|head| head.eq_ignore_ascii_case(http::BASE))
}

/// A phone number as it is stored there: without the plus sign.
pub(super) fn phone(e164: &str) -> &str {
    e164.strip_prefix('+').unwrap_or(e164)
}

/// Prefixes of mobile numbers in the existing system.
const BEGINNINGS: [&str; 5] = ["70", "71", "73", "77", "78"];

/// A phone number as it is written there, in the form that is understood everywhere: nine digits, or
/// twelve with the country's code, neither with a plus sign. Others are read as elsewhere.
pub(super) fn e164(written: &str) -> String {
    let digits = normalized(written);
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return digits;
    }
    match digits.len() {
        9 if BEGINNINGS.iter().any(|two| digits.starts_with(two)) => format!("+967{digits}"),
        12 if digits.starts_with("967") => format!("+{digits}"),
        _ => digits,
    }
}

/// The number of a status there.
pub(super) fn status(status: Status) -> u8 {
    match status {
        Status::Pending => 0,
        Status::Sent => 1,
        Status::Delivered => 2,
        Status::Read => 3,
        // 4 was "queued", which is pending here.
        Status::Failed => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::routes;

    #[test]
    fn phone_numbers_are_taken_and_given_in_their_form() {
        for (written, expected) in [
            ("771234567", "+967771234567"),
            (" 967771234567 ", "+967771234567"),
            ("+967771234567", "+967771234567"),
            ("٧٧١٢٣٤٥٦٧", "+967771234567"),
            ("９６７７７１２３４５６７\u{200F}", "+967771234567"),
            ("\u{202A}771234567\u{202C}", "+967771234567"),
            ("012345678", "012345678"),
            // In Saudi Arabia.
            ("501234567", "501234567"),
            ("771234567.0", "771234567.0"),
            ("12345", "12345"),
            ("", ""),
        ] {
            assert_eq!(e164(written), expected);
        }
        assert_eq!(phone("+967771234567"), "967771234567");
    }

    #[test]
    fn addresses_are_found_without_case_and_with_a_slash_at_the_end() {
        let send = "/api/app/message/send-one-way-message";
        for path in [
            send,
            "/API/App/Message/Send-One-Way-Message",
            "/api/app/message/SEND-one-way-message/",
        ] {
            assert_eq!(address(routes::all(), path), Some(send), "{path}");
            assert!(is_address(path), "{path}");
        }
        assert_eq!(address(routes::all(), "/Health-Status/"), Some(HEALTH));
        for none in [
            "/api/app/message/",
            "/api/app/message/send-one-way-message//",
            "/api/v1/messages",
            "/é",
        ] {
            assert_eq!(address(routes::all(), none), None, "{none}");
        }
        assert!(is_address("/Api/App/else") && !is_address("/api/v1/messages") && !is_address("/"));
    }

    #[test]
    fn statuses_have_their_old_numbers() {
        let numbers =
            [Status::Pending, Status::Sent, Status::Delivered, Status::Read, Status::Failed];
        assert_eq!(numbers.map(status), [0, 1, 2, 3, 5]);
    }
}
