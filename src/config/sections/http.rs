//! `http.*`: the gateway.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    config::{
        key::{default, unset},
        parse::{DAY, address, duration, flag, optional, path, whole},
        reader::Reader,
        sections::{key, section::section},
    },
    domain::{network::Network, web_origin::AllowedOrigin},
};

section! {
    /// The gateway.
    pub struct HttpConfig in "http." {
        /// Listen address of the API and the hub.
        listen: SocketAddr = default("127.0.0.1:5000") => address,
        /// TLS certificate chain (PEM). With http.tls_key, the gateway terminates TLS itself and reloads
        /// renewed files.
        tls_cert: Option<PathBuf> = unset("/etc/esh3ar/tls.crt") => optional(path),
        /// TLS private key (PEM).
        tls_key: Option<PathBuf> = unset("/etc/esh3ar/tls.key") => optional(path),
        /// Maximum number of HTTP connections, and separately of hub sockets.
        max_connections: usize = default("20000") => whole(1..=4_294_967_295),
        /// Maximum number of unauthenticated HTTP connections per client address, capped at half of
        /// http.max_connections. Above it, the longest-idle one of that address is closed.
        max_unauthenticated_per_address: usize = default("1000") => whole(1..=4_294_967_295),
        /// Maximum number of HTTP connections per user, capped at half of http.max_connections. Above it, the
        /// user's longest-idle connection is closed.
        max_connections_per_party: usize = default("2000") => whole(1..=4_294_967_295),
        /// Timeout for the TLS handshake and for request headers, and idle timeout of unauthenticated
        /// connections.
        header_timeout: Duration = default("10s") => duration(DAY),
        /// Close a connection whose client reads no byte of a response for this long.
        write_timeout: Duration = default("30s") => duration(DAY),
        /// Grace period at shutdown for open requests and sockets.
        stop_timeout: Duration = default("20s") => duration(DAY),
        /// Serve /hub/diagnostics, a test hub for client developers.
        diagnostics_hub: bool = default("false") => flag,
        /// Addresses or networks of load balancers, such as 10.0.0.0/8,127.0.0.1, whose X-Forwarded-For,
        /// Forwarded and PROXY protocol v2 headers are trusted. Unset: none.
        trusted_proxies: Vec<Network> = unset("10.0.0.0/8,127.0.0.1") => networks,
        /// Origins of web pages that may call the API and the hub from a browser, such as
        /// https://app.example.com; * allows any, without credentials. Unset: only pages of the server itself.
        cors_origins: Vec<AllowedOrigin> = unset("https://app.example.com") => origins,
    }
    checked by check
}

impl HttpConfig {
    /// Certificate chain and key, where the gateway serves TLS itself.
    pub fn tls(&self) -> Option<(&Path, &Path)> {
        self.tls_cert.as_deref().zip(self.tls_key.as_deref())
    }
}

pub(super) fn networks(text: &str) -> Result<Vec<Network>, String> {
    Network::list(text)
        .map_err(|error| format!("must be addresses or networks separated by commas: {error}"))
}

fn origins(text: &str) -> Result<Vec<AllowedOrigin>, String> {
    AllowedOrigin::list(text)
        .map_err(|error| format!("must be origins separated by commas: {error}"))
}

fn check(_: &HttpConfig, reader: &mut Reader) {
    let (cert, key) = (key!("http.tls_cert"), key!("http.tls_key"));
    match (reader.is_set(cert), reader.is_set(key)) {
        (true, false) => reader.problem(cert, "needs http.tls_key"),
        (false, true) => reader.problem(key, "needs http.tls_cert"),
        _ => {}
    }
}
