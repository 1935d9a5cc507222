//! When a writer that shares its commits waits for company.
//!
//! A statement costs Postgres some 200 to 400 µs whatever it carries, and 10 to 20 µs a row. At an
//! idle moment nobody waits; in a crowd a moment's wait makes one statement of several.

use std::time::Duration;

/// A batch of this many callers says that more are on their way.
const CROWD: usize = 12;
/// The wait, which is within the 2 ms that delivery.md, How 3 allows.
const MOMENT: Duration = Duration::from_millis(1);

/// Remembers how full the last batch was.
#[derive(Debug, Default)]
pub(super) struct Gather {
    last: usize,
}

impl Gather {
    /// Waits for company if the last batch had some.
    pub(super) async fn wait(&self) {
        if self.last >= CROWD {
            tokio::time::sleep(MOMENT).await;
        }
    }

    /// Notes how many callers share the batch. One who brings many rows is no crowd: waiting would
    /// only hold that one up.
    pub(super) fn took(&mut self, count: usize) {
        self.last = count;
    }
}
