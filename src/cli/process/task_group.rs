//! Tasks that are stopped together.

use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

#[derive(Clone, Default)]
pub(crate) struct TaskGroup {
    pub(crate) stop: CancellationToken,
    pub(crate) tracker: TaskTracker,
}

impl TaskGroup {
    pub(crate) async fn end(&self, timeout: Duration, what: &str) {
        self.stop.cancel();
        self.tracker.close();
        if tokio::time::timeout(timeout, self.tracker.wait()).await.is_err() {
            tracing::warn!(left = self.tracker.len(), what, "tasks did not stop in time");
        }
    }
}
