//! Words to systemd; without it they go nowhere.

use std::time::Duration;

use sd_notify::NotifyState;

/// The appliance takes requests. `what` is a line for `systemctl status`.
pub fn ready(what: &str) {
    say(&[NotifyState::Ready, NotifyState::Status(what)]);
}

/// The appliance takes up its configuration again; [`ready`] follows.
pub fn reloading() {
    // Without the time systemd would not know which of several reloads is meant.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no monotonic clock"),
    }
}

/// The appliance is stopping.
pub fn stopping() {
    say(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// The appliance is alive. To be said by who has just seen it, not by a timer that would go on ticking
/// over a dead one.
pub fn watchdog() {
    say(&[NotifyState::Watchdog]);
}

/// How often [`watchdog`] must be said: a third of the time after which systemd would act, so that one
/// look may come late. `None` without a watchdog.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|timeout| timeout / 3)
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}
