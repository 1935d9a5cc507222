//! HTTP requests to servers of others: over kept-alive connections, with limits of time and size, and to no
//! private address unless that is allowed.
//!
//! This room knows how a request is sent and which kind of failure occurred, not what the request is for or
//! when to try again.

mod error;
mod resolver;

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};

pub use error::Error;
use resolver::Resolver;

use crate::{domain::network::is_public, tls};

/// Idle connections to each server. Many servers close them after a minute.
const MAX_IDLE_CONNECTIONS: usize = 16;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Keep-alive PINGs of HTTP/2.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressPolicy {
    /// Public addresses only, for URLs that users give.
    Public,
    /// Any address, through the proxy of the environment if there is one: for URLs that the administrator
    /// configured.
    Anywhere,
}

#[derive(Clone, Debug)]
pub struct OutboundLimits {
    pub policy: AddressPolicy,
    /// Includes TLS.
    pub connect_timeout: Duration,
    /// Includes the connection and the response.
    pub timeout: Duration,
    /// In bytes. The rest of a longer response is not read.
    pub max_response_len: usize,
    /// Whether a longer response is truncated instead of an error.
    pub truncate: bool,
    /// Certificates in PEM that are trusted in addition to the system's.
    pub extra_roots: Option<Vec<u8>>,
}

impl Default for OutboundLimits {
    /// Public addresses, 5 s to connect, 15 s in all, 64 KiB.
    fn default() -> OutboundLimits {
        OutboundLimits {
            policy: AddressPolicy::Public,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(15),
            max_response_len: 64 * 1024,
            truncate: false,
            extra_roots: None,
        }
    }
}

/// A response of any status.
#[derive(Clone, Debug)]
pub struct OutboundResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct OutboundClient {
    http: reqwest::Client,
    limits: Arc<OutboundLimits>,
}

impl OutboundClient {
    /// A client with these limits. Connects with the first request.
    ///
    /// # Errors
    /// [`Error::Unusable`]: the certificates cannot be read.
    pub fn new(limits: OutboundLimits) -> Result<OutboundClient, Error> {
        tls::install_crypto_provider();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(limits.connect_timeout)
            .timeout(limits.timeout)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .tcp_nodelay(true)
            // The target of a redirect would not be checked.
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(Arc::new(Resolver { policy: limits.policy }));
        if limits.policy == AddressPolicy::Public {
            // A proxy resolves names by itself.
            builder = builder.no_proxy();
        }
        if let Some(pem) = &limits.extra_roots {
            for root in reqwest::Certificate::from_pem_bundle(pem).map_err(error::unusable)? {
                builder = builder.add_root_certificate(root);
            }
        }
        let http = builder.build().map_err(error::unusable)?;
        Ok(OutboundClient { http, limits: Arc::new(limits) })
    }

    /// Sends a request and reads the response.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::is_unsent`] tells whether the server may have executed the request.
    pub async fn send(&self, request: Request<Bytes>) -> Result<OutboundResponse, Error> {
        let (parts, body) = request.into_parts();
        let url = self.check(&parts.uri.to_string())?;
        let request = self.http.request(parts.method, url).headers(parts.headers).body(body);
        let mut response = request.send().await.map_err(error::of_request)?;
        let (limit, truncate) = (self.limits.max_response_len, self.limits.truncate);
        if !truncate && response.content_length().is_some_and(|length| length > limit as u64) {
            return Err(Error::TooLarge { limit });
        }
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(error::of_response)? {
            let room = limit - body.len();
            if chunk.len() > room && !truncate {
                return Err(Error::TooLarge { limit });
            }
            body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
            if chunk.len() > room {
                break;
            }
        }
        Ok(OutboundResponse { status, headers, body: body.into() })
    }

    /// Whether a URL is allowed, as far as that is known before its name is resolved.
    ///
    /// # Errors
    /// [`Error::Unusable`], [`Error::Forbidden`].
    pub fn check(&self, address: &str) -> Result<reqwest::Url, Error> {
        let unusable = |why: &str| Error::Unusable(why.to_owned());
        let url: reqwest::Url =
            address.parse().map_err(|_| unusable("it is no http:// or https:// URL"))?;
        if !["http", "https"].contains(&url.scheme()) {
            return Err(unusable("it is no http:// or https:// URL"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(unusable("it has a user name or password"));
        }
        let Some(host) = url.host_str() else { return Err(unusable("it names no host")) };
        // Names are checked when they are resolved.
        let literal: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        match (self.limits.policy, literal) {
            (AddressPolicy::Public, Some(address)) if !is_public(address) => Err(Error::Forbidden),
            _ => Ok(url),
        }
    }
}

#[cfg(test)]
mod tests;
