//! What passes through here and stays: tunnels, streams, held requests. They are no connections of this
//! gateway, and have to leave with it all the same.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::app::App;

/// How many are asked to go in one second, at least; all within about `WAVES` seconds.
const WAVE: usize = 50;
const WAVES: usize = 30;
/// The same when the process stops, and in how many seconds.
const LAST_WAVE: usize = 500;
const LAST_WAVES: usize = 10;
const BETWEEN: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Present {
    next: u64,
    guests: HashMap<u64, CancellationToken>,
    /// Nobody may stay.
    closed: bool,
}

/// Everything that stays. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Guests {
    present: Arc<Mutex<Present>>,
}

/// One of them; dropping it tells that it has left.
pub(super) struct Guest {
    guests: Guests,
    id: u64,
    go: CancellationToken,
}

impl Guests {
    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more.
    pub(super) fn enter(&self) -> Guest {
        let go = CancellationToken::new();
        let mut present = self.present();
        let id = present.next;
        present.next += 1;
        if present.closed {
            go.cancel();
        }
        present.guests.insert(id, go.clone());
        metrics::gauge!("esh3ar_hub_forwarded").set(present.guests.len() as f64);
        drop(present);
        Guest { guests: self.clone(), id, go }
    }

    /// Asks some of those to go who were not asked yet. How many are left who were not.
    fn ask_some(&self, most: usize) -> usize {
        let present = self.present();
        let mut left = 0;
        for (n, go) in present.guests.values().filter(|go| !go.is_cancelled()).enumerate() {
            if n < most {
                go.cancel();
            } else {
                left += 1;
            }
        }
        left
    }

    fn close(&self) {
        let mut present = self.present();
        present.closed = true;
        present.guests.values().for_each(CancellationToken::cancel);
    }

    /// Sees them off when the process is emptied, wave by wave, and when it stops.
    pub(super) async fn see_off(self, app: App, stop: CancellationToken) {
        let mut largest = 0;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(BETWEEN) => {}
            }
            if app.process.is_draining() {
                largest = largest.max(self.present().guests.len());
                self.ask_some(WAVE.max(largest.div_ceil(WAVES)));
            } else {
                largest = 0;
            }
        }
        let largest = self.present().guests.len();
        for _ in 0..LAST_WAVES {
            if self.ask_some(LAST_WAVE.max(largest.div_ceil(LAST_WAVES))) == 0 {
                break;
            }
            tokio::time::sleep(BETWEEN).await;
        }
        self.close();
    }
}

impl Guest {
    /// Waits until it has to go.
    pub(super) async fn asked_to_go(&self) {
        self.go.cancelled().await;
    }

    /// The same, for one that outlives the borrow.
    pub(super) fn until_asked_to_go(&self) -> WaitForCancellationFutureOwned {
        self.go.clone().cancelled_owned()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut present = self.guests.present();
        present.guests.remove(&self.id);
        metrics::gauge!("esh3ar_hub_forwarded").set(present.guests.len() as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_go_in_waves_and_nobody_is_forgotten() {
        let guests = Guests::default();
        let staying: Vec<Guest> = (0..5).map(|_| guests.enter()).collect();
        let asked = || staying.iter().filter(|guest| guest.go.is_cancelled()).count();
        assert_eq!((guests.ask_some(2), asked()), (3, 2));
        assert_eq!((guests.ask_some(2), asked()), (1, 4));
        drop(guests.enter());
        assert_eq!((guests.ask_some(2), asked()), (0, 5));
        guests.close();
        assert!(guests.enter().go.is_cancelled(), "who comes at the last moment");
        drop(staying);
        assert!(guests.present().guests.is_empty());
    }
}
