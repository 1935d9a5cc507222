//! Notifications to systemd; no-ops without it.

use std::time::Duration;

use sd_notify::NotifyState;

/// Ready for requests. `what` is the status line of `systemctl status`.
pub fn ready(what: &str) {
    say(&[NotifyState::Ready, NotifyState::Status(what)]);
}

/// A reload has begun; [`ready`] follows.
pub fn reloading() {
    // systemd uses the time to tell several reloads apart.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no monotonic clock"),
    }
}

/// Shutdown has begun.
pub fn stopping() {
    say(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// Watchdog ping. Call it from the main loop, not from a timer that would outlive a hang.
pub fn watchdog() {
    say(&[NotifyState::Watchdog]);
}

/// Interval of [`watchdog`] pings: a third of systemd's timeout, so that one may be late. `None` without a
/// watchdog.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|timeout| timeout / 3)
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}
