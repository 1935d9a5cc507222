//! Background jobs: their kinds, and the transition after an attempt.

use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use super::{DeadLetterClass, provider::Provider};

/// Properties of a kind of job.
struct Properties {
    name: &'static str,
    concurrency: usize,
    lease: Duration,
    retries: u32,
    provider_timeout: Duration,
    providers: &'static [Provider],
}

/// Declares the kinds of jobs: for each its name, the fields of its payload, the provider whose circuit
/// breaker it needs, if any (which may depend on the fields), and its properties. Fields are stored as text, so their types need `Display` and
/// `FromStr`.
macro_rules! job_kinds {
    ($(
        $(#[$doc:meta])*
        $kind:ident {
            $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
        } by $provider:expr => $properties:expr,
    )*) => {
        /// A kind of job.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum JobKind {
            $($(#[$doc])* $kind,)*
        }

        /// The payload of a job.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum JobPayload {
            $($(#[$doc])* $kind { $($(#[$field_doc])* $field: $type,)* },)*
        }

        impl JobKind {
            /// All of them.
            pub const ALL: [JobKind; [$(JobKind::$kind),*].len()] = [$(JobKind::$kind),*];

            const fn properties(self) -> &'static Properties {
                match self {
                    $(JobKind::$kind => const { &$properties },)*
                }
            }
        }

        impl JobPayload {
            /// Which kind it is.
            pub const fn kind(&self) -> JobKind {
                match self {
                    $(JobPayload::$kind { .. } => JobKind::$kind,)*
                }
            }

            /// The provider whose circuit breaker it waits for; `None` if it waits for none.
            pub const fn provider(&self) -> Option<Provider> {
                match self {
                    $(JobPayload::$kind { $($field),* } => {
                        $(let _ = $field;)*
                        $provider
                    })*
                }
            }

            /// Its fields by name, as they are stored.
            pub fn fields(&self) -> Vec<(&'static str, String)> {
                match self {
                    $(JobPayload::$kind { $($field),* } => {
                        vec![$((stringify!($field), $field.to_string())),*]
                    })*
                }
            }

            /// Reads what [`JobPayload::fields`] gave; `None` when a field is missing or cannot be read, which
            /// another version may have written.
            pub fn from_fields<'a>(
                kind: JobKind,
                field: impl Fn(&'static str) -> Option<&'a str>,
            ) -> Option<JobPayload> {
                Some(match kind {
                    $(JobKind::$kind => JobPayload::$kind {
                        $($field: field(stringify!($field))?.parse().ok()?,)*
                    },)*
                })
            }
        }
    };
}

// A new kind needs an entry here and a performer in `app::jobs`.
job_kinds! {
    /// A mail to the administrators.
    Mail {
        /// One line.
        subject: String,
        /// Plain text.
        body: String,
    } by Some(Provider::Smtp) => Properties {
        name: "mail",
        concurrency: 2,
        lease: Duration::from_secs(60),
        retries: 6,
        provider_timeout: Duration::from_secs(24 * 3600),
        providers: &[Provider::Smtp],
    },
    /// The code of a registration, through the channel that is configured. It waits for no breaker: each channel
    /// has its own, and its attempts end with the life of the code.
    Otp {
        /// The registration; the code is derived when it is sent.
        registration: Uuid,
    } by None => Properties {
        name: "otp",
        concurrency: 8,
        lease: Duration::from_secs(60),
        // More than fit into the longest life of a code.
        retries: 60,
        provider_timeout: Duration::from_secs(600),
        providers: &[],
    },
}

impl JobKind {
    /// The name in SQL, JSON, metrics and on the command line; also the kind of its dead letters.
    pub const fn name(self) -> &'static str {
        self.properties().name
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<JobKind> {
        JobKind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Maximum concurrency per process.
    pub const fn concurrency(self) -> usize {
        self.properties().concurrency
    }

    /// Lease of a claimed job without renewal.
    pub const fn lease(self) -> Duration {
        self.properties().lease
    }

    /// Retries before it fails.
    pub const fn retries(self) -> u32 {
        self.properties().retries
    }

    /// How long it waits for an unreachable provider before it fails.
    pub const fn provider_timeout(self) -> Duration {
        self.properties().provider_timeout
    }

    /// The providers of its jobs; empty if they are only known per job.
    pub const fn providers(self) -> &'static [Provider] {
        self.properties().providers
    }
}

/// The outcome of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobOutcome {
    /// Done.
    Done,
    /// A transient failure.
    Failed {
        /// Where the cause lies.
        class: DeadLetterClass,
        /// What happened.
        reason: String,
    },
    /// A permanent failure.
    Rejected {
        /// Where the cause lies.
        class: DeadLetterClass,
        /// What happened.
        reason: String,
    },
    /// The provider is unreachable: not counted as an attempt.
    Unreachable {
        /// What happened.
        reason: String,
    },
}

/// The transition after an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobTransition {
    /// Delete the job.
    Finish,
    /// Try again, with this number of attempts counted.
    Retry {
        /// Attempts from now on.
        attempts: u32,
        /// The wait before the next.
        after: Duration,
        /// Why.
        reason: String,
    },
    /// Move it to the dead letters.
    Bury {
        /// Where the cause lies.
        class: DeadLetterClass,
        /// Why.
        reason: String,
    },
}

