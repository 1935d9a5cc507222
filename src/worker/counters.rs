//! Counts for metrics, the dashboard and the limits that depend on them.

use std::time::Duration;

use crate::{
    app::{App, process::health::HEALTH_INTERVAL},
    domain::{DeadLetterClass, process_stats::SAMPLE_SECONDS},
};

/// How often totals of the whole installation are counted. They are the same for every process and costly.
const TOTALS_INTERVAL: Duration = Duration::from_secs(15);
/// The wait before deliveries in flight are counted again after a failure.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Samples this process. Not part of the heartbeat, which may have to wait for the database.
pub async fn figures(app: App) {
    let mut samples = tokio::time::interval(Duration::from_secs(SAMPLE_SECONDS));
    samples.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        samples.tick().await;
        app.process.sample_counters();
    }
}

/// Checks what this process depends on.
pub async fn health(app: App) {
    let mut checks = tokio::time::interval(HEALTH_INTERVAL);
    checks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        checks.tick().await;
        app.process.sample_health().await;
    }
}

/// Counts deliveries in flight, which decide whether sends are refused.
pub async fn backpressure(app: App) {
    loop {
        let next = match app.messages.watch_in_flight().await {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(%error, "deliveries in flight could not be counted");
                RETRY_DELAY
            }
        };
        tokio::time::sleep(next).await;
    }
}

/// Counts dead letters, deliveries in flight and the size of the stores.
pub async fn totals(app: App) {
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
                    metrics::gauge!("esh3ar_oldest_delivery_seconds", "lane" => lane.lane.name())
                        .set(age.max(0.0));
                }
                metrics::gauge!("esh3ar_database_bytes").set(found.database.size as f64);
            }
            Err(error) => tracing::debug!(%error, "totals could not be counted"),
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
                Err(error) => tracing::debug!(%error, "the memory of Redis could not be read"),
            }
        }
        tokio::time::sleep(TOTALS_INTERVAL).await;
    }
}
