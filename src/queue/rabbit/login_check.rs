//! Whether the nodes of a broker let us in, without leaving anything there.

use futures_util::future::join_all;

use super::{BrokerSettings, Error, broker_connection};

/// Logs in at each node and out again; gives each, for people, with its version.
pub async fn check_login(settings: &BrokerSettings) -> Vec<(String, Result<String, Error>)> {
    let checked = settings
        .addresses
        .iter()
        .map(|address| async move { (address.shown(), broker_connection::check(address).await) });
    join_all(checked).await
}
