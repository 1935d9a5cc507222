//! Delivers accepted messages to connections. Each share has one loop, so that the messages of one partition
//! stay in order.

use std::{sync::Arc, time::Duration};

use crate::{
    app::App,
    presence::Delivery,
    queue::{Consumer, LocalQueue},
};

/// Messages taken from the queue at once.
const BATCH_SIZE: usize = 100;
/// The wait before a failed read or write is tried again.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Delivers what this process accepted itself.
pub async fn from_local_queue(app: App, queue: LocalQueue<Arc<Delivery>>, share: usize) {
    loop {
        let deliveries = queue.next(share, BATCH_SIZE).await;
        app.failpoint("deliver_taken");
        app.delivery.deliver(&deliveries).await;
        app.failpoint("deliver_handed_over");
        // Handing over never waits, so other tasks need a turn in between.
        tokio::task::yield_now().await;
    }
}

/// Delivers the messages that the broker names.
pub async fn from_broker(app: App, consumer: Consumer, share: usize) {
    let mut connections = 0;
    loop {
        let batch = consumer.next(share).await;
        app.failpoint("deliver_taken");
        while connections != consumer.connection_count() {
            let now = consumer.connection_count();
            match app.delivery.resync_after_lost_wake_ups().await {
                Ok(nudged) => {
                    connections = now;
                    tracing::debug!(
                        nudged,
                        "asked recipients to read messages whose wake-ups may have been lost"
                    );
                }
                Err(error) => {
                    tracing::warn!(%error, "recipients of lost wake-ups could not be asked to read");
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
        while let Err(error) = app.delivery.deliver_named(&batch.wake_ups).await {
            // The broker keeps the batch, and redelivers it to another worker if this one dies.
            tracing::warn!(%error, "messages to deliver could not be read");
            tokio::time::sleep(RETRY_DELAY).await;
        }
        app.failpoint("deliver_handed_over");
        batch.ack();
    }
}

/// Stores unreadable frames as dead letters.
pub async fn dead_frames(app: App, consumer: Consumer) {
    loop {
        let frame = consumer.next_dead().await;
        while let Err(error) =
            app.delivery.bury_frame(&frame.body, &frame.reason, &frame.queue).await
        {
            tracing::warn!(%error, "an unreadable frame could not be stored");
            tokio::time::sleep(RETRY_DELAY).await;
        }
        frame.ack();
    }
}
