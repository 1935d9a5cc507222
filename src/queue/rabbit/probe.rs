//! Whether the nodes of a broker let us in, without leaving anything there.

use futures_util::future::join_all;

use super::{Error, Settings, link};

/// Logs in at each node and out again; gives each, for people, with its version.
pub async fn look(settings: &Settings) -> Vec<(String, Result<String, Error>)> {
    let looked = settings
        .addresses
        .iter()
        .map(|address| async move { (address.shown(), link::greet(address).await) });
    join_all(looked).await
}
