//! `http.*`: the gateway.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    config::{
        keys::{default, key, unset},
        parse::{DAY, address, duration, flag, optional, path, whole},
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
        /// How long a client may take nothing of an answer.
        write_timeout: Duration = default("30s") => duration(DAY),
        /// How long a stop waits for requests and sockets.
        stop_timeout: Duration = default("20s") => duration(DAY),
        /// Whether /hub/diagnostics is there, for authors of clients.
        diagnostics_hub: bool = default("false") => flag,
        /// Addresses or networks of balancers, such as 10.0.0.0/8,127.0.0.1, whose X-Forwarded-For, Forwarded
        /// and PROXY protocol v2 headers are believed; unset: none.
        trusted_proxies: Vec<Network> = unset("10.0.0.0/8,127.0.0.1") => networks,
    }
    checked by check
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

fn check(_: &HttpConfig, reader: &mut Reader) {
    let (cert, key) = (key!("http.tls_cert"), key!("http.tls_key"));
    match (reader.is_set(cert), reader.is_set(key)) {
        (true, false) => reader.fault(cert, "needs http.tls_key beside it"),
        (false, true) => reader.fault(key, "needs http.tls_cert beside it"),
        _ => {}
    }
}
