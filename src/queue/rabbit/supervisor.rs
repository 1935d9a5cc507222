//! Keeps one connection: reconnects with backoff whenever it ends.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{BrokerSettings, BrokerState, Error, broker_connection::BrokerConnection};

/// Doubled after every further failure, plus jitter of up to the same length, so that many processes do not
/// reconnect at once.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(200);
/// Before jitter.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(3);
/// A connection that lasted this long resets the backoff.
const STABLE_AFTER: Duration = Duration::from_secs(10);

pub(super) struct Supervisor {
    settings: BrokerSettings,
    /// The purpose of the connection, as the broker shows it.
    name: &'static str,
    state: watch::Sender<BrokerState>,
    stop: CancellationToken,
    backoff: ExponentialBackoff,
    retry_delay: Option<Duration>,
    connected: Option<Instant>,
    next: usize,
    /// The last error that was logged, so that an outage of an hour is logged once.
    last_logged: Option<String>,
}

impl Supervisor {
    pub(super) fn new(
        settings: &BrokerSettings,
        name: &'static str,
        state: watch::Sender<BrokerState>,
        stop: CancellationToken,
    ) -> Supervisor {
        Supervisor {
            settings: settings.clone(),
            name,
            state,
            stop,
            backoff: backoff(),
            retry_delay: None,
            connected: None,
            // Processes start with different nodes.
            next: usize::try_from(std::process::id()).unwrap_or_default(),
            last_logged: None,
        }
    }

    /// Connects, however long it takes; `None` when the process stops.
    pub(super) async fn connect(&mut self) -> Option<BrokerConnection> {
        let stop = self.stop.clone();
        stop.run_until_cancelled(async {
            loop {
                if let Some(retry_delay) = self.retry_delay.take() {
                    tokio::time::sleep(retry_delay).await;
                }
                let addresses = &self.settings.addresses;
                let Some(address) = addresses.get(self.next % addresses.len().max(1)) else {
                    std::future::pending::<()>().await;
                    continue;
                };
                let name = format!("esh3ar {}", self.name);
                match BrokerConnection::open(&self.settings, address, &name).await {
                    Ok(connection) => return self.connected_to(connection),
                    Err(error) => self.failed(&error),
                }
            }
        })
        .await
    }

    fn connected_to(&mut self, connection: BrokerConnection) -> BrokerConnection {
        let broker = &connection.broker;
        let address = self.settings.addresses.get(self.next % self.settings.addresses.len().max(1));
        let address = address.map(super::settings::Address::shown).unwrap_or_default();
        tracing::info!(
            version = broker.version,
            cluster = broker.cluster_name,
            address,
            role = self.name,
            "connected to RabbitMQ"
        );
        self.last_logged = None;
        self.connected = Some(Instant::now());
        self.state.send_replace(BrokerState::Connected {
            version: broker.version.clone(),
            cluster_name: broker.cluster_name.clone(),
        });
        connection
    }

    /// A connection ended, or could not be opened.
    pub(super) fn failed(&mut self, error: &Error) {
        if self.connected.take().is_some_and(|since| since.elapsed() >= STABLE_AFTER) {
            self.backoff = backoff();
        }
        self.retry_delay = self.backoff.next();
        // Try another node next.
        self.next = self.next.wrapping_add(1);
        let why = error.to_string();
        if self.last_logged.as_ref() != Some(&why) {
            tracing::warn!(error = why, role = self.name, "RabbitMQ cannot be reached; retrying");
            self.last_logged = Some(why.clone());
        }
        self.state.send_modify(|state| {
            let since = match state {
                BrokerState::Down { since, .. } => *since,
                _ => Instant::now(),
            };
            *state = BrokerState::Down { since, why };
        });
    }
}

fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(MIN_RETRY_DELAY)
        .with_max_delay(MAX_RETRY_DELAY)
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
        let mut backoff = backoff();
        let mut longest = Duration::ZERO;
        for n in 0..200 {
            let retry_delay = backoff.next().unwrap();
            assert!(
                retry_delay >= MIN_RETRY_DELAY && retry_delay <= 2 * MAX_RETRY_DELAY,
                "wait {n} is {retry_delay:?}"
            );
            longest = longest.max(retry_delay);
        }
        assert!(longest >= MAX_RETRY_DELAY);
    }
}
