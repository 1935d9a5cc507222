//! Jobs: taken, performed, and given back with what follows from how it went.

mod mail;
mod notices;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use time::OffsetDateTime;
use tokio::sync::Notify;

use super::{Core, Error, clock::new_id, registration::RegistrationService};
use crate::{
    domain::{
        DeadLetterClass,
        breaker::{self, Breaker, BreakerPermit},
        job::{self, JobKind, JobOutcome, JobPayload, JobTransition},
        provider::Provider,
    },
    store::{
        StatementGroup,
        jobs::{self, ClaimedJob},
    },
};

/// Wakes the workers of each kind, and knows how the providers do.
struct JobState {
    per_kind: HashMap<JobKind, Notify>,
    breakers: Mutex<HashMap<Provider, Breaker>>,
}

impl Default for JobState {
    fn default() -> Self {
        let per_kind = JobKind::ALL.into_iter().map(|kind| (kind, Notify::new())).collect();
        JobState { per_kind, breakers: Mutex::default() }
    }
}

impl JobState {
    fn wake(&self, kind: JobKind) {
        if let Some(waker) = self.per_kind.get(&kind) {
            waker.notify_one();
        }
    }

    async fn woken(&self, kind: JobKind) {
        match self.per_kind.get(&kind) {
            Some(waker) => waker.notified().await,
            None => std::future::pending().await,
        }
    }

    fn breaker<T>(&self, provider: Provider, act: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breakers = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        let breaker = breakers.entry(provider).or_insert_with(|| {
            let (threshold, pause) = provider.breaker();
            Breaker::new(threshold, pause)
        });
        let result = act(breaker);
        let open = if breaker.is_open() { 1.0 } else { 0.0 };
        metrics::gauge!("esh3ar_breaker_open", "kind" => provider.label()).set(open);
        result
    }

    /// Of how many jobs of a kind it is worth taking them, or until when of none.
    fn worth_taking(
        &self,
        kind: JobKind,
        room: usize,
        now: OffsetDateTime,
    ) -> Result<usize, OffsetDateTime> {
        let look = |provider: &Provider| self.breaker(*provider, |breaker| breaker.peek(now));
        let passages: Vec<BreakerPermit> = kind.providers().iter().map(look).collect();
        breaker::takeable(&passages, room)
    }

    /// Asks for passage to the provider of a job.
    fn pass(&self, job: &ClaimedJob, now: OffsetDateTime) -> BreakerPermit {
        match job.work.as_ref().and_then(JobPayload::provider) {
            Some(provider) => self.breaker(provider, |breaker| breaker.acquire(now)),
            // It waits for none, or cannot be read and gets no further than here.
            None => BreakerPermit::Allow,
        }
    }
}

/// Jobs that were taken, and how long until there is reason to look again when there were none.
pub enum TakenJobs {
    Jobs(Vec<ClaimedJob>),
    /// None, until then at the latest.
    Nothing(Duration),
}

/// Takes and performs jobs. Cheap to clone.
#[derive(Clone)]
pub struct JobService {
    core: Core,
    registration: RegistrationService,
    state: Arc<JobState>,
}

impl JobService {
    pub(super) fn new(core: &Core, registration: &RegistrationService) -> JobService {
        let registration = registration.clone();
        JobService { core: core.clone(), registration, state: Arc::default() }
    }

    /// Tells the workers of this process that there is a job of a kind; others look every second.
    pub fn wake(&self, kind: JobKind) {
        self.state.wake(kind);
    }

    /// Waits until there may be a job of a kind, at most this long.
    pub async fn wait(&self, kind: JobKind, most: Duration) {
        let woken = self.state.woken(kind);
        let _ = tokio::time::timeout(most, woken).await;
    }

