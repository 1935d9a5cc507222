//! Keeps the trail that explanations follow: collected in memory, written every few seconds.
//!
//! Hints only: what does not fit or cannot be written is dropped, and nothing waits for it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use time::OffsetDateTime;
use uuid::Uuid;

use super::{App, Error, Role};
use crate::{
    domain::{Phone, verdict::Outage},
    store::{
        self,
        trail::{self, Seen},
    },
};

/// The most phones that wait to be written; of a greater rush the rest is not noted.
const WAITING: usize = 50_000;
/// Written at once.
const ROWS: usize = 1000;
/// How long runs and outages are kept.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// What waits to be written.
pub(super) struct Trail {
    run: Uuid,
    started_at: OffsetDateTime,
    seen: Mutex<HashMap<Phone, Seen>>,
    away: Mutex<Option<(OffsetDateTime, String)>>,
}

impl Trail {
    pub(super) fn new(started_at: OffsetDateTime) -> Trail {
        Trail { run: Uuid::now_v7(), started_at, seen: Mutex::default(), away: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<Phone, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, seen: Seen) {
        let mut waiting = self.seen();
        if waiting.len() < WAITING || waiting.contains_key(&seen.phone) {
            waiting.insert(seen.phone.clone(), seen);
        }
    }

    /// Notes that the database did not do what it was asked; the first time begins an outage.
    pub(super) fn database_failed(&self, error: &store::Error, now: OffsetDateTime) {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        away.get_or_insert_with(|| (now, error.to_string()));
    }

    fn end_of_outage(&self, now: OffsetDateTime) -> Option<Outage> {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        let (began_at, reason) = away.take()?;
        Some(Outage { part: "database".to_owned(), reason, began_at, ended_at: now })
    }
}

impl App {
    /// Notes that a phone connected.
    pub fn note_connected(&self, phone: &Phone, connected_at: OffsetDateTime) {
        self.inner.trail.note(Seen { phone: phone.clone(), connected_at, left: None });
    }

    /// Notes that a phone's last connection here ended.
    pub fn note_disconnected(&self, phone: &Phone, since: OffsetDateTime, reason: &'static str) {
        let left = Some((self.clock().now(), reason));
        self.inner.trail.note(Seen { phone: phone.clone(), connected_at: since, left });
    }

    /// Writes what was noted, and that this process lives.
    ///
    /// # Errors
    /// Failures of the database, which are noted as an outage.
    pub async fn write_trail(&self) -> Result<(), Error> {
        let result = self.try_write_trail().await;
        if let Err(error) = &result {
            self.inner.trail.database_failed(error, self.clock().now());
        }
        Ok(result?)
    }

    async fn try_write_trail(&self) -> Result<(), store::Error> {
        let trail = &self.inner.trail;
        let client = self.store().client().await?;
        let now = self.clock().now();
        let delivers = self.settings().node.as_ref().is_some_and(|n| n.role != Role::Gateway);
        trail::note_alive(&client, trail.run, trail.started_at, now, delivers).await?;
        if let Some(outage) = trail.end_of_outage(now) {
            trail::note_outage(&client, &outage).await?;
        }
        loop {
            let rows: Vec<Seen> = {
                let mut seen = trail.seen();
                let phones: Vec<Phone> = seen.keys().take(ROWS).cloned().collect();
                phones.iter().filter_map(|phone| seen.remove(phone)).collect()
            };
            if rows.is_empty() {
                return Ok(());
            }
            trail::note_seen(&client, &rows).await?;
        }
    }

    /// Notes that this process has stopped in order.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn note_stopped(&self) -> Result<(), Error> {
        self.write_trail().await?;
        let client = self.store().client().await?;
        Ok(trail::note_stopped(&client, self.inner.trail.run, self.clock().now()).await?)
    }

    /// Forgets runs and outages of long ago.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn forget_trail(&self) -> Result<(), Error> {
        let before = self.clock().now() - KEPT;
        Ok(trail::forget(&self.store().client().await?, before).await?)
    }
}
