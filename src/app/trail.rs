//! Keeps the trail that explanations follow: collected in memory, written every few seconds.
//!
//! Hints only: what does not fit or cannot be written is dropped, and nothing waits for it.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use time::OffsetDateTime;
use uuid::Uuid;

use super::{App, Error, Role, clock::new_id};
use crate::{
    domain::{BoundedMap, Phone, WhenFull, verdict::Outage},
    store::{
        self, StatementGroup,
        presence_log::{self, PresenceChange},
    },
};

/// The most phones that wait to be written; of a greater rush the rest is not noted.
const WAITING: usize = 50_000;
/// Written at once.
const ROWS: usize = 1000;
/// A database that took longer than this to do what it was asked was away, though nothing failed.
const SLOW: Duration = Duration::from_secs(1);
/// For so many seconds a disk counts as full that was found to be.
const FULL_FOR: i64 = 60;
/// How long runs and outages are kept.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// What waits to be written.
pub(super) struct Trail {
    run: Uuid,
    started_at: OffsetDateTime,
    seen: Mutex<BoundedMap<Phone, PresenceChange>>,
    away: Mutex<Option<Away>>,
    /// When the database last had no room on its disk, in seconds since 1970; zero when it has stored
    /// something since.
    full_at: AtomicI64,
}

/// A time when the database was away that is not written yet.
struct Away {
    since: OffsetDateTime,
    reason: String,
    /// When it was back, where that is known before it is written.
    until: Option<OffsetDateTime>,
}

impl Trail {
    pub(super) fn new(started_at: OffsetDateTime) -> Trail {
        Trail {
            run: new_id(),
            started_at,
            seen: Mutex::new(BoundedMap::new(WAITING, WhenFull::Refuse)),
            away: Mutex::default(),
            full_at: AtomicI64::default(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, BoundedMap<Phone, PresenceChange>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, mut seen: PresenceChange) {
        let now = Instant::now();
        let mut waiting = self.seen();
        let known = waiting.get(&seen.phone, now);
        if let (Some(known), Some(_)) = (known, &seen.left) {
            // Who leaves was here since the first of its connections, and none that is older than
            // that can be the last.
            if known.left.is_none() && known.connected_at > seen.connected_at {
                return;
            }
            if known.left.is_none() {
                seen.connected_at = known.connected_at;
            }
        }
        // Without room it is not noted.
        waiting.insert(seen.phone.clone(), seen, None, now);
    }

    fn away(&self) -> MutexGuard<'_, Option<Away>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the database did not do what it was asked; the first time begins an outage.
    pub(super) fn database_failed(&self, error: &store::Error, now: OffsetDateTime) {
        if matches!(error, store::Error::DiskFull(_)) {
            self.full_at.store(now.unix_timestamp(), Ordering::Relaxed);
        }
        let away = &mut *self.away();
        match away {
            // It goes on.
            Some(away) => away.until = None,
            None => *away = Some(Away { since: now, reason: error.to_string(), until: None }),
        }
    }

    /// Notes that the database had room for something new.
    pub(super) fn stored(&self) {
        self.full_at.store(0, Ordering::Relaxed);
    }

    /// Whether the database had no room on its disk when something was last stored, or tried to be: after
    /// a while nobody can know.
    pub(super) fn is_full(&self, now: OffsetDateTime) -> bool {
        now.unix_timestamp() - self.full_at.load(Ordering::Relaxed) < FULL_FOR
    }

    /// Notes that the database did what it was asked, and how long that took it.
    fn database_answered(&self, asked: OffsetDateTime, now: OffsetDateTime) {
        if now - asked < SLOW {
            return;
        }
        let took = (now - asked).as_seconds_f64();
        match &mut *self.away() {
            Some(Away { since, until: Some(until), .. }) => {
                (*since, *until) = ((*since).min(asked), (*until).max(now));
            }
            Some(away) => away.since = away.since.min(asked),
            none => {
                let reason = format!("it took {took:.1} s to answer");
                *none = Some(Away { since: asked, reason, until: Some(now) });
            }
        }
    }

    fn end_of_outage(&self, now: OffsetDateTime) -> Option<Outage> {
        let Away { since, reason, until } = self.away().take()?;
        let ended_at = until.unwrap_or(now);
        Some(Outage { part: "database".to_owned(), reason, began_at: since, ended_at })
    }
}

impl App {
    /// Does something with the database, and notes when that took too long.
    pub(super) async fn timed<T>(&self, work: impl Future<Output = T>) -> T {
        let asked = self.clock().now();
        let result = work.await;
        self.inner.trail.database_answered(asked, self.clock().now());
        result
    }

    /// Notes that a phone connected that was not connected before.
    pub fn note_connected(&self, phone: &Phone, connected_at: OffsetDateTime) {
        self.inner.trail.note(PresenceChange { phone: phone.clone(), connected_at, left: None });
    }

    /// Notes that a phone's last connection here ended.
    pub fn note_disconnected(&self, phone: &Phone, since: OffsetDateTime, reason: &'static str) {
        let left = Some((self.clock().now(), reason));
        self.inner.trail.note(PresenceChange { phone: phone.clone(), connected_at: since, left });
    }

    /// Writes what was noted, and that this process lives.
    ///
    /// # Errors
    /// Failures of the database, which are noted as an outage.
    pub async fn write_trail(&self) -> Result<(), Error> {
        let result = self.timed(self.try_write_trail()).await;
        if let Err(error) = &result {
            self.inner.trail.database_failed(error, self.clock().now());
        }
        Ok(result?)
    }

    async fn try_write_trail(&self) -> Result<(), store::Error> {
        let trail = &self.inner.trail;
        let client = self.store().client_for(StatementGroup::Upkeep).await?;
        let now = self.clock().now();
        let delivers = self.settings().node.as_ref().is_some_and(|n| n.role != Role::Gateway);
        presence_log::record_heartbeat(&client, trail.run, trail.started_at, now, delivers).await?;
        if let Some(outage) = trail.end_of_outage(now) {
            presence_log::record_outage(&client, &outage).await?;
        }
        loop {
            let waiting = trail.seen().take(ROWS);
            let rows: Vec<PresenceChange> = waiting.into_iter().map(|(_, seen)| seen).collect();
            if rows.is_empty() {
                return Ok(());
            }
            presence_log::record_presence(&client, trail.run, &rows).await?;
        }
    }

    /// Notes that this process has stopped in order.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn note_stopped(&self) -> Result<(), Error> {
        self.write_trail().await?;
        let client = self.store().client_for(StatementGroup::Upkeep).await?;
        Ok(presence_log::record_shutdown(&client, self.inner.trail.run, self.clock().now()).await?)
    }

    /// Forgets runs and outages of long ago.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn forget_trail(&self) -> Result<(), Error> {
        let before = self.clock().now() - KEPT;
        Ok(presence_log::delete_before(
            &self.store().client_for(StatementGroup::Upkeep).await?,
            before,
        )
        .await?)
    }
}
