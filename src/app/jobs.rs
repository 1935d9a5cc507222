//! Jobs: taken, performed, and given back with what follows from how it went.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use super::{App, Error, clock::new_id};
use crate::{
    domain::{
        DeadLetterClass, Phone,
        breaker::{Breaker, Passage},
        job::{self, Attempted, JobKind, Next, Work},
    },
    mail::{self, Mail},
    store::{
        Group,
        jobs::{self, NewJob, Taken},
        notices::{self, Gathered},
    },
};

/// How many dead letters a mail shows one by one.
const SHOWN: usize = 10;

/// Wakes the workers of a kind, and knows how its provider does.
pub(super) struct Workshop {
    benches: Vec<(JobKind, Notify, Mutex<Breaker>)>,
}

impl Default for Workshop {
    fn default() -> Self {
        let bench = |kind: JobKind| {
            let (threshold, pause) = kind.breaker();
            (kind, Notify::new(), Mutex::new(Breaker::new(threshold, pause)))
        };
        Workshop { benches: JobKind::ALL.into_iter().map(bench).collect() }
    }
}

impl Workshop {
    fn wake(&self, kind: JobKind) {
        for (_, notify, _) in self.benches.iter().filter(|(of, _, _)| *of == kind) {
            notify.notify_one();
        }
    }

    async fn woken(&self, kind: JobKind) {
        match self.benches.iter().find(|(of, _, _)| *of == kind) {
            Some((_, notify, _)) => notify.notified().await,
            None => std::future::pending().await,
        }
    }

    fn breaker<T>(&self, kind: JobKind, act: impl FnOnce(&mut Breaker) -> T) -> Option<T> {
        let (_, _, breaker) = self.benches.iter().find(|(of, _, _)| *of == kind)?;
        let mut breaker = breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let result = act(&mut breaker);
        let open = if breaker.is_open() { 1.0 } else { 0.0 };
        metrics::gauge!("esh3ar_breaker_open", "kind" => kind.name()).set(open);
        Some(result)
    }
}

/// Jobs that were taken, and how long until there is reason to look again when there were none.
pub enum Found {
    /// Do these.
    Jobs(Vec<Taken>),
    /// None, until then at the latest.
    Nothing(Duration),
}

impl App {
    /// Waits until there may be a job of a kind, at most this long.
    pub async fn wait_for_job(&self, kind: JobKind, most: Duration) {
        let woken = self.inner.workshop.woken(kind);
        let _ = tokio::time::timeout(most, woken).await;
    }

