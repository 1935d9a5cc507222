//! Finds deliveries that got stuck: messages whose time has come, and connected phones with parked messages.

use std::time::Duration;

use crate::app::App;

/// How often the rows that are due are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Parks messages that are due and asks their recipients to read.
pub async fn due_messages(app: App) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        app.delivery.resync_pending().await;
        while let Ok(true) = app.delivery.sweep().await {}
        for (lane, depth) in app.process.queue_depths() {
            metrics::gauge!("esh3ar_queue_depth", "lane" => lane.name()).set(depth as f64);
        }
    }
}

/// Compares what connected phones were sent with what is parked for them.
pub async fn positions(app: App) {
    loop {
        match app.delivery.count_waiting().await {
            Ok(waiting) => metrics::gauge!("esh3ar_messages_waiting").set(waiting as f64),
            Err(error) => tracing::warn!(%error, "parked messages could not be counted"),
        }
        let doubted = app.delivery.until_position_check().await;
        match app.delivery.check_positions(doubted).await {
            Ok(0) => {}
            Ok(behind) => tracing::info!(behind, "connections were behind and read again"),
            Err(error) => tracing::warn!(%error, "positions could not be checked"),
        }
    }
}