    /// Takes jobs of a kind, as many as there is room for and the breakers of their providers let through.
    /// A job whose provider is not to be tried waits without an attempt counted, and without holding up
    /// those for other providers.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn take(&self, kind: JobKind, room: usize) -> Result<TakenJobs, Error> {
        const POLL_INTERVAL: Duration = Duration::from_secs(1);
        let now = self.core.clock().now();
        let state = &self.state;
        let most = match state.worth_taking(kind, room, now) {
            Ok(most) => most,
            Err(until) => {
                let wait = Duration::try_from(until - now).unwrap_or(POLL_INTERVAL);
                return Ok(TakenJobs::Nothing(
                    wait.clamp(Duration::from_millis(10), POLL_INTERVAL),
                ));
            }
        };
        let client = self.core.store().client_for(StatementGroup::Jobs).await?;
        let taken = jobs::claim(&client, kind, now, most, now + kind.lease()).await?;
        if taken.is_empty() {
            return Ok(TakenJobs::Nothing(POLL_INTERVAL));
        }
        let mut passed = Vec::with_capacity(taken.len());
        for job in taken {
            let BreakerPermit::DenyUntil(until) = state.pass(&job, now) else {
                passed.push(job);
                continue;
            };
            if let Err(error) = jobs::release(&client, &job, until).await {
                // Its lease ends by itself.
                tracing::warn!(%error, job = %job.id, "a job could not be put off");
            }
        }
        // Those that were put off have made way for others.
        Ok(if passed.is_empty() {
            TakenJobs::Nothing(Duration::ZERO)
        } else {
            TakenJobs::Jobs(passed)
        })
    }

    /// Performs a job, keeps its lease meanwhile, and writes what follows.
    ///
    /// # Errors
    /// Failures of the database; the job is done again when its lease ends.
    pub async fn perform(&self, kind: JobKind, job: &ClaimedJob) -> Result<(), Error> {
        self.core.failpoint("jobs_taken");
        let attempted = {
            let attempt = self.attempt(job);
            tokio::pin!(attempt);
            loop {
                tokio::select! {
                                    attempted = &mut attempt => break attempted,
                                    () = tokio::time::sleep(kind.lease() / 3) => {
                let until = self.core.clock().now() + kind.lease();
                let client = self.core.store().client_for(StatementGroup::Jobs).await?;
                                        if !jobs::renew(&client, job, until).await? {
                                            // Somebody else has it by now; what we do is theirs to repeat.
                                            return Ok(());
                                        }
                                    }
                                }
            }
        };
        self.core.failpoint("jobs_performed");
        let now = self.core.clock().now();
        if let Some(provider) = job.work.as_ref().and_then(JobPayload::provider) {
            self.state.breaker(provider, |breaker| match &attempted {
                JobOutcome::Unreachable { .. } => breaker.failed(now),
                JobOutcome::Done | JobOutcome::Failed { .. } | JobOutcome::Rejected { .. } => {
                    breaker.succeeded();
                }
            });
        }
        let name = match &attempted {
            JobOutcome::Done => "done",
            JobOutcome::Failed { .. } => "failed",
            JobOutcome::Rejected { .. } => "rejected",
            JobOutcome::Unreachable { .. } => "unreachable",
        };
        metrics::counter!("esh3ar_jobs_total", "kind" => kind.name(), "result" => name)
            .increment(1);
        let client = self.core.store().client_for(StatementGroup::Jobs).await?;
        let ours = match job::after_attempt(kind, job.attempts, job.created_at, now, attempted) {
            JobTransition::Finish => jobs::finish(&client, job).await?,
            JobTransition::Retry { attempts, after, reason } => {
                let (of, after_ms) = (kind.retries(), after.as_millis());
                tracing::warn!(
                    kind = kind.name(), job = %job.id, retry = attempts, of, after_ms, reason, "a job is retried"
                );
                jobs::retry(&client, job, attempts, now + after, &reason, now).await?
            }
            JobTransition::Bury { class, reason } => {
                tracing::error!(kind = kind.name(), job = %job.id, reason, "a job is given up");
                jobs::bury(&client, job, class, &reason, new_id(), now).await?
            }
        };
        if !ours {
            tracing::warn!(kind = kind.name(), job = %job.id, "a job outlived its lease");
        }
        Ok(())
    }

    /// Does what a job is to do: each kind has its performer in a module of its own.
    async fn attempt(&self, job: &ClaimedJob) -> JobOutcome {
        match job.work.clone() {
            Some(JobPayload::Mail { subject, body }) => {
                mail::perform(&self.core, job.id, subject, body).await
            }
            Some(JobPayload::Otp { registration }) => {
                self.registration.send_code(job.id, registration).await
            }
            None => JobOutcome::Rejected {
                class: DeadLetterClass::Content,
                reason: "its payload cannot be read".to_owned(),
            },
        }
    }

    /// Gives back a job that was taken and not performed.
    ///
    /// # Errors
    /// Failures of the database; its lease ends by itself.
    pub async fn release(&self, job: &ClaimedJob) -> Result<(), Error> {
        let client = self.core.store().client_for(StatementGroup::Jobs).await?;
        jobs::release(&client, job, self.core.clock().now()).await?;
        Ok(())
    }

    /// How many jobs of a kind wait or are being performed.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn count(&self, kind: JobKind) -> Result<i64, Error> {
        Ok(jobs::count(&self.core.store().client_for(StatementGroup::Jobs).await?, kind).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(work: Option<JobPayload>) -> ClaimedJob {
        let created_at = OffsetDateTime::UNIX_EPOCH;
        ClaimedJob { id: uuid::Uuid::nil(), fence: 1, work, attempts: 0, created_at }
    }

    #[test]
    fn a_kind_is_left_alone_while_its_provider_is_away_and_then_one_job_tries() {
        let state = JobState::default();
        let now = OffsetDateTime::UNIX_EPOCH;
        let mail = JobPayload::Mail { subject: String::new(), body: String::new() };
        let provider = mail.provider().unwrap();
        let (threshold, pause) = provider.breaker();
        assert_eq!(state.worth_taking(JobKind::Mail, 3, now), Ok(3));
        for _ in 0..threshold {
            assert_eq!(state.pass(&taken(Some(mail.clone())), now), BreakerPermit::Allow);
            state.breaker(provider, |breaker| breaker.failed(now));
        }
        let until = now + pause;
        assert_eq!(state.worth_taking(JobKind::Mail, 3, now), Err(until));
        assert_eq!(state.pass(&taken(Some(mail.clone())), now), BreakerPermit::DenyUntil(until));
        assert_eq!(state.pass(&taken(None), now), BreakerPermit::Allow, "it needs no provider");
        assert_eq!(state.worth_taking(JobKind::Mail, 3, until), Ok(1));
        assert_eq!(state.worth_taking(JobKind::Mail, 3, until), Ok(1), "looking takes nothing");
        assert_eq!(state.pass(&taken(Some(mail)), until), BreakerPermit::Probe);
        assert_eq!(state.worth_taking(JobKind::Mail, 3, until), Err(until + pause));
    }
}
