//! One check and what it found.

use serde::Serialize;

#[derive(Serialize)]
pub(super) struct Check {
    pub(super) check: &'static str,
    pub(super) state: &'static str,
    pub(super) found: String,
    pub(super) remedy: String,
}

pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Check {
    Check { check, state: "ok", found: found.into(), remedy: String::new() }
}

pub(super) fn fail(
    check: &'static str,
    found: impl Into<String>,
    remedy: impl Into<String>,
) -> Check {
    Check { check, state: "FAIL", found: found.into(), remedy: remedy.into() }
}

pub(super) fn warn(
    check: &'static str,
    found: impl Into<String>,
    remedy: impl Into<String>,
) -> Check {
    Check { check, state: "warn", found: found.into(), remedy: remedy.into() }
}
