//! Cleanup and the reconciliation of the ledger.

use std::time::Duration;

use crate::app::App;

/// How often the ledger is reconciled, and how far back. It reads the messages of up to two days.
const RECONCILIATION_INTERVAL: Duration = Duration::from_secs(600);
const RECONCILIATION_PERIOD: Duration = Duration::from_secs(24 * 3600);
/// How often expired rows are looked for.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(600);

/// Compares the messages that were accepted with those that are accounted for.
pub async fn reconciliation(app: App) {
    loop {
        match app.admin.repair_discrepancies().await {
            Ok(0) => {}
            Ok(repaired) => tracing::warn!(repaired, "dead letters were repaired"),
            Err(error) => tracing::warn!(%error, "dead letters could not be repaired"),
        }
        let since = app.clock().now() - RECONCILIATION_PERIOD;
        match app.admin.reconcile(since).await {
            Ok(audit) => {
                let unaccounted = audit.unaccounted();
                metrics::gauge!("esh3ar_unaccounted_messages").set(unaccounted as f64);
                if unaccounted > 0 {
                    tracing::error!(
                        unaccounted,
                        "messages are unaccounted for; run: esh3ar audit delivery"
                    );
                }
            }
            Err(error) => tracing::warn!(%error, "the ledger could not be reconciled"),
        }
        match app.admin.last_backup().await {
            Ok(Some(at)) => {
                metrics::gauge!("esh3ar_last_backup_timestamp_seconds")
                    .set(at.unix_timestamp() as f64);
            }
            // Without backups there is no metric, so that no alert fires.
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the time of the last backup could not be read"),
        }
        tokio::time::sleep(RECONCILIATION_INTERVAL).await;
    }
}

/// Deletes expired idempotency keys, dead letters, audit entries, registrations and runs.
pub async fn cleanup(app: App) {
    loop {
        while let Ok(true) = app.messages.expire_idempotency_keys().await {}
        while let Ok(true) = app.delivery.expire_dead_letters().await {}
        while let Ok(true) = app.admin.expire_audit_log().await {}
        while let Ok(true) = app.registration.expire().await {}
        if let Err(error) = app.identity.clear_plain_secrets().await {
            tracing::warn!(%error, "plain secrets could not be cleared");
        }
        if let Err(error) = app.process.expire_presence_log().await {
            tracing::warn!(%error, "old runs and outages could not be deleted");
        }
        tokio::time::sleep(CLEANUP_INTERVAL).await;
    }
}

/// Deletes messages that are older than the retention period.
pub async fn retention(app: App) {
    loop {
        match app.admin.apply_retention().await {
            Ok(removed) if removed.messages + removed.events > 0 => tracing::info!(
                messages = removed.messages,
                events = removed.events,
                "expired messages were deleted"
            ),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "expired messages could not be deleted"),
        }
        tokio::time::sleep(CLEANUP_INTERVAL).await;
    }
}
