//! When the database was away, and whether its disk is full: noted for explanations and for health.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use time::OffsetDateTime;

use super::Clock;
use crate::{domain::verdict::Outage, store};

/// A database that took longer than this to answer was away, though nothing failed.
const SLOW_ANSWER: Duration = Duration::from_secs(1);
/// How long, in seconds, a disk counts as full after it was found to be.
const DISK_FULL_TTL: i64 = 60;

/// What was noted and is not written yet. Cheap to clone.
#[derive(Clone)]
pub(super) struct DatabaseOutages {
    clock: Clock,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    away: Mutex<Option<PendingOutage>>,
    /// When the database last had no room on its disk, in seconds since 1970; zero when it has stored
    /// something since.
    full_at: AtomicI64,
}

struct PendingOutage {
    since: OffsetDateTime,
    reason: String,
    /// When it was back, where that is known before it is written.
    until: Option<OffsetDateTime>,
}

impl DatabaseOutages {
    pub(super) fn new(clock: Clock) -> DatabaseOutages {
        DatabaseOutages { clock, state: Arc::default() }
    }

    fn away(&self) -> MutexGuard<'_, Option<PendingOutage>> {
        self.state.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database did not do what it was asked; the first time begins an outage.
    pub(super) fn failed(&self, error: &store::Error) {
        let now = self.clock.now();
        if matches!(error, store::Error::DiskFull(_)) {
            self.state.full_at.store(now.unix_timestamp(), Ordering::Relaxed);
        }
        let away = &mut *self.away();
        match away {
            // It goes on.
            Some(away) => away.until = None,
            None => {
                *away = Some(PendingOutage { since: now, reason: error.to_string(), until: None })
            }
        }
    }

    /// The database had room for something new.
    pub(super) fn stored(&self) {
        self.state.full_at.store(0, Ordering::Relaxed);
    }

    /// Whether the database had no room on its disk when something was last stored, or tried to be: after
    /// a while nobody can know.
    pub(super) fn is_disk_full(&self) -> bool {
        self.clock.now().unix_timestamp() - self.state.full_at.load(Ordering::Relaxed)
            < DISK_FULL_TTL
    }

    /// Does something with the database, and notes when that took too long.
    pub(super) async fn timed<T>(&self, work: impl Future<Output = T>) -> T {
        let asked = self.clock.now();
        let result = work.await;
        self.answered(asked, self.clock.now());
        result
    }

    /// The database answered; a slow answer is an outage.
    fn answered(&self, asked: OffsetDateTime, now: OffsetDateTime) {
        if now - asked < SLOW_ANSWER {
            return;
        }
        let took = (now - asked).as_seconds_f64();
        match &mut *self.away() {
            Some(PendingOutage { since, until: Some(until), .. }) => {
                (*since, *until) = ((*since).min(asked), (*until).max(now));
            }
            Some(away) => away.since = away.since.min(asked),
            none => {
                let reason = format!("it took {took:.1} s to answer");
                *none = Some(PendingOutage { since: asked, reason, until: Some(now) });
            }
        }
    }

    /// The outage that has ended by now, if there was one.
    pub(super) fn take(&self, now: OffsetDateTime) -> Option<Outage> {
        let PendingOutage { since, reason, until } = self.away().take()?;
        let ended_at = until.unwrap_or(now);
        Some(Outage { part: "database".to_owned(), reason, began_at: since, ended_at })
    }
}
