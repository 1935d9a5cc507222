//! Pools of connections to Postgres: how a connection is made, and what every one is told first.

use std::time::Duration;

use deadpool::{
    Runtime,
    managed::{self, QueueMode},
};
use tokio_postgres_rustls::MakeRustlsConnect;

pub use super::primary::{Target, may_be_unencrypted, name};
use super::{
    Error,
    primary::{self, PrimaryConnector},
};
use crate::tls;

pub(super) type Pool = managed::Pool<PrimaryConnector>;

/// No statement of ours takes longer; one that does is cut and counts as unavailable.
const STATEMENT_TIMEOUT_MS: u32 = 15_000;

/// Every statement here reads by an index and joins by looking up. The planner would at times read a
/// table whole instead, because its statistics lag behind a table that grows by thousands of rows a
/// second, and keep that plan for as long as the statement stays prepared. To compile one costs more than
/// any of them takes.
const BY_INDEX: &str = "SET enable_seqscan = off; SET enable_bitmapscan = off; \
                        SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off;";

/// A pool of which nobody waits for a connection longer than `wait`.
pub(super) fn pool(mut config: Target, size: usize, wait: Duration) -> Result<Pool, Error> {
    config
        .connect_timeout(wait)
        .keepalives_idle(Duration::from_secs(30))
        .tcp_user_timeout(Duration::from_secs(15));
    if config.get_application_name().is_none() {
        config.application_name("esh3ar");
    }
    let tls = if primary::wants_tls(&config) { Some(connector()?) } else { None };
    let settings = format!(
        "{BY_INDEX} SET statement_timeout = {STATEMENT_TIMEOUT_MS}; SET lock_timeout = 5000; \
         SET idle_in_transaction_session_timeout = 15000; SET timezone = 'UTC'"
    );
    managed::Pool::builder(PrimaryConnector::new(&config, tls, settings))
        .max_size(size)
        // The connection used last has its statements and pages in the processor's cache.
        .queue_mode(QueueMode::Lifo)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(wait))
        .create_timeout(Some(wait))
        .recycle_timeout(Some(wait))
        .build()
        .map_err(|error| Error::Unavailable(error.to_string()))
}

fn connector() -> Result<MakeRustlsConnect, Error> {
    let config = tls::client_config().map_err(|error| Error::Unavailable(error.to_string()))?;
    Ok(MakeRustlsConnect::new(config))
}
