//! Long-lived forwarded requests: tunnels, event streams, polls. They are no connections of this gateway, but
//! have to close when it drains or stops.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::app::App;

/// Streams closed per second while draining, at least; all within about `DRAIN_WAVES` seconds.
const DRAIN_WAVE_SIZE: usize = 50;
const DRAIN_WAVES: usize = 30;
/// The same while the process stops, within about `STOP_WAVES` seconds.
const STOP_WAVE_SIZE: usize = 500;
const STOP_WAVES: usize = 10;
const WAVE_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Default)]
struct State {
    next: u64,
    streams: HashMap<u64, CancellationToken>,
    /// New streams are cancelled at once.
    closed: bool,
}

/// Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct ForwardedStreams {
    state: Arc<Mutex<State>>,
}

/// Dropping it removes the stream.
pub(super) struct ForwardedStream {
    streams: ForwardedStreams,
    id: u64,
    cancel: CancellationToken,
}

impl ForwardedStreams {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn register(&self) -> ForwardedStream {
        let cancel = CancellationToken::new();
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        if state.closed {
            cancel.cancel();
        }
        state.streams.insert(id, cancel.clone());
        metrics::gauge!("esh3ar_hub_forwarded").set(state.streams.len() as f64);
        drop(state);
        ForwardedStream { streams: self.clone(), id, cancel }
    }

    /// Cancels up to `most` streams. Returns how many are left.
    fn cancel_some(&self, most: usize) -> usize {
        let state = self.state();
        let mut left = 0;
        for (n, cancel) in
            state.streams.values().filter(|cancel| !cancel.is_cancelled()).enumerate()
        {
            if n < most {
                cancel.cancel();
            } else {
                left += 1;
            }
        }
        left
    }

    fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.streams.values().for_each(CancellationToken::cancel);
    }

    /// Closes the streams in waves when the process drains or stops.
    pub(super) async fn close_in_waves(self, app: App, stop: CancellationToken) {
        let mut largest = 0;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(WAVE_INTERVAL) => {}
            }
            if app.process.is_draining() {
                largest = largest.max(self.state().streams.len());
                self.cancel_some(DRAIN_WAVE_SIZE.max(largest.div_ceil(DRAIN_WAVES)));
            } else {
                largest = 0;
            }
        }
        let largest = self.state().streams.len();
        for _ in 0..STOP_WAVES {
            if self.cancel_some(STOP_WAVE_SIZE.max(largest.div_ceil(STOP_WAVES))) == 0 {
                break;
            }
            tokio::time::sleep(WAVE_INTERVAL).await;
        }
        self.close();
    }
}

impl ForwardedStream {
    pub(super) async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// The same, for a future that outlives the borrow.
    pub(super) fn cancelled_owned(&self) -> WaitForCancellationFutureOwned {
        self.cancel.clone().cancelled_owned()
    }
}

impl Drop for ForwardedStream {
    fn drop(&mut self) {
        let mut state = self.streams.state();
        state.streams.remove(&self.id);
        metrics::gauge!("esh3ar_hub_forwarded").set(state.streams.len() as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_go_in_waves_and_nobody_is_forgotten() {
        let streams = ForwardedStreams::default();
        let staying: Vec<ForwardedStream> = (0..5).map(|_| streams.register()).collect();
        let asked = || staying.iter().filter(|stream| stream.cancel.is_cancelled()).count();
        assert_eq!((streams.cancel_some(2), asked()), (3, 2));
        assert_eq!((streams.cancel_some(2), asked()), (1, 4));
        drop(streams.register());
        assert_eq!((streams.cancel_some(2), asked()), (0, 5));
        streams.close();
        assert!(streams.register().cancel.is_cancelled(), "who comes at the last moment");
        drop(staying);
        assert!(streams.state().streams.is_empty());
    }
}
