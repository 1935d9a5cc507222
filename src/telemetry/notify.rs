//! Words to systemd; without it they go nowhere.

use std::time::Duration;

use sd_notify::NotifyState;

/// The appliance takes requests.
pub fn ready() {
    say(NotifyState::Ready);
}

/// The appliance is stopping.
pub fn stopping() {
    say(NotifyState::Stopping);
}

/// The appliance is alive.
pub fn alive() {
    say(NotifyState::Watchdog);
}

/// How often [`alive`] must be said, at half the time after which systemd would act; `None` without
/// a watchdog.
pub fn alive_every() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|timeout| timeout / 2)
}

fn say(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "the service manager could not be told");
    }
}
