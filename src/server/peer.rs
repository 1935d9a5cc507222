//! The client's address of a request. Headers that name one are trusted only from load balancers in
//! `http.trusted_proxies`.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use rfc7239::NodeName;

use crate::domain::network::Network;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Load balancers in front of each other.
const MAX_HOPS: usize = 16;

/// The trusted load balancers. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies {
    networks: Arc<[Network]>,
}

impl TrustedProxies {
    pub fn new(networks: &[Network]) -> TrustedProxies {
        TrustedProxies { networks: networks.into() }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address))
    }

    /// The client of a request that arrived from `connected`: the last address in the headers that is not a
    /// trusted load balancer itself.
    pub fn client(&self, connected: IpAddr, headers: &HeaderMap) -> IpAddr {
        if !self.contains(connected) {
            return connected;
        }
        let x_forwarded_for = self.follow(connected, x_forwarded_for(headers));
        let forwarded = self.follow(connected, forwarded(headers));
        match (headers.contains_key(X_FORWARDED_FOR), headers.contains_key(header::FORWARDED)) {
            (true, false) => x_forwarded_for,
            (false, true) => forwarded,
            // A load balancer writes one of the two headers and passes on the client's other one. Which is
            // which is unknown.
            (true, true) if x_forwarded_for == forwarded => forwarded,
            _ => connected,
        }
    }

    /// The address that a connection counts for. A load balancer on this machine is trusted for this, and for
    /// nothing else, even if it is not configured: otherwise all its clients would count as one.
    pub fn counted_for(&self, connected: IpAddr, client: IpAddr, headers: &HeaderMap) -> IpAddr {
        if client != connected || !connected.is_loopback() {
            return client;
        }
        let named = x_forwarded_for(headers).next().flatten();
        named.or_else(|| forwarded(headers).next().flatten()).unwrap_or(client)
    }

    /// Whether the client of a request that arrived from `connected` uses TLS, as a trusted load balancer says.
    pub fn names_tls(&self, connected: IpAddr, headers: &HeaderMap) -> bool {
        self.contains(connected)
            && lines(headers, X_FORWARDED_PROTO)
                .flat_map(|line| line.split(','))
                .any(|scheme| scheme.trim().eq_ignore_ascii_case("https"))
    }

    fn follow(&self, connected: IpAddr, hops: impl Iterator<Item = Option<IpAddr>>) -> IpAddr {
        let mut from = connected;
        for hop in hops.take(MAX_HOPS) {
            // Everything before a hop that is no address comes from an unknown source.
            let Some(hop) = hop else { break };
            from = hop;
            if !self.contains(hop) {
                break;
            }
        }
        from
    }
}

/// The lines of a header, last one first.
fn lines(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines: Vec<&HeaderValue> = headers.get_all(name).iter().collect();
    // A value that is no text names no address.
    lines.into_iter().rev().map(|line| line.to_str().unwrap_or_default())
}

