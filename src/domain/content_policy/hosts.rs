//! Host names in the form in which they are compared, and lists of them.

use core::net::{Ipv4Addr, Ipv6Addr};
use std::collections::HashSet;

/// A list of hosts: exact names, and names whose subdomains are in it.
#[derive(Clone, Debug, Default)]
pub(super) struct HostList {
    exact: HashSet<String>,
    /// From `*.example.org`: subdomains of `example.org`, without itself.
    parents: HashSet<String>,
}

impl HostList {
    /// Reads a list; the error is the first entry that is not a host.
    pub(super) fn parse(written: &[String]) -> Result<HostList, String> {
        let mut list = HostList::default();
        for entry in written {
            let trimmed = entry.trim();
            let (name, into) = match trimmed.strip_prefix("*.") {
                Some(parent) => (parent, &mut list.parents),
                None => (trimmed, &mut list.exact),
            };
            let host = normal_host(name).filter(|_| is_name(name));
            into.insert(host.ok_or_else(|| entry.chars().take(100).collect::<String>())?);
        }
        Ok(list)
    }

    pub(super) fn len(&self) -> usize {
        self.exact.len() + self.parents.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a host in its compared form is in the list.
    pub(super) fn contains(&self, host: &str) -> bool {
        self.exact.contains(host)
            || host
                .match_indices('.')
                .any(|(at, _)| self.parents.contains(host.get(at + 1..).unwrap_or_default()))
    }
}

/// Whether an entry of a list is written as a host: not as a URL.
fn is_name(text: &str) -> bool {
    let is_address = text.starts_with('[') && text.ends_with(']');
    let is_refused = |c: char| c.is_whitespace() || c.is_control() || "/\\?#@*,:".contains(c);
    !text.is_empty() && (is_address || !text.contains(is_refused))
}

/// The compared form of a host: ASCII by IDNA, lower case, without trailing dots; addresses in their usual
/// form, an IPv4-mapped IPv6 address as the IPv4 address.
pub(super) fn normal_host(host: &str) -> Option<String> {
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.split([']', '%']).next().unwrap_or_default();
        let address: Ipv6Addr = inner.parse().ok()?;
        return Some(match v4_in(address) {
            Some(v4) => v4.to_string(),
            None => address.to_string(),
        });
    }
    let host = host.trim_end_matches('.');
    let ascii = if host.is_ascii() && !host.contains("xn--") {
        host.to_ascii_lowercase()
    } else {
        idna::domain_to_ascii(host).unwrap_or_else(|_| host.to_lowercase())
    };
    let ascii = ascii.trim_end_matches('.');
    if ascii.is_empty() || ascii.split('.').any(str::is_empty) {
        return None;
    }
    let is_number = |label: &str| number(label).is_some();
    if ascii.rsplit('.').next().is_some_and(is_number) {
        return v4(ascii).map(|address| address.to_string());
    }
    Some(ascii.to_owned())
}

fn v4_in(address: Ipv6Addr) -> Option<Ipv4Addr> {
    address.to_ipv4_mapped()
}

/// A part of an IPv4 address, decimal, octal or hexadecimal, as browsers read it.
fn number(part: &str) -> Option<u64> {
    let (digits, radix) = match part {
        "" => return None,
        "0" => return Some(0),
        part => match part.strip_prefix("0x") {
            Some("") => return Some(0),
            Some(hex) => (hex, 16),
            None => match part.strip_prefix('0') {
                Some(octal) if octal.chars().all(|c| c.is_digit(8)) => (octal, 8),
                _ => (part, 10),
            },
        },
    };
    digits
        .chars()
        .all(|c| c.is_digit(radix))
        .then(|| u64::from_str_radix(digits, radix).unwrap_or(u64::MAX))
}

/// An IPv4 address in any form that browsers read: one to four parts, the last fills the rest.
fn v4(host: &str) -> Option<Ipv4Addr> {
    let parts: Vec<u64> = host.split('.').map(number).collect::<Option<_>>()?;
    let (last, first) = parts.split_last()?;
    if first.len() > 3 || first.iter().any(|part| *part > 255) {
        return None;
    }
    let room = 8 * (4 - first.len());
    if *last >= 1u64 << room {
        return None;
    }
    let high = first.iter().fold(0u64, |sum, part| (sum << 8) | part);
    u32::try_from((high << room) | last).ok().map(Ipv4Addr::from)
}
