//! This process among the others: its heartbeat, the presence log, draining, and changes made through other
//! processes that its connections have to follow.

use std::time::Duration;

use crate::app::App;

/// How often this process tells the others that it is alive.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
/// How often the presence log is written.
const PRESENCE_LOG_INTERVAL: Duration = Duration::from_secs(5);
/// How often revoked tokens are looked for: their connections have to be closed within a second.
const REVOCATION_INTERVAL: Duration = Duration::from_millis(500);
/// How often it is written when tokens were last used.
const TOKEN_USE_INTERVAL: Duration = Duration::from_secs(5);
/// How often a draining process closes some of its connections.
const DRAIN_INTERVAL: Duration = Duration::from_secs(1);

/// Registers this process and learns of the others.
pub async fn heartbeat(app: App) {
    loop {
        let written = app.process.heartbeat().await;
        metrics::gauge!("esh3ar_database_up").set(f64::from(u8::from(written.is_ok())));
        metrics::gauge!("esh3ar_database_disk_full")
            .set(f64::from(u8::from(app.process.is_disk_full())));
        if let Err(error) = written {
            tracing::debug!(%error, "the heartbeat could not be written");
        }
        app.process.watch_backends().await;
        tokio::time::sleep(HEARTBEAT_INTERVAL).await;
    }
}

/// Records which phones connected and disconnected, and that this process is alive.
pub async fn presence_log(app: App) {
    loop {
        // A failure is recorded there as an outage.
        let _ = app.process.write_presence_log().await;
        tokio::time::sleep(PRESENCE_LOG_INTERVAL).await;
    }
}

/// Closes connections in waves while the process is draining.
pub async fn drain(app: App) {
    let mut largest = 0;
    loop {
        largest = app.process.drain_wave(largest);
        tokio::time::sleep(DRAIN_INTERVAL).await;
    }
}

/// Writes when tokens were last used.
pub async fn token_use(app: App) {
    loop {
        tokio::time::sleep(TOKEN_USE_INTERVAL).await;
        if let Err(error) = app.identity.write_token_use().await {
            tracing::warn!(%error, "the last use of tokens could not be written");
        }
    }
}

/// Closes the connections of revoked tokens, applies changed permissions and withdraws deleted messages.
pub async fn revocations(app: App) {
    let mut since = app.clock().now();
    loop {
        tokio::time::sleep(REVOCATION_INTERVAL).await;
        match app.identity.apply_access_changes(since).await {
            Ok(looked_until) => since = looked_until,
            Err(error) => tracing::warn!(%error, "changes of access could not be read"),
        }
        if let Err(error) = app.admin.notify_deleted().await {
            tracing::warn!(%error, "deleted messages could not be read");
        }
    }
}
