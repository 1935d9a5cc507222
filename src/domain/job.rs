//! Work that is slow or rare: what kinds there are, and what follows from how an attempt went.

use std::time::Duration;

use time::OffsetDateTime;

use super::DeadLetterClass;

/// A kind of work. A new one needs a variant here and in [`Work`], how that is stored in
/// `store::jobs`, and a performer in `app::jobs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobKind {
    /// A mail to the administrators.
    Mail,
}

impl JobKind {
    /// All of them.
    pub const ALL: [JobKind; 1] = [JobKind::Mail];

    /// The name in SQL, JSON, metrics and on the command line; also the kind of its dead letters.
    pub const fn name(self) -> &'static str {
        match self {
            JobKind::Mail => "mail",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<JobKind> {
        JobKind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// How many run at once in one process.
    pub const fn concurrency(self) -> usize {
        match self {
            JobKind::Mail => 2,
        }
    }

    /// How long whoever takes one may keep it without a word.
    pub const fn lease(self) -> Duration {
        match self {
            JobKind::Mail => Duration::from_secs(60),
        }
    }

    /// Retries before it is given up.
    pub const fn retries(self) -> u32 {
        match self {
            JobKind::Mail => 6,
        }
    }

    /// How long it waits for a provider that cannot be reached before it is given up.
    pub const fn patience(self) -> Duration {
        match self {
            JobKind::Mail => Duration::from_secs(24 * 3600),
        }
    }

    /// After how many failures in a row its provider's breaker opens, and for how long.
    pub const fn breaker(self) -> (u32, Duration) {
        match self {
            JobKind::Mail => (5, Duration::from_secs(60)),
        }
    }
}

/// What a job is to do, with what it takes to do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Send a mail to the administrators.
    Mail {
        /// One line.
        subject: String,
        /// Plain text.
        body: String,
    },
}

impl Work {
    /// Which kind it is.
    pub const fn kind(&self) -> JobKind {
        match self {
            Work::Mail { .. } => JobKind::Mail,
        }
    }
}

/// How an attempt went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempted {
    /// It is done.
    Done,
    /// It failed in a way that may pass.
    Failed {
        /// Where the cause lies.
        class: DeadLetterClass,
        /// What happened.
        reason: String,
    },
    /// It failed in a way that will not pass.
    Rejected {
        /// Where the cause lies.
        class: DeadLetterClass,
        /// What happened.
        reason: String,
    },
    /// The provider could not be reached: nobody's fault, and nobody's attempt.
    Unreachable {
        /// What happened.
        reason: String,
    },
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// It goes.
    Finish,
    /// Again, with so many attempts counted.
    Retry {
        /// Attempts from now on.
        attempts: u32,
        /// The wait before the next.
        after: Duration,
        /// Why.
        reason: String,
    },
    /// To the dead letters.
    Bury {
        /// Where the cause lies.
        class: DeadLetterClass,
        /// Why.
        reason: String,
    },
}

/// The longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(32);

/// What follows from an attempt of a job that had `attempts` before it.
pub fn after(
    kind: JobKind,
    attempts: u32,
    created_at: OffsetDateTime,
    now: OffsetDateTime,
    attempted: Attempted,
) -> Next {
    match attempted {
        Attempted::Done => Next::Finish,
        Attempted::Rejected { class, reason } => Next::Bury { class, reason },
        Attempted::Failed { class, reason } if attempts >= kind.retries() => {
            Next::Bury { class, reason }
        }
        Attempted::Failed { reason, .. } => {
            // 1, 2, 4, 8, 16, 32 s (system.md, part 5).
            let wait = Duration::from_secs(1).saturating_mul(1 << attempts.min(5));
            Next::Retry { attempts: attempts + 1, after: wait.min(LONGEST_WAIT), reason }
        }
        Attempted::Unreachable { reason } if now - created_at > kind.patience() => {
            Next::Bury { class: DeadLetterClass::Provider, reason }
        }
        Attempted::Unreachable { reason } => {
            // The breaker sets the pace; this is for the few failures before it opens.
            Next::Retry { attempts, after: Duration::from_secs(5), reason }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn failed() -> Attempted {
        Attempted::Failed { class: DeadLetterClass::Provider, reason: "no".to_owned() }
    }

    #[test]
    fn six_retries_wait_longer_and_longer_and_then_it_is_given_up() {
        let mut waits = Vec::new();
        let mut attempts = 0;
        loop {
            match after(JobKind::Mail, attempts, START, START, failed()) {
                Next::Retry { attempts: counted, after, .. } => {
                    waits.push(after.as_secs());
                    attempts = counted;
                }
                Next::Bury { class, .. } => {
                    assert_eq!(class, DeadLetterClass::Provider);
                    break;
                }
                Next::Finish => panic!("it failed"),
            }
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn a_provider_that_is_down_burns_no_attempts(attempts in 0u32..7, hours in 0i64..24) {
            let now = START + time::Duration::hours(hours);
            let down = Attempted::Unreachable { reason: String::new() };
            match after(JobKind::Mail, attempts, START, now, down) {
                Next::Retry { attempts: counted, .. } => prop_assert_eq!(counted, attempts),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn a_provider_that_is_down_for_days_is_given_up() {
        let down = Attempted::Unreachable { reason: String::new() };
        let now = START + time::Duration::hours(25);
        assert!(matches!(after(JobKind::Mail, 0, START, now, down), Next::Bury { .. }));
    }
}
