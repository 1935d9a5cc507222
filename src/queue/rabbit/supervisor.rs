//! Keeps one connection: connects, and when it ends waits a little and connects again, for ever.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Error, Settings, State, link::Link};

/// The first wait after a failure; each further one doubles it, with up to as much again by chance,
/// so that a crowd does not come back as one.
const FIRST: Duration = Duration::from_millis(200);
/// The longest wait before chance.
const LONGEST: Duration = Duration::from_secs(3);
/// A connection that held this long was a good one: the waits begin anew.
const GOOD: Duration = Duration::from_secs(10);

/// One connection's keeper.
pub(super) struct Supervisor {
    settings: Settings,
    /// What the connection is for, as the broker shows it.
    name: &'static str,
    state: watch::Sender<State>,
    stop: CancellationToken,
    waits: ExponentialBackoff,
    wait: Option<Duration>,
    connected: Option<Instant>,
    /// Which address is next.
    next: usize,
    /// What was told last, so that a broker that is away for an hour is told once.
    told: Option<String>,
}

impl Supervisor {
    pub(super) fn new(
        settings: &Settings,
        name: &'static str,
        state: watch::Sender<State>,
        stop: CancellationToken,
    ) -> Supervisor {
        Supervisor {
            settings: settings.clone(),
            name,
            state,
            stop,
            waits: waits(),
            wait: None,
            connected: None,
            // Processes begin at different nodes.
            next: usize::try_from(std::process::id()).unwrap_or_default(),
            told: None,
        }
    }

    /// The next connection, however long it takes; `None` when the process stops.
    pub(super) async fn connect(&mut self) -> Option<Link> {
        let stop = self.stop.clone();
        stop.run_until_cancelled(async {
            loop {
                if let Some(wait) = self.wait.take() {
                    tokio::time::sleep(wait).await;
                }
                let addresses = &self.settings.addresses;
                let Some(address) = addresses.get(self.next % addresses.len().max(1)) else {
                    std::future::pending::<()>().await;
                    continue;
                };
                let name = format!("esh3ar {}", self.name);
                match Link::open(&self.settings, address, &name).await {
                    Ok(link) => return self.greet(link),
                    Err(error) => self.failed(&error),
                }
            }
        })
        .await
    }

    fn greet(&mut self, link: Link) -> Link {
        let broker = &link.broker;
        let address = self.settings.addresses.get(self.next % self.settings.addresses.len().max(1));
        let address = address.map(super::settings::Address::shown).unwrap_or_default();
        tracing::info!(
            version = broker.version,
            cluster = broker.cluster_name,
            address,
            role = self.name,
            "connected to RabbitMQ"
        );
        self.told = None;
        self.connected = Some(Instant::now());
        self.state.send_replace(State::Connected {
            version: broker.version.clone(),
            cluster_name: broker.cluster_name.clone(),
        });
        link
    }

    /// A connection ended, or none came about.
    pub(super) fn failed(&mut self, error: &Error) {
        if self.connected.take().is_some_and(|since| since.elapsed() >= GOOD) {
            self.waits = waits();
        }
        self.wait = self.waits.next();
        // Another node may be better.
        self.next = self.next.wrapping_add(1);
        let why = error.to_string();
        if self.told.as_ref() != Some(&why) {
            tracing::warn!(error = why, role = self.name, "no RabbitMQ; trying again");
            self.told = Some(why.clone());
        }
        self.state.send_modify(|state| {
            let since = match state {
                State::Down { since, .. } => *since,
                _ => Instant::now(),
            };
            *state = State::Down { since, why };
        });
    }
}

fn waits() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(FIRST)
        .with_max_delay(LONGEST)
        .with_factor(2.0)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_never_end() {
        let mut waits = waits();
        let mut longest = Duration::ZERO;
        for n in 0..200 {
            let wait = waits.next().unwrap();
            assert!(wait >= FIRST && wait <= 2 * LONGEST, "wait {n} is {wait:?}");
            longest = longest.max(wait);
        }
        assert!(longest >= LONGEST);
    }
}
