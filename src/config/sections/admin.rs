//! `admin.*`: from where the admin API may be called.

use std::net::SocketAddr;

use super::http::networks;
use crate::{
    config::{
        key::unset,
        parse::{address, optional},
        sections::section::section,
    },
    domain::network::Network,
};

section! {
    /// Administration.
    pub struct AdminConfig in "admin." {
        /// Listen address of the admin API, with the TLS of http.listen. It also answers health and
        /// /openapi.json; http.listen then has no admin API. Unset: http.listen answers it.
        listen: Option<SocketAddr> = unset("10.0.0.5:5002") => optional(address),
        /// Addresses or networks from which the admin API may be called, such as 10.0.0.0/8,127.0.0.1.
        /// http.trusted_proxies decides which address a request counts as. Unset: all.
        networks: Vec<Network> = unset("10.0.0.0/8,127.0.0.1") => networks,
    }
}
