//! `cluster.*`: how the gateways of an installation reach each other.

use crate::config::{key::unset, parse::optional, sections::section::section};

section! {
    /// This process among others.
    pub struct ClusterConfig in "cluster." {
        /// Address at which other gateways reach this one, such as http://10.0.0.5:5000. Unset: http.listen,
        /// unless that is a wildcard.
        address: Option<String> = unset("http://10.0.0.5:5000") => optional(gateway),
    }
}

fn gateway(address: &str) -> Result<String, String> {
    let host = ["http://", "https://"].iter().find_map(|scheme| address.strip_prefix(scheme));
    if host.is_none_or(|host| host.is_empty() || host.contains(['/', '?', '@'])) {
        return Err("must be http://host:port or https://host:port".to_owned());
    }
    Ok(address.to_owned())
}
