//! Named places at which a test lets the process die, as `kill -9` would.
//!
//! Off unless `ESH3AR_FAILPOINT` names one, and not there at all in a release build: what is not
//! asked for costs a look at a `None`.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// The places of messages: each step of one between two things that may or may not have happened.
pub const NAMES: &[&str] = &[
    "intake_before_insert",
    "intake_after_commit",
    "intake_after_answer",
    "deliver_taken",
    "deliver_handed_over",
    "socket_before_write",
    "socket_after_write",
    "ledger_before_write",
    "ledger_after_commit",
    "ledger_after_sent",
    "ledger_after_retry",
    "ledger_after_give_up",
    "sweep_after_take",
    "jobs_taken",
    "jobs_performed",
    "notices_before_commit",
];

/// The places of registrations.
pub const REGISTRATION_NAMES: &[&str] =
    &["registration_before_commit", "registration_before_verified"];

fn all() -> impl Iterator<Item = &'static str> {
    NAMES.iter().chain(REGISTRATION_NAMES).copied()
}

/// The place at which this process dies, if any.
#[derive(Clone, Default)]
pub struct Failpoints {
    armed: Option<Arc<Armed>>,
}

struct Armed {
    name: &'static str,
    left: AtomicU64,
}

impl fmt::Debug for Failpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.armed.as_ref().map_or("none", |armed| armed.name))
    }
}

impl Failpoints {
    /// Reads `name` or `name@n`: die at the nth time the place is passed. Release builds know none.
    ///
    /// # Errors
    /// The text, if it names no place.
    pub fn parse(text: &str) -> Result<Failpoints, String> {
        let (name, nth) = text.split_once('@').unwrap_or((text, "1"));
        let known = all().find(|known| *known == name);
        let (Some(name), Ok(left), true) = (known, nth.parse::<u64>(), cfg!(debug_assertions))
        else {
            return Err(text.to_owned());
        };
        let armed = Armed { name, left: AtomicU64::new(left.max(1)) };
        Ok(Failpoints { armed: Some(Arc::new(armed)) })
    }

    pub fn pass(&self, name: &'static str) {
        debug_assert!(all().any(|known| known == name), "{name} is not in the list");
        if let Some(armed) = &self.armed
            && armed.name == name
            && armed.left.fetch_sub(1, Ordering::AcqRel) == 1
        {
            std::process::abort();
        }
    }
}
