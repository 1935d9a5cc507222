//! Checks the login on each node of a broker without declaring anything.

use futures_util::future::join_all;

use super::{BrokerSettings, Error, broker_connection};

/// Logs in and out on each node. Returns every node with its version.
pub async fn check_login(settings: &BrokerSettings) -> Vec<(String, Result<String, Error>)> {
    let checked = settings
        .addresses
        .iter()
        .map(|address| async move { (address.shown(), broker_connection::check(address).await) });
    join_all(checked).await
}
