//! `http.*`: the gateway.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    config::{
        keys::{default, key, unset},
        parse::{DAY, address, duration, flag, one_of, optional, path, whole},
        reader::Reader,
        section::section,
    },
    domain::network::Network,
};

section! {
    /// The gateway.
    pub struct HttpConfig in "http." {
        /// Address of the API and the hub.
        listen: SocketAddr = default("127.0.0.1:5000") => address,
        /// Certificate chain in PEM; with http.tls_key the gateway serves TLS itself and takes up renewed
        /// files.
        tls_cert: Option<PathBuf> = unset("/etc/esh3ar/tls.crt") => optional(path),
        /// Private key in PEM.
        tls_key: Option<PathBuf> = unset("/etc/esh3ar/tls.key") => optional(path),
        /// HTTP connections at once, and sockets of the hub at once.
        max_connections: usize = default("20000") => whole(1..=4_294_967_295),
        /// How long the headers of a request may take.
        header_timeout: Duration = default("10s") => duration(DAY),
        /// How long a stop waits for requests and sockets.
        stop_timeout: Duration = default("20s") => duration(DAY),
        /// Whether /hub/diagnostics is there, for authors of clients.
        diagnostics_hub: bool = default("false") => flag,
        /// Addresses or networks of balancers, such as 10.0.0.0/8,127.0.0.1, whose X-Forwarded-For, Forwarded
        /// and PROXY protocol v2 headers are believed; unset: none.
        trusted_proxies: Vec<Network> = unset("10.0.0.0/8,127.0.0.1") => networks,
        /// Whether connections from http.trusted_proxies begin with a PROXY protocol v2 header: off or v2.
        proxy_protocol: ProxyProtocol = default("off") => one_of(&[
            ("off", ProxyProtocol::Off),
            ("v2", ProxyProtocol::V2),
        ]),
    }
    checked by check
}

/// With what a connection from a trusted proxy begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// With the request, or with TLS.
    Off,
    /// With a header of the PROXY protocol, version 2.
    V2,
}

impl HttpConfig {
    /// Certificate chain and key, where the gateway serves TLS itself.
    pub fn tls(&self) -> Option<(&Path, &Path)> {
        self.tls_cert.as_deref().zip(self.tls_key.as_deref())
    }
}

fn networks(text: &str) -> Result<Vec<Network>, String> {
    Network::list(text)
        .map_err(|error| format!("must be addresses or networks with commas: {error}"))
}

fn check(http: &HttpConfig, reader: &mut Reader) {
    let (cert, key) = (key!("http.tls_cert"), key!("http.tls_key"));
    match (reader.is_set(cert), reader.is_set(key)) {
        (true, false) => reader.fault(cert, "needs http.tls_key beside it"),
        (false, true) => reader.fault(key, "needs http.tls_cert beside it"),
        _ => {}
    }
    let names_none =
        networks(reader.text(key!("http.trusted_proxies"))).is_ok_and(|n| n.is_empty());
    if http.proxy_protocol == ProxyProtocol::V2 && names_none {
        reader.fault(key!("http.proxy_protocol"), "needs http.trusted_proxies beside it");
    }
}
