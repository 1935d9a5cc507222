//! IP networks in CIDR notation: `10.0.0.0/8`, `2001:db8::/32`, or one address.

use core::{fmt, net::IpAddr, str::FromStr};

/// Maximum number of networks in a list: each request may be compared with all of them.
pub const MAX_NETWORKS: usize = 256;

/// An IPv4 or IPv6 network; a single address is a network of one.
///
/// An IPv4-mapped IPv6 address (`::ffff:10.0.0.1`) counts as the IPv4 address in it, here and in
/// [`contains`](Network::contains): a socket that listens on `[::]` sees IPv4 peers that way. So `::/0`
/// contains no IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The first address; all bits after the prefix are 0, and it is never IPv4-mapped.
    first: IpAddr,
    prefix: u8,
}

/// Why a text is not a network or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// It is malformed.
    #[error("'{0}' is not an address or a network such as 10.0.0.0/8")]
    Malformed(String),
    /// It has host bits set: another prefix may be meant.
    #[error("'{written}' has host bits set: use {network} or another prefix")]
    HostBits {
        /// As written.
        written: String,
        /// The network that contains it.
        network: Network,
    },
    /// More than [`MAX_NETWORKS`].
    #[error("more than {MAX_NETWORKS} networks")]
    TooMany,
}

/// Whether an address is one of this machine itself: 127.0.0.0/8 or ::1.
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Whether a host in a URL is this machine itself: `localhost` or a loopback address. Nothing is looked up.
pub fn is_this_machine(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(is_loopback)
}

impl Network {
    /// Parses a comma-separated list, which may be empty.
    ///
    /// # Errors
    /// The first invalid network; or too many.
    pub fn list(text: &str) -> Result<Vec<Network>, NetworkError> {
        let mut parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let networks = parts.by_ref().take(MAX_NETWORKS).map(str::parse).collect::<Result<_, _>>();
        match parts.next() {
            Some(_) if networks.is_ok() => Err(NetworkError::TooMany),
            _ => networks,
        }
    }

    /// Whether an address is in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        let shared = match (self.first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(other)) => {
                (first.to_bits() ^ other.to_bits()).leading_zeros()
            }
            (IpAddr::V6(first), IpAddr::V6(other)) => {
                (first.to_bits() ^ other.to_bits()).leading_zeros()
            }
            _ => return false,
        };
        shared >= u32::from(self.prefix)
    }

    /// The network of an address with this prefix.
    fn around(address: IpAddr, prefix: u8) -> Network {
        // A shift by the full width overflows.
        let first = match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V4((address.to_bits() & mask).into())
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V6((address.to_bits() & mask).into())
            }
        };
        Network { first, prefix }
    }
}

/// Networks that are not on the public internet (IANA's registries of special-purpose addresses): first
/// address and prefix.
const SPECIAL_V4: [([u8; 4], u32); 15] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
];
/// Exceptions in the public part of IPv6, 2000::/3: addresses that embed IPv4, or are reserved.
const SPECIAL_V6: [([u16; 2], u32); 3] =
    [([0x2001, 0], 23), ([0x2001, 0x0db8], 32), ([0x2002, 0], 16)];

