//! What the existing system's apps and programs speak, translated to the same use cases: its two hubs
//! and the routes of its API.
//!
//! Names, numbers and spellings in here are theirs and must not be mended. Nothing else knows them.

pub mod hub;

use crate::domain::Status;

/// Where mobile users connect.
pub const MOBILE_HUB: &str = "/online-mobile-user";
/// Where business users connect.
pub const BUSINESS_HUB: &str = "/business-user";

/// A phone number as it is stored there: without the plus sign.
fn phone(e164: &str) -> &str {
    e164.strip_prefix('+').unwrap_or(e164)
}

/// The number of a status there.
fn status(status: Status) -> u8 {
    match status {
        Status::Pending => 0,
        Status::Sent => 1,
        Status::Delivered => 2,
        Status::Read => 3,
        // 4 was "queued", which a message here never is apart from pending.
        Status::Failed => 5,
    }
}