/// The longest wait between two attempts.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(32);

/// The transition of a job that had `attempts` before this one.
pub fn after_attempt(
    kind: JobKind,
    attempts: u32,
    created_at: OffsetDateTime,
    now: OffsetDateTime,
    attempted: JobOutcome,
) -> JobTransition {
    match attempted {
        JobOutcome::Done => JobTransition::Finish,
        JobOutcome::Rejected { class, reason } => JobTransition::Bury { class, reason },
        JobOutcome::Failed { class, reason } if attempts >= kind.retries() => {
            JobTransition::Bury { class, reason }
        }
        JobOutcome::Failed { reason, .. } => {
            // 1, 2, 4, 8, 16, 32 s.
            let wait = Duration::from_secs(1).saturating_mul(1 << attempts.min(5));
            JobTransition::Retry {
                attempts: attempts + 1,
                after: wait.min(MAX_RETRY_DELAY),
                reason,
            }
        }
        JobOutcome::Unreachable { reason } if now - created_at > kind.provider_timeout() => {
            JobTransition::Bury { class: DeadLetterClass::Provider, reason }
        }
        JobOutcome::Unreachable { reason } => {
            // The breaker sets the pace; this covers the few failures before it opens.
            JobTransition::Retry { attempts, after: Duration::from_secs(5), reason }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn failed() -> JobOutcome {
        JobOutcome::Failed { class: DeadLetterClass::Provider, reason: "no".to_owned() }
    }

    #[test]
    fn six_retries_wait_longer_and_longer_and_then_it_is_given_up() {
        let mut waits = Vec::new();
        let mut attempts = 0;
        loop {
            match after_attempt(JobKind::Mail, attempts, START, START, failed()) {
                JobTransition::Retry { attempts: counted, after, .. } => {
                    waits.push(after.as_secs());
                    attempts = counted;
                }
                JobTransition::Bury { class, .. } => {
                    assert_eq!(class, DeadLetterClass::Provider);
                    break;
                }
                JobTransition::Finish => panic!("it failed"),
            }
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn a_provider_that_is_down_burns_no_attempts(attempts in 0u32..7, hours in 0i64..24) {
            let now = START + time::Duration::hours(hours);
            let down = JobOutcome::Unreachable { reason: String::new() };
            match after_attempt(JobKind::Mail, attempts, START, now, down) {
                JobTransition::Retry { attempts: counted, .. } => prop_assert_eq!(counted, attempts),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn work_reads_as_it_was_written(subject: String, body: String) {
            let work = JobPayload::Mail { subject, body };
            let fields = work.fields();
            let field = |name: &str| {
                fields.iter().find(|(of, _)| *of == name).map(|(_, text)| text.as_str())
            };
            prop_assert_eq!(JobPayload::from_fields(work.kind(), field), Some(work.clone()));
            prop_assert_eq!(JobPayload::from_fields(work.kind(), |_| None), None);
            let providers = work.kind().providers();
            prop_assert!(work.provider().is_none_or(|provider| providers.contains(&provider)));
        }
    }

    #[test]
    fn a_code_is_sent_as_long_as_it_can_live() {
        let mut attempts = 0;
        let mut waited = Duration::ZERO;
        while let JobTransition::Retry { attempts: counted, after, .. } =
            after_attempt(JobKind::Otp, attempts, START, START, failed())
        {
            (attempts, waited) = (counted, waited + after);
        }
        assert!(waited > Duration::from_secs(600), "{waited:?}");
        let work = JobPayload::Otp { registration: Uuid::from_u128(7) };
        assert_eq!(work.fields(), [("registration", Uuid::from_u128(7).to_string())]);
    }

    #[test]
    fn a_provider_that_is_down_for_days_is_given_up() {
        let down = JobOutcome::Unreachable { reason: String::new() };
        let now = START + time::Duration::hours(25);
        assert!(matches!(
            after_attempt(JobKind::Mail, 0, START, now, down),
            JobTransition::Bury { .. }
        ));
    }
}