/// Whether an address is on the public internet: not this machine, a private network, or a way into one.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let within = |(first, prefix): &([u8; 4], u32)| {
                (address.to_bits() ^ u32::from_be_bytes(*first)).leading_zeros() >= *prefix
            };
            !SPECIAL_V4.iter().any(within)
        }
        IpAddr::V6(address) => {
            let [first, second, ..] = address.segments();
            let leading = |[a, b]: [u16; 2]| u32::from(a) << 16 | u32::from(b);
            let within = |(network, prefix): &([u16; 2], u32)| {
                (leading([first, second]) ^ leading(*network)).leading_zeros() >= *prefix
            };
            first >> 13 == 1 && !SPECIAL_V6.iter().any(within)
        }
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// A decimal number without a sign or leading zeros.
fn number(text: &str) -> Option<u8> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let padded = text.len() > 1 && text.starts_with('0');
    if plain && !padded { text.parse().ok() } else { None }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Network, NetworkError> {
        let malformed = || NetworkError::Malformed(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let prefix = match prefix {
            Some(prefix) => {
                number(prefix).filter(|prefix| *prefix <= width(address)).ok_or_else(malformed)?
            }
            None => width(address),
        };
        let network = Network::around(address, prefix);
        if network.first != address {
            return Err(NetworkError::HostBits { written: text.to_owned(), network });
        }
        // An IPv4-mapped address has bits set up to the 96th: a shorter prefix was refused above.
        match address.to_canonical() {
            mapped if mapped.is_ipv4() && address.is_ipv6() => {
                Ok(Network { first: mapped, prefix: prefix.saturating_sub(96) })
            }
            _ => Ok(network),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix == width(self.first) {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}/{}", self.first, self.prefix)
        }
    }
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn contains(text: &str, address: &str) -> bool {
        network(text).contains(address.parse().unwrap())
    }

    #[test]
    fn this_machine_is_known_by_its_name_and_its_addresses() {
        for here in ["localhost", "LocalHost", "127.0.0.1", "127.8.9.10", "::1", "[::1]"] {
            assert!(is_this_machine(here), "{here}");
        }
        assert!(is_this_machine("::ffff:127.0.0.1"));
        for other in [
            "",
            "db",
            "10.0.0.1",
            "0.0.0.0",
            "::",
            "localhost.example.com",
            "127.1",
            "[::2]",
            "[::1",
        ] {
            assert!(!is_this_machine(other), "{other}");
        }
    }

    #[test]
    fn a_network_contains_its_addresses_and_no_others() {
        assert!(contains("10.0.0.0/8", "10.0.0.0") && contains("10.0.0.0/8", "10.255.255.255"));
        assert!(!contains("10.0.0.0/8", "11.0.0.0") && !contains("10.0.0.0/8", "9.255.255.255"));
        assert!(contains("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(!contains("2001:db8::/32", "2001:db9::"));
        assert!(contains("127.0.0.1", "127.0.0.1") && !contains("127.0.0.1", "127.0.0.2"));
        assert!(contains("::1", "::1") && !contains("::1", "::2"));
        assert!(contains("0.0.0.0/0", "203.0.113.9") && contains("::/0", "2001:db8::1"));
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address_in_it() {
        assert!(contains("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(contains("::ffff:10.0.0.0/104", "10.1.2.3"));
        assert_eq!(network("::ffff:10.0.0.0/104"), network("10.0.0.0/8"));
        assert_eq!(network("::ffff:10.0.0.1"), network("10.0.0.1"));
        assert_eq!(network("::ffff:0:0/96"), network("0.0.0.0/0"));
        // Whoever trusts all of IPv6 has not said so of IPv4, and the other way round.
        assert!(!contains("::/0", "10.0.0.1") && !contains("::/0", "::ffff:10.0.0.1"));
        assert!(!contains("0.0.0.0/0", "2001:db8::1"));
        assert!("::ffff:0:0/95".parse::<Network>().is_err());
    }

    #[test]
    fn what_is_no_network_is_told_with_what_is_wanted() {
        for bad in [
            "",
            "10",
            "10.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "10.0.0.0/8/8",
            "10.0.0.0 /8",
            "010.0.0.0/8",
            "::/129",
            "::/1000",
            "[::1]",
            "fe80::1%eth0",
            "example.org",
            "127.0.0.1:5000",
            "*",
        ] {
            assert_eq!(bad.parse::<Network>(), Err(NetworkError::Malformed(bad.to_owned())));
        }
        let told = "10.1.2.3/8".parse::<Network>().unwrap_err().to_string();
        assert_eq!(told, "'10.1.2.3/8' has host bits set: use 10.0.0.0/8 or another prefix");
    }

    #[test]
    fn a_list_has_commas_and_an_end() {
        let found = Network::list("10.0.0.0/8, 127.0.0.1,,\n::1/128,").unwrap();
        assert_eq!(found, [network("10.0.0.0/8"), network("127.0.0.1"), network("::1")]);
        assert_eq!(Network::list(" "), Ok(Vec::new()));
        let many = |count| vec!["10.0.0.1"; count].join(",");
        assert_eq!(Network::list(&many(MAX_NETWORKS)).map(|found| found.len()), Ok(MAX_NETWORKS));
        assert_eq!(Network::list(&many(MAX_NETWORKS + 1)), Err(NetworkError::TooMany));
        let told = Network::list("10.0.0.0/8,balancer").unwrap_err().to_string();
        assert_eq!(told, "'balancer' is not an address or a network such as 10.0.0.0/8");
    }

    #[test]
    fn only_the_public_internet_is_public() {
        for public in
            ["1.1.1.1", "9.255.255.255", "172.32.0.1", "198.20.0.1", "2606:4700::1", "2a00::1"]
        {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for other in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.1.1",
            "198.19.255.255",
            "203.0.113.9",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::10.0.0.1",
            "64:ff9b::a00:1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:a00:1::",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(other.parse().unwrap()), "{other}");
        }
    }

    fn addresses() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
            any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
        ]
    }

    /// The leading bits of an address, one by one.
    fn bits(address: IpAddr, count: u8) -> Vec<bool> {
        let octets = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let all =
            octets.iter().flat_map(|octet| (0..8).rev().map(move |bit| (octet >> bit) & 1 == 1));
        all.take(usize::from(count)).collect()
    }

    /// The same address with one bit the other way.
    fn flipped(address: IpAddr, bit: u8) -> IpAddr {
        match address {
            IpAddr::V4(address) => {
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() ^ (1 << (31 - bit))))
            }
            IpAddr::V6(address) => {
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() ^ (1 << (127 - bit))))
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn written_and_read_is_the_same(address in addresses(), share in 0.0..=1.0f64) {
            let address = address.to_canonical();
            let prefix = (f64::from(width(address)) * share).round() as u8;
            let network = Network::around(address, prefix);
            prop_assert_eq!(network.to_string().parse::<Network>(), Ok(network));
            prop_assert_eq!(format!("{}/{prefix}", network.first).parse::<Network>(), Ok(network));
            let exact = format!("{address}/{prefix}").parse::<Network>();
            if address == network.first {
                prop_assert_eq!(exact, Ok(network));
            } else {
                let told = matches!(exact, Err(NetworkError::HostBits { network: n, .. }) if n == network);
                prop_assert!(told);
            }
        }

        #[test]
        fn it_contains_exactly_what_shares_its_leading_bits(
            address in addresses(),
            share in 0.0..=1.0f64,
            bit in 0u8..128,
            other in addresses(),
        ) {
            let address = address.to_canonical();
            let prefix = (f64::from(width(address)) * share).round() as u8;
            let network = Network::around(address, prefix);
            prop_assert!(network.contains(address) && network.contains(network.first));
            let near = flipped(address, bit % width(address));
            for other in [near, other] {
                let other = other.to_canonical();
                let wanted = other.is_ipv4() == address.is_ipv4()
                    && bits(other, prefix) == bits(address, prefix);
                prop_assert_eq!(network.contains(other), wanted);
            }
        }

        #[test]
        fn ipv4_is_the_same_mapped_or_not(address: u32, other: u32, prefix in 0u8..=32) {
            let address = Ipv4Addr::from_bits(address);
            let network = Network::around(IpAddr::V4(address), prefix);
            let IpAddr::V4(first) = network.first else { unreachable!() };
            let mapped = format!("{}/{}", first.to_ipv6_mapped(), prefix + 96);
            prop_assert_eq!(mapped.parse::<Network>(), Ok(network));
            for other in [Ipv4Addr::from_bits(other), address] {
                let plain = network.contains(IpAddr::V4(other));
                prop_assert_eq!(network.contains(IpAddr::V6(other.to_ipv6_mapped())), plain);
            }
        }

        #[test]
        fn no_text_is_a_panic(text in "[0-9a-f:./, %\\[\\]]{0,40}") {
            if let Ok(network) = text.parse::<Network>() {
                prop_assert_eq!(network.to_string().parse::<Network>(), Ok(network));
            }
            let _ = Network::list(&text);
        }
    }
}
