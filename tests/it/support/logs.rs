//! The logs of what a test has started, printed when the runner ends a test that is past its time.

use std::{
    path::PathBuf,
    sync::{Mutex, Once, PoisonError},
};

use super::accounts;

static LOGS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// From now on this file is among them.
pub fn watch(path: PathBuf) {
    static WAITING: Once = Once::new();
    let mut logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
    if !logs.contains(&path) {
        logs.push(path);
    }
    WAITING.call_once(|| accounts::spawn(print_when_ended()));
}

/// How much of each is printed, in bytes.
const PRINTED: usize = 64 * 1024;

async fn print_when_ended() {
    let kind = tokio::signal::unix::SignalKind::terminate();
    tokio::signal::unix::signal(kind).unwrap().recv().await;
    eprintln!("The test was ended by a signal, most likely because it was past its time.");
    for path in LOGS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let text = std::fs::read(path).unwrap_or_default();
        let end = &text[text.len().saturating_sub(PRINTED)..];
        eprintln!("---- {} ----\n{}", path.display(), String::from_utf8_lossy(end));
    }
    // The test's own thread waits for something that does not come.
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
}
