//! What passes through here and stays: tunnels, streams, held requests. They are no connections of this
//! gateway, and have to leave with it all the same.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::app::App;

/// How many are asked to cancel in one second, at least; all within about `DRAIN_WAVES` seconds.
const DRAIN_WAVE_SIZE: usize = 50;
const DRAIN_WAVES: usize = 30;
/// The same when the process stops, and in how many seconds.
const STOP_WAVE_SIZE: usize = 500;
const STOP_WAVES: usize = 10;
const WAVE_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Default)]
struct State {
    next: u64,
    streams: HashMap<u64, CancellationToken>,
    /// Nobody may stay.
    closed: bool,
}

/// Everything that stays. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct ForwardedStreams {
    state: Arc<Mutex<State>>,
}

/// One of them; dropping it tells that it has left.
pub(super) struct ForwardedStream {
    streams: ForwardedStreams,
    id: u64,
    cancel: CancellationToken,
}

impl ForwardedStreams {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more.
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

    /// Asks some of those to cancel who were not asked yet. How many are left who were not.
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

    /// Sees them off when the process is emptied, wave by wave, and when it stops.
    pub(super) async fn close_in_waves(self, app: App, stop: CancellationToken) {
        let mut largest = 0;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(WAVE_INTERVAL) => {}
            }
            if app.is_draining() {
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
    /// Waits until it has to cancel.
    pub(super) async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// The same, for one that outlives the borrow.
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
