//! The address of the broker, from `queue.url`.

use std::path::PathBuf;

use lapin::uri::{AMQPScheme, AMQPUri};

use super::topology::{MAX_PARTITIONS, QueueTypeChoice};

/// Seconds between heartbeats, unless the URL says otherwise. A peer that has vanished is noticed within two of
/// them.
const HEARTBEAT: u16 = 10;

#[derive(Clone)]
pub struct BrokerSettings {
    /// The nodes of one cluster. Never empty.
    pub(super) addresses: Vec<Address>,
    /// From 1 to 64.
    pub(super) partitions: u16,
    pub(super) choice: QueueTypeChoice,
}

#[derive(Clone)]
pub(super) struct Address {
    pub(super) uri: AMQPUri,
    /// Certificates that are trusted in addition to the system's.
    pub(super) trusted: Option<PathBuf>,
}

impl Address {
    /// Without user and password.
    pub(super) fn shown(&self) -> String {
        let scheme = match self.uri.scheme {
            AMQPScheme::AMQP => "amqp",
            AMQPScheme::AMQPS => "amqps",
        };
        let authority = &self.uri.authority;
        let host = &authority.host;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        format!("{scheme}://{host}:{}", authority.port)
    }
}

/// The text never contains the URL, because that contains a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBrokerSettings {
    #[error(
        "queue.url must be amqp://user:password@host:port/vhost or amqps://…, several nodes of one cluster with commas"
    )]
    Url,
    #[error("queue.partitions must be from 1 to {MAX_PARTITIONS}")]
    Partitions,
}

impl BrokerSettings {
    /// Parses comma-separated URLs. Two of their parameters are used here, as in other clients: `heartbeat`
    /// (seconds) and `cacertfile` (PEM, trusted in addition to the system's certificates).
    ///
    /// # Errors
    /// What cannot be used.
    pub fn new(
        urls: &str,
        partitions: u16,
        choice: QueueTypeChoice,
    ) -> Result<BrokerSettings, BadBrokerSettings> {
        if !(1..=MAX_PARTITIONS).contains(&partitions) {
            return Err(BadBrokerSettings::Partitions);
        }
        let addresses: Result<Vec<Address>, BadBrokerSettings> =
            urls.split(',').map(|url| read(url.trim())).collect();
        Ok(BrokerSettings { addresses: addresses?, partitions, choice })
    }

    pub fn partitions(&self) -> u16 {
        self.partitions
    }

    /// The nodes, without users and passwords.
    pub fn shown(&self) -> String {
        let shown: Vec<String> = self.addresses.iter().map(Address::shown).collect();
        shown.join(", ")
    }
}

fn read(url: &str) -> Result<Address, BadBrokerSettings> {
    let mut uri: AMQPUri = url.parse().map_err(|_| BadBrokerSettings::Url)?;
    let rest = url.split_once("://").ok_or(BadBrokerSettings::Url)?.1;
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if host.is_empty() || uri.authority.port == 0 {
        return Err(BadBrokerSettings::Url);
    }
    // The library reads a bracketed IPv6 address as empty, and an empty host as localhost.
    if let Some((address, _)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        address.clone_into(&mut uri.authority.host);
    }
    // A URL without a path means the default virtual host, "/".
    if uri.vhost.is_empty() {
        "/".clone_into(&mut uri.vhost);
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT);
    let parameters = url.split_once('?').map(|(_, parameters)| parameters).unwrap_or_default();
    let trusted = parameters
        .split('&')
        .find_map(|parameter| parameter.strip_prefix("cacertfile="))
        .map(PathBuf::from);
    Ok(Address { uri, trusted })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(url: &str) -> Address {
        BrokerSettings::new(url, 16, QueueTypeChoice::Auto)
            .unwrap_or_else(|_| panic!("{url}"))
            .addresses
            .remove(0)
    }

    #[test]
    fn urls_are_read_as_other_clients_read_them() {
        let plain = one("amqp://guest:p%40ss@broker.example:5673/esh3ar%2Ftest");
        assert_eq!(plain.uri.authority.userinfo.password, "p@ss");
        assert_eq!(plain.uri.vhost, "esh3ar/test");
        assert_eq!(plain.uri.query.heartbeat, Some(10));
        assert_eq!(plain.shown(), "amqp://broker.example:5673");
        for default in ["amqp://h", "amqp://h/", "amqp://h/%2f", "amqp://h:5672?heartbeat=10"] {
            assert_eq!(one(default).uri.vhost, "/", "{default}");
            assert_eq!(one(default).uri.authority.port, 5672, "{default}");
        }
        let tls = one("amqps://u:p@127.0.0.1/v?heartbeat=3&cacertfile=/etc/ca.pem");
        assert_eq!(tls.uri.authority.port, 5671);
        assert_eq!(tls.uri.authority.host, "127.0.0.1");
        assert_eq!(tls.uri.query.heartbeat, Some(3));
        assert_eq!(tls.trusted, Some(PathBuf::from("/etc/ca.pem")));
        let six = one("amqp://u:p@[2001:db8::1]:5999/v");
        assert_eq!(six.uri.authority.host, "2001:db8::1");
        assert_eq!(six.shown(), "amqp://[2001:db8::1]:5999");
    }

    #[test]
    fn several_nodes_and_nothing_secret_in_what_is_shown() {
        let settings =
            BrokerSettings::new("amqp://u:pw1@a, amqps://u:pw2@b:99", 4, QueueTypeChoice::Auto);
        let shown = settings.map(|settings| settings.shown()).unwrap_or_default();
        assert_eq!(shown, "amqp://a:5672, amqps://b:99");
    }

    #[test]
    fn what_cannot_be_used_is_told_without_its_password() {
        let bad = |url| BrokerSettings::new(url, 16, QueueTypeChoice::Auto).err();
        for url in ["", "secret", "http://u:secret@h", "amqp://", "amqp://u:secret@:1", "amqp:h"] {
            assert_eq!(bad(url), Some(BadBrokerSettings::Url), "{url}");
        }
        assert_eq!(bad("amqp://a,,amqp://b"), Some(BadBrokerSettings::Url));
        assert!(!BadBrokerSettings::Url.to_string().contains("secret"));
        let none = |n| BrokerSettings::new("amqp://h", n, QueueTypeChoice::Auto).err();
        assert_eq!(none(0), Some(BadBrokerSettings::Partitions));
        assert_eq!(none(65), Some(BadBrokerSettings::Partitions));
        assert_eq!(none(64), None);
    }
}
