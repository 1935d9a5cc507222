//! Emptying this process for maintenance: connections are sent elsewhere in waves, so that not all of
//! them come back in the same moment.

use std::sync::atomic::Ordering;

use super::App;

/// Connections asked to leave in a second, at least.
const WAVE: usize = 50;
/// Whatever their number, they are asked within about this many seconds.
const WAVES: usize = 30;

impl App {
    /// Begins or ends the emptying of this process.
    pub fn drain(&self, draining: bool) {
        self.inner.draining.store(draining, Ordering::Release);
        tracing::info!(
            draining,
            connections = self.presence().local().connections(),
            "draining changed"
        );
    }

    /// Whether this process is being emptied: it takes no connections then, and answers requests.
    pub fn is_draining(&self) -> bool {
        self.inner.draining.load(Ordering::Acquire)
    }

    /// Asks the next wave of connections to leave. `largest` is how many there were in the beginning;
    /// gives that of now, to be brought along the next time.
    pub fn drain_wave(&self, largest: usize) -> usize {
        if !self.is_draining() {
            return 0;
        }
        let largest = largest.max(self.presence().local().connections());
        self.presence().local().close_some(WAVE.max(largest.div_ceil(WAVES)));
        largest
    }
}
