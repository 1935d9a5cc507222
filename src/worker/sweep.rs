//! Finds what got stuck: messages whose time has come, connected phones with messages waiting.

use std::time::Duration;

use crate::{
    app::{App, process::health::HEALTH_INTERVAL},
    domain::{DeadLetterClass, Priority, figures::SAMPLE_SECONDS},
};

/// How often the rows that are due are looked for (delivery.md, How 4).
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How often it is written who came and went, and that this process lives.
const TRAIL_EVERY: Duration = Duration::from_secs(5);
/// How often this process says to the others that it lives.
const GREET_EVERY: Duration = Duration::from_secs(2);
/// How often dead letters and what is in hand are counted for the metrics.
const STOCK_EVERY: Duration = Duration::from_secs(15);
/// How often revoked tokens are looked for: their connections are to be closed within a second.
const REVOKED_EVERY: Duration = Duration::from_millis(500);
/// How often the books are audited, and how far back. It reads the messages of up to two days.
const BOOKS_EVERY: Duration = Duration::from_secs(600);
const BOOKS_SINCE: Duration = Duration::from_secs(24 * 3600);
/// How often what is only kept for a while is looked through.
const TIDY_EVERY: Duration = Duration::from_secs(600);

/// For ever.
pub async fn due(app: App) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        app.delivery.resync_pending().await;
        while let Ok(true) = app.delivery.sweep().await {}
        for (lane, depth) in app.process.queue_depths() {
            metrics::gauge!("esh3ar_queue_depth", "lane" => lane_name(lane)).set(depth as f64);
        }
    }
}

/// For ever.
pub async fn positions(app: App) {
    loop {
        match app.delivery.count_waiting().await {
            Ok(waiting) => metrics::gauge!("esh3ar_messages_waiting").set(waiting as f64),
            Err(error) => tracing::warn!(%error, "waiting messages could not be counted"),
        }
        let doubted = app.delivery.until_position_check().await;
        match app.delivery.check_positions(doubted).await {
            Ok(0) => {}
            Ok(behind) => tracing::info!(behind, "connections were behind and read again"),
            Err(error) => tracing::warn!(%error, "positions could not be checked"),
        }
    }
}

/// For ever.
pub async fn nodes(app: App) {
    loop {
        let greeted = app.process.heartbeat().await;
        metrics::gauge!("esh3ar_database_up").set(f64::from(u8::from(greeted.is_ok())));
        metrics::gauge!("esh3ar_database_disk_full")
            .set(f64::from(u8::from(app.process.is_disk_full())));
        if let Err(error) = greeted {
            tracing::debug!(%error, "the other processes could not be greeted");
        }
        app.process.watch_backends().await;
        tokio::time::sleep(GREET_EVERY).await;
    }
}

/// For ever: what is the same for every process that looks, and dear enough to be looked at seldom.
pub async fn stock(app: App) {
    loop {
        match app.admin.stats().await {
            Ok(found) => {
                for class in DeadLetterClass::ALL {
                    let of_class = found.dead_by_class.iter().find(|of| of.class == class);
                    metrics::gauge!("esh3ar_dead_letters", "class" => class.name())
                        .set(of_class.map_or(0, |of| of.count) as f64);
                }
                for lane in &found.lanes {
                    let age =
                        lane.oldest_in_flight_at.map_or(0.0, |at| (found.at - at).as_seconds_f64());
                    metrics::gauge!("esh3ar_oldest_delivery_seconds", "lane" => lane_name(lane.lane))
                        .set(age.max(0.0));
                }
                metrics::gauge!("esh3ar_database_bytes").set(found.database.size as f64);
            }
            Err(error) => tracing::debug!(%error, "the stock could not be taken"),
        }
        match app.admin.count_active_conversations().await {
            Ok(active) => metrics::gauge!("esh3ar_conversations_active").set(active as f64),
            Err(error) => tracing::debug!(%error, "active conversations could not be counted"),
        }
        if let Some(relay) = app.presence().relay() {
            match relay.redis().memory().await {
                Ok(memory) => {
                    metrics::gauge!("esh3ar_redis_memory_bytes").set(memory.used as f64);
                    metrics::gauge!("esh3ar_redis_memory_limit_bytes").set(memory.limit as f64);
                }
                Err(error) => tracing::debug!(%error, "Redis does not tell of its memory"),
            }
        }
        tokio::time::sleep(STOCK_EVERY).await;
    }
}

