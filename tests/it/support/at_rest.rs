//! What no test leaves behind: a leased job, a ledger that does not balance, an error in a log.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use esh3ar::app::{App, Error};
use serde_json::Value;

use super::accounts;

/// What a test has announced.
#[derive(Default)]
pub struct Announced {
    errors: Mutex<Vec<String>>,
    unbalanced: AtomicBool,
    killed: AtomicBool,
}

impl Announced {
    pub fn error(&self, text: &str) {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
    }

    pub fn unbalanced(&self) {
        self.unbalanced.store(true, Ordering::Relaxed);
    }

    pub fn is_unbalanced(&self) -> bool {
        self.unbalanced.load(Ordering::Relaxed)
    }

    /// A process was killed: what it had leased stays so until the lease ends.
    pub fn killed(&self) {
        self.killed.store(true, Ordering::Relaxed);
    }

    pub fn was_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }

    fn covers(&self, line: &str) -> bool {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.iter().any(|text| line.contains(text.as_str()))
    }
}

/// How long what is still under way may take to end.
const SETTLES: Duration = Duration::from_secs(10);
/// How far back the ledger is looked at; tests put messages into the past.
const SINCE: time::Duration = time::Duration::days(4000);

/// Leased jobs and messages that nobody accounts for. A database that the test has stopped has neither.
pub fn rows(config: tokio_postgres::Config, killed: bool) -> Vec<String> {
    accounts::with_app(config.clone(), async move |app: App| {
        let connected = config.connect(tokio_postgres::NoTls).await;
        let Ok((client, connection)) = connected else { return Ok(Vec::new()) };
        tokio::spawn(connection);
        let deadline = Instant::now() + SETTLES;
        loop {
            let sql = "SELECT kind FROM jobs WHERE leased AND NOT $1";
            let leased = client.query(sql, &[&killed]).await.unwrap_or_default();
            let kinds = leased.iter().map(|row| row.get::<_, String>(0));
            let mut faults: Vec<String> =
                kinds.map(|kind| format!("a leased job of kind {kind}")).collect();
            match app.admin.reconcile(time::OffsetDateTime::now_utc() - SINCE).await {
                Ok(ledger) if ledger.unaccounted() > 0 => {
                    faults
                        .push(format!("{} messages unaccounted: {ledger:?}", ledger.unaccounted()));
                }
                Ok(_) => {}
                Err(Error::Unavailable) => return Ok(Vec::new()),
                Err(other) => faults.push(format!("the ledger cannot be read: {other}")),
            }
            if faults.is_empty() || Instant::now() > deadline {
                return Ok(faults);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
}

/// Errors in a log that were not announced.
pub fn errors(log: &str, announced: &Announced) -> Vec<String> {
    let is_error = |line: &&str| {
        line.contains("panicked at")
            || serde_json::from_str::<Value>(line).is_ok_and(|entry| entry["level"] == "ERROR")
    };
    log.lines().filter(is_error).filter(|line| !announced.covers(line)).map(str::to_owned).collect()
}
