//! Hands what was accepted to the connections, one worker a share, so that what belongs to one partition
//! stays in order.

use std::{sync::Arc, time::Duration};

use crate::{
    app::App,
    presence::Delivery,
    queue::{Consumer, LocalQueue},
};

/// The most messages taken at once.
const AT_ONCE: usize = 100;
/// The wait before what could not be read is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// What this process accepted itself. For ever.
pub async fn here(app: App, queue: LocalQueue<Arc<Delivery>>, share: usize) {
    loop {
        let deliveries = queue.next(share, AT_ONCE).await;
        app.failpoint("deliver_taken");
        app.deliver(&deliveries).await;
        app.failpoint("deliver_handed_over");
        // Handing over never waits, so the connections need to be let in between.
        tokio::task::yield_now().await;
    }
}

/// What the broker names. For ever.
pub async fn named(app: App, consumer: Consumer, share: usize) {
    let mut connections = 0;
    loop {
        let taken = consumer.next(share).await;
        app.failpoint("deliver_taken");
        while connections != consumer.connection_count() {
            let now = consumer.connection_count();
            match app.make_up_for_lost_wake_ups().await {
                Ok(nudged) => {
                    connections = now;
                    tracing::debug!(nudged, "asked recipients to read what may have been lost");
                }
                Err(error) => {
                    tracing::warn!(%error, "lost wake-ups could not be made up for");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        while let Err(error) = app.deliver_named(&taken.wake_ups).await {
            // The broker keeps it meanwhile, for another worker if this one does not come back to it.
            tracing::warn!(%error, "messages that are to be delivered could not be read");
            tokio::time::sleep(AGAIN).await;
        }
        app.failpoint("deliver_handed_over");
        taken.ack();
    }
}

/// What nobody can read becomes a dead letter. For ever.
pub async fn dead(app: App, consumer: Consumer) {
    loop {
        let frame = consumer.next_dead().await;
        while let Err(error) = app.bury_frame(&frame.body, &frame.reason, &frame.queue).await {
            tracing::warn!(%error, "an unreadable frame could not be stored");
            tokio::time::sleep(AGAIN).await;
        }
        frame.ack();
    }
}