/// For ever. Apart from the greeting, which may have to wait for the database.
pub async fn figures(app: App) {
    let mut samples = tokio::time::interval(Duration::from_secs(SAMPLE_SECONDS));
    samples.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        samples.tick().await;
        app.process.sample_counters();
    }
}

/// Until the process stops.
pub async fn health(app: App) {
    let mut looks = tokio::time::interval(HEALTH_INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        app.process.sample_health().await;
    }
}

/// For ever.
pub async fn revocations(app: App) {
    let mut since = app.clock().now();
    loop {
        tokio::time::sleep(REVOKED_EVERY).await;
        match app.identity.close_revoked(since).await {
            Ok(looked_until) => since = looked_until,
            Err(error) => tracing::warn!(%error, "revoked tokens could not be looked for"),
        }
        if let Err(error) = app.admin.notify_deleted().await {
            tracing::warn!(%error, "deleted messages could not be looked for");
        }
    }
}

/// For ever.
pub async fn depth(app: App) {
    loop {
        let next = match app.messages.watch_in_flight().await {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(%error, "deliveries in hand could not be counted");
                SWEEP_EVERY
            }
        };
        tokio::time::sleep(next).await;
    }
}

/// For ever.
pub async fn drain(app: App) {
    let mut largest = 0;
    loop {
        largest = app.process.drain_wave(largest);
        tokio::time::sleep(SWEEP_EVERY).await;
    }
}

/// For ever.
pub async fn trail(app: App) {
    loop {
        // A failure is noted as an outage there.
        let _ = app.process.write_presence_log().await;
        tokio::time::sleep(TRAIL_EVERY).await;
    }
}

/// For ever.
pub async fn books(app: App) {
    loop {
        match app.admin.repair_discrepancies().await {
            Ok(0) => {}
            Ok(repaired) => tracing::warn!(repaired, "dead letters were put in order"),
            Err(error) => tracing::warn!(%error, "the books could not be repaired"),
        }
        let since = app.clock().now() - BOOKS_SINCE;
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
            Err(error) => tracing::warn!(%error, "the books could not be audited"),
        }
        match app.admin.last_backup().await {
            Ok(Some(at)) => {
                metrics::gauge!("esh3ar_last_backup_timestamp_seconds")
                    .set(at.unix_timestamp() as f64);
            }
            // Nobody is warned of an installation that makes none with this.
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "it is not known when the last backup was made"),
        }
        tokio::time::sleep(BOOKS_EVERY).await;
    }
}

/// For ever.
pub async fn tidy(app: App) {
    loop {
        while let Ok(true) = app.messages.expire_idempotency_keys().await {}
        while let Ok(true) = app.delivery.expire_dead_letters().await {}
        while let Ok(true) = app.admin.expire_audit_log().await {}
        if let Err(error) = app.process.expire_presence_log().await {
            tracing::warn!(%error, "old runs and outages could not be forgotten");
        }
        tokio::time::sleep(TIDY_EVERY).await;
    }
}

/// For ever.
pub async fn retention(app: App) {
    loop {
        match app.admin.apply_retention().await {
            Ok(removed) if removed.messages + removed.events > 0 => tracing::info!(
                messages = removed.messages,
                events = removed.events,
                "what was kept long enough is removed"
            ),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "what was kept long enough could not be removed"),
        }
        tokio::time::sleep(TIDY_EVERY).await;
    }
}

fn lane_name(lane: Priority) -> &'static str {
    lane.name()
}