fn x_forwarded_for(headers: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> {
    lines(headers, X_FORWARDED_FOR).flat_map(|line| line.rsplit(',').map(address))
}

fn forwarded(headers: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> {
    lines(headers, header::FORWARDED).flat_map(|line| {
        rfc7239::parse(line).rev().map(|hop| match hop.ok()?.forwarded_for?.name {
            NodeName::Ip(address) => Some(address.to_canonical()),
            _ => None,
        })
    })
}

/// Parses an address; some load balancers append a port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let plain = || text.trim_matches(['[', ']']).parse().ok();
    let with_port = || text.parse().ok().map(|address: std::net::SocketAddr| address.ip());
    plain().or_else(with_port).map(|address: IpAddr| address.to_canonical())
}

/// The address block that limits count as one client: for IPv6 the /64 network, because one host has 2^64
/// addresses.
pub fn block(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trusted(networks: &[&str]) -> TrustedProxies {
        let networks: Vec<Network> = networks.iter().map(|text| text.parse().unwrap()).collect();
        TrustedProxies::new(&networks)
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_a_trusted_balancer_names_is_believed_from_the_right() {
        let proxies = trusted(&["10.0.0.0/8", "fd00::/8"]);
        for (lines, expected) in [
            (&[][..], "10.0.0.1"),
            (&[("x-forwarded-for", "203.0.113.9")], "203.0.113.9"),
            (&[("x-forwarded-for", "1.1.1.1, 203.0.113.9")], "203.0.113.9"),
            (&[("x-forwarded-for", "1.1.1.1, 203.0.113.9, 10.2.3.4")], "203.0.113.9"),
            (&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "203.0.113.9")], "203.0.113.9"),
            (&[("x-forwarded-for", "203.0.113.9:4711")], "203.0.113.9"),
            (&[("x-forwarded-for", "[2001:db8::7]:4711")], "2001:db8::7"),
            (&[("x-forwarded-for", "::ffff:203.0.113.9, fd00::1")], "203.0.113.9"),
            (&[("x-forwarded-for", "1.1.1.1, unknown, 10.2.3.4")], "10.2.3.4"),
            (&[("x-forwarded-for", "1.1.1.1, ")], "10.0.0.1"),
            (&[("x-forwarded-for", "10.9.9.9, 10.2.3.4")], "10.9.9.9"),
            (&[("forwarded", "for=1.1.1.1, For=203.0.113.9;proto=https")], "203.0.113.9"),
            (&[("forwarded", "for=\"[2001:db8::7]:4711\";by=10.2.3.4")], "2001:db8::7"),
            (&[("forwarded", "for=1.1.1.1, for=_hidden, for=10.2.3.4")], "10.2.3.4"),
            (&[("forwarded", "for=1.1.1.1, nonsense")], "10.0.0.1"),
            (&[("forwarded", "proto=https")], "10.0.0.1"),
            // One of the two was written by the client.
            (&[("x-forwarded-for", "203.0.113.9"), ("forwarded", "for=1.1.1.1")], "10.0.0.1"),
            (&[("x-forwarded-for", "1.1.1.1"), ("forwarded", "for=1.1.1.1")], "1.1.1.1"),
        ] {
            assert_eq!(proxies.client(ip("10.0.0.1"), &headers(lines)), ip(expected), "{lines:?}");
        }
    }

    #[test]
    fn whether_a_client_uses_tls_is_believed_of_a_trusted_balancer() {
        let proxies = trusted(&["10.0.0.0/8"]);
        for (value, wanted) in
            [("https", true), ("http", false), ("HTTPS, http", true), ("x", false)]
        {
            let headers = headers(&[("x-forwarded-proto", value)]);
            assert_eq!(proxies.names_tls(ip("10.0.0.1"), &headers), wanted, "{value}");
            assert!(!proxies.names_tls(ip("203.0.113.9"), &headers), "{value}");
        }
        assert!(!proxies.names_tls(ip("10.0.0.1"), &headers(&[])));
    }

    #[test]
    fn one_client_is_one_block() {
        assert_eq!(block(ip("203.0.113.9")), ip("203.0.113.9"));
        assert_eq!(block(ip("::ffff:203.0.113.9")), ip("203.0.113.9"));
        assert_eq!(block(ip("2001:db8:1:2:3:4:5:6")), ip("2001:db8:1:2::"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn nobody_else_is_believed(named in "[ -~]{0,60}", bits in any::<u32>()) {
            let connected = IpAddr::from(bits.to_be_bytes());
            let proxies = trusted(&["10.0.0.0/8"]);
            prop_assume!(!proxies.contains(connected));
            for name in ["x-forwarded-for", "forwarded"] {
                prop_assert_eq!(proxies.client(connected, &headers(&[(name, &named)])), connected);
            }
            let none = TrustedProxies::default();
            let headers = headers(&[("x-forwarded-for", &named)]);
            prop_assert_eq!(none.client(ip("127.0.0.1"), &headers), ip("127.0.0.1"));
        }

        #[test]
        fn what_a_client_writes_before_the_balancer_changes_nothing(written in "[ -~]{0,60}") {
            let proxies = trusted(&["10.0.0.0/8"]);
            let line = format!("{written}, 203.0.113.9");
            let lines = headers(&[("x-forwarded-for", &line)]);
            prop_assert_eq!(proxies.client(ip("10.0.0.1"), &lines), ip("203.0.113.9"));
        }
    }
}
