//! Hands what was accepted to the connections, one worker a share, so that each recipient's
//! messages stay in order.

use crate::app::App;

/// The most messages taken at once.
const AT_ONCE: usize = 100;

/// For ever.
pub async fn run(app: App, share: usize) {
    loop {
        let deliveries = app.queue().next(share, AT_ONCE).await;
        app.failpoint("deliver_taken");
        app.deliver(&deliveries);
        app.failpoint("deliver_handed_over");
        // Handing over never waits, so the connections need to be let in between.
        tokio::task::yield_now().await;
    }
}