    /// Takes jobs of a kind, as many as its breaker lets through and there is room for.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn take_jobs(&self, kind: JobKind, room: usize) -> Result<Found, Error> {
        const IDLE: Duration = Duration::from_secs(1);
        let now = self.clock().now();
        let most = match self.inner.workshop.breaker(kind, |breaker| breaker.pass(now)) {
            Some(Passage::Closed(until)) => {
                let wait = Duration::try_from(until - now).unwrap_or(IDLE);
                return Ok(Found::Nothing(wait.clamp(Duration::from_millis(10), IDLE)));
            }
            Some(Passage::Probe) => 1,
            Some(Passage::Free) | None => room,
        };
        let client = self.store().client_for(Group::Jobs).await?;
        let taken = jobs::take(&client, kind, now, most, now + kind.lease()).await?;
        Ok(if taken.is_empty() { Found::Nothing(IDLE) } else { Found::Jobs(taken) })
    }

    /// Performs a job, keeps its lease meanwhile, and writes what follows.
    ///
    /// # Errors
    /// Failures of the database; the job is done again when its lease ends.
    pub async fn perform(&self, kind: JobKind, job: &Taken) -> Result<(), Error> {
        self.failpoint("jobs_taken");
        let attempted = {
            let attempt = self.attempt(job);
            tokio::pin!(attempt);
            loop {
                tokio::select! {
                    attempted = &mut attempt => break attempted,
                    () = tokio::time::sleep(kind.lease() / 3) => {
                        let until = self.clock().now() + kind.lease();
                        let client = self.store().client_for(Group::Jobs).await?;
                        if !jobs::renew(&client, job, until).await? {
                            // Somebody else has it by now; what we do is theirs to repeat.
                            return Ok(());
                        }
                    }
                }
            }
        };
        self.failpoint("jobs_performed");
        let now = self.clock().now();
        self.inner.workshop.breaker(kind, |breaker| match &attempted {
            Attempted::Unreachable { .. } => breaker.failed(now),
            Attempted::Done | Attempted::Failed { .. } | Attempted::Rejected { .. } => {
                breaker.succeeded();
            }
        });
        let name = match &attempted {
            Attempted::Done => "done",
            Attempted::Failed { .. } => "failed",
            Attempted::Rejected { .. } => "rejected",
            Attempted::Unreachable { .. } => "unreachable",
        };
        metrics::counter!("esh3ar_jobs_total", "kind" => kind.name(), "result" => name)
            .increment(1);
        let client = self.store().client_for(Group::Jobs).await?;
        let ours = match job::after(kind, job.attempts, job.created_at, now, attempted) {
            Next::Finish => jobs::finish(&client, job).await?,
            Next::Retry { attempts, after, reason } => {
                let (of, after_ms) = (kind.retries(), after.as_millis());
                tracing::warn!(
                    kind = kind.name(), job = %job.id, retry = attempts, of, after_ms, reason, "a job is retried"
                );
                jobs::retry(&client, job, attempts, now + after, &reason, now).await?
            }
            Next::Bury { class, reason } => {
                tracing::error!(kind = kind.name(), job = %job.id, reason, "a job is given up");
                jobs::bury(&client, job, class, &reason, new_id(), now).await?
            }
        };
        if !ours {
            tracing::warn!(kind = kind.name(), job = %job.id, "a job outlived its lease");
        }
        Ok(())
    }

    async fn attempt(&self, job: &Taken) -> Attempted {
        match job.work.clone() {
            Some(Work::Mail { subject, body }) => {
                self.send_mail(Mail { id: job.id, subject, body }).await
            }
            None => Attempted::Rejected {
                class: DeadLetterClass::Content,
                reason: "its payload cannot be read".to_owned(),
            },
        }
    }

    async fn send_mail(&self, mail: Mail) -> Attempted {
        let class = DeadLetterClass::Provider;
        match self.live().mailer.send(&mail).await {
            Ok(()) => Attempted::Done,
            Err(mail::Error::Unreachable(reason)) => Attempted::Unreachable { reason },
            Err(mail::Error::Temporary(reason)) => Attempted::Failed { class, reason },
            Err(error) => Attempted::Rejected { class, reason: error.to_string() },
        }
    }

    /// Gives back a job that was taken and not performed.
    ///
    /// # Errors
    /// Failures of the database; its lease ends by itself.
    pub async fn release_job(&self, job: &Taken) -> Result<(), Error> {
        let client = self.store().client_for(Group::Jobs).await?;
        jobs::release(&client, job, self.clock().now()).await?;
        Ok(())
    }

    /// How many jobs of a kind wait or are in hand.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn count_jobs(&self, kind: JobKind) -> Result<i64, Error> {
        Ok(jobs::count(&self.store().client_for(Group::Jobs).await?, kind).await?)
    }

    /// Tells the administrators of new dead letters, all in one mail and not more often than
    /// configured. Returns whether a mail is on its way.
    ///
    /// # Errors
    /// Failures of the database; then they are told the next time.
    pub async fn tell_of_dead_letters(&self) -> Result<bool, Error> {
        let now = self.clock().now();
        let mut client = self.store().client_for(Group::Jobs).await?;
        let transaction = client.transaction().await?;
        let interval = self.live().alert_interval;
        let gathered = notices::claim_dead_letters(&transaction, now, interval, SHOWN).await?;
        if gathered.counts.is_empty() {
            return Ok(false);
        }
        let (subject, body) = compose(&gathered);
        let job = NewJob {
            id: new_id(),
            work: Work::Mail { subject, body },
            message: None,
            unique_key: None,
            run_at: now,
        };
        jobs::enqueue(&transaction, &job, now).await?;
        self.failpoint("notices_before_commit");
        transaction.commit().await?;
        self.inner.workshop.wake(JobKind::Mail);
        Ok(true)
    }
}

/// The mail about dead letters. Phone numbers are masked: mail travels in the open.
fn compose(gathered: &Gathered) -> (String, String) {
    let count: i64 = gathered.counts.iter().map(|(_, _, count)| count).sum();
    let letters = if count == 1 { "dead letter" } else { "dead letters" };
    let subject = format!("esh3ar: {count} new {letters}");
    let mut lines = vec![format!("{count} new {letters}:"), String::new()];
    for (kind, class, count) in &gathered.counts {
        lines.push(format!("  {count:>6}  {kind}, {class}"));
    }
    lines.extend([String::new(), "The newest:".to_owned(), String::new()]);
    for letter in &gathered.newest {
        let to = letter.to.as_ref().map_or_else(String::new, |to: &Phone| format!(" to {to:?}"));
        let at = letter.last_error_at;
        let at = format!("{} {:02}:{:02} UTC", at.date(), at.hour(), at.minute());
        lines.push(format!("  {at}  {}{to}: {}", letter.kind, letter.reason));
        if let Some(message) = letter.message {
            lines.push(format!("      esh3ar message explain {message}"));
        }
        lines.push(format!("      esh3ar dlq requeue {}", letter.id));
    }
    lines.extend([
        String::new(),
        "All of them: esh3ar dlq list".to_owned(),
        "Put back: esh3ar dlq requeue --all".to_owned(),
        String::new(),
    ]);
    (subject, lines.join("\r\n"))
}
