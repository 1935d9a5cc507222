//! Connections to the primary: the one of the servers in the URL that accepts writes.
//!
//! After a failover, all connections to the old primary are useless, even those that look healthy: they lead
//! to a server that is read-only or hangs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use deadpool::managed::{Manager, Metrics, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio_postgres::{
    NoTls, Socket,
    config::{Host, SslMode, SslNegotiation, TargetSessionAttrs},
    tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Error, password_guard::PasswordGuard};
use crate::domain::network;

/// Where a database is, and how to come in.
pub type Target = tokio_postgres::Config;

/// How long the last known primary is tried alone before the other servers are tried, too.
const FALLBACK_DELAY: Duration = Duration::from_millis(500);

/// Opens connections for a pool.
pub(super) struct PrimaryConnector {
    servers: Vec<Target>,
    /// For all but those in this machine's file system.
    tls: Option<MakeRustlsConnect>,
    /// SQL run on each new connection.
    settings: String,
    found: Arc<CurrentPrimary>,
}

/// Which connections are still valid.
#[derive(Debug, Default)]
struct CurrentPrimary {
    /// Index of the last known primary; the first server initially.
    place: AtomicUsize,
    any: AtomicBool,
    /// Raised when the primary changes; connections of older epochs are dropped.
    epoch: AtomicU64,
}

/// A connection and its health.
pub(super) struct TrackedConnection {
    pub(super) client: ClientWrapper,
    pub(super) trust: ConnectionTrust,
}

/// Whether a connection may be reused. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct ConnectionTrust {
    doubted: Arc<AtomicBool>,
    place: usize,
    epoch: u64,
    found: Arc<CurrentPrimary>,
}

impl ConnectionTrust {
    /// The connection hangs: do not reuse it.
    pub(super) fn doubt(&self) {
        self.doubted.store(true, Ordering::Relaxed);
    }

    /// The server is read-only: reuse none of its connections.
    pub(super) fn doubt_server(&self) {
        self.doubt();
        let (epoch, order) = (self.epoch, Ordering::AcqRel);
        let _ = self.found.epoch.compare_exchange(epoch, epoch + 1, order, Ordering::Relaxed);
    }

    fn is_kept(&self) -> bool {
        !self.doubted.load(Ordering::Relaxed)
            && self.place == self.found.place.load(Ordering::Acquire)
            && self.epoch == self.found.epoch.load(Ordering::Acquire)
    }
}

impl PrimaryConnector {
    pub(super) fn new(
        config: &Target,
        tls: Option<MakeRustlsConnect>,
        settings: String,
    ) -> PrimaryConnector {
        PrimaryConnector { servers: each_server(config), tls, settings, found: Arc::default() }
    }

    async fn connect(&self, place: usize) -> (usize, Result<ClientWrapper, Error>) {
        let Some(server) = self.servers.get(place) else {
            return (place, Err(Error::Unavailable("no server in the URL".to_owned())));
        };
        let client = async {
            let client = match (server.get_ssl_mode(), server.get_ssl_negotiation(), &self.tls) {
                _ if is_local(server) => open(&without_tls(server), NoTls).await?,
                (SslMode::Require, _, Some(tls)) | (_, SslNegotiation::Direct, Some(tls)) => {
                    open(server, tls.clone()).await?
                }
                (_, _, tls) => {
                    let (guard, server) = PasswordGuard::new(server, tls.clone());
                    open(&server, guard).await?
                }
            };
            client.batch_execute(&self.settings).await?;
            Ok(client)
        };
        (place, client.await)
    }

    /// Tries the last known primary; if it does not answer soon, all other servers as well.
    async fn find(&self) -> Result<(usize, ClientWrapper), Error> {
        let last = self.found.place.load(Ordering::Acquire);
        let mut asked = FuturesUnordered::from_iter([self.connect(last)]);
        let mut others: Vec<usize> = (0..self.servers.len()).filter(|n| *n != last).collect();
        let mut failed: Option<Error> = None;
        loop {
            let wait = if others.is_empty() { Duration::MAX } else { FALLBACK_DELAY };
            match tokio::time::timeout(wait, asked.next()).await {
                Ok(Some((place, Ok(client)))) => return Ok((place, client)),
                // The first failure is that of the last primary, which says most.
                Ok(Some((_, Err(error)))) => failed = failed.or(Some(error)),
                Ok(None) if others.is_empty() => {
                    let nothing = || Error::Unavailable("no server was asked".to_owned());
                    return Err(failed.unwrap_or_else(nothing));
                }
                Ok(None) | Err(_) => {}
            }
            asked.extend(others.drain(..).map(|place| self.connect(place)));
        }
    }
}

async fn open<T>(server: &Target, tls: T) -> Result<ClientWrapper, Error>
where
    T: MakeTlsConnect<Socket> + Send,
    T::Stream: Send + 'static,
    T::TlsConnect: Send,
    <T::TlsConnect as tokio_postgres::tls::TlsConnect<Socket>>::Future: Send,
{
    let (client, connection) = server.connect(tls).await?;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "database connection closed");
        }
    });
    Ok(ClientWrapper::new(client, driver))
}

impl Manager for PrimaryConnector {
    type Type = TrackedConnection;
    type Error = Error;

    async fn create(&self) -> Result<TrackedConnection, Error> {
        let (place, client) = self.find().await?;
        let moved = self.found.place.swap(place, Ordering::AcqRel) != place;
        let moved = self.found.any.swap(true, Ordering::AcqRel) && moved;
        if let Some(server) = self.servers.get(place).filter(|_| moved) {
            tracing::warn!(server = name(server), "primary changed: another server accepts writes");
        }
        let trust = ConnectionTrust {
            doubted: Arc::default(),
            place,
            epoch: self.found.epoch.load(Ordering::Acquire),
            found: Arc::clone(&self.found),
        };
        Ok(TrackedConnection { client, trust })
    }

    async fn recycle(&self, session: &mut TrackedConnection, _: &Metrics) -> RecycleResult<Error> {
        if session.client.is_closed() || !session.trust.is_kept() {
            return Err(RecycleError::message("the connection is of no use any more"));
        }
        Ok(())
    }
}

/// Whether all servers are reached through the file system.
pub(super) fn is_local(config: &Target) -> bool {
    config.get_hostaddrs().is_empty()
        && config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)))
}

/// Whether a server is on another machine.
pub fn is_remote(config: &Target) -> bool {
    // An address is where the connection goes; the name beside it is that of the certificate.
    if !config.get_hostaddrs().is_empty() {
        return config.get_hostaddrs().iter().any(|address| !network::is_loopback(*address));
    }
    config.get_hosts().iter().any(|host| match host {
        Host::Tcp(name) => !network::is_this_machine(name),
        Host::Unix(_) => false,
    })
}

/// Whether connections to another machine may be without TLS.
pub fn may_be_unencrypted(config: &Target) -> bool {
    is_remote(config) && config.get_ssl_mode() != SslMode::Require
}

/// With other machines, TLS is required unless the URL says otherwise.
pub(super) fn require_tls(mut config: Target, url: &str) -> Target {
    let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
    let says =
        parameters.split('&').any(|parameter| parameter.split('=').next() == Some("sslmode"));
    if !says && is_remote(&config) {
        config.ssl_mode(SslMode::Require);
    }
    config
}

/// Postgres knows no TLS in the file system.
fn without_tls(server: &Target) -> Target {
    let mut server = server.clone();
    server.ssl_mode(SslMode::Disable);
    server
}

/// A URL with several servers means the primary, unless it says otherwise.
pub(super) fn prefer_primary(mut config: Target) -> Target {
    let servers = config.get_hosts().len().max(config.get_hostaddrs().len());
    if servers > 1 && config.get_target_session_attrs() == TargetSessionAttrs::Any {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    config
}

/// One configuration per server: the driver would try them one after the other, and wait for one that hangs
/// as long as the caller does.
fn each_server(config: &Target) -> Vec<Target> {
    let (hosts, addresses) = (config.get_hosts(), config.get_hostaddrs());
    let count = hosts.len().max(addresses.len());
    if count < 2 {
        return vec![config.clone()];
    }
    let ports = config.get_ports();
    let server = |n: usize| {
        let mut server = shared(config);
        match hosts.get(n) {
            Some(Host::Tcp(host)) => server.host(host),
            Some(Host::Unix(path)) => server.host_path(path),
            None => &mut server,
        };
        addresses.get(n).map(|address| server.hostaddr(*address));
        ports.get(n).or(ports.first()).map(|port| server.port(*port));
        server
    };
    (0..count).map(server).collect()
}

/// A copy of a configuration without its servers.
fn shared(config: &Target) -> Target {
    let mut copy = Target::new();
    config.get_user().map(|user| copy.user(user));
    config.get_password().map(|password| copy.password(password));
    config.get_dbname().map(|name| copy.dbname(name));
    config.get_options().map(|options| copy.options(options));
    config.get_application_name().map(|name| copy.application_name(name));
    config.get_connect_timeout().map(|timeout| copy.connect_timeout(*timeout));
    config.get_tcp_user_timeout().map(|timeout| copy.tcp_user_timeout(*timeout));
    config.get_keepalives_interval().map(|interval| copy.keepalives_interval(interval));
    config.get_keepalives_retries().map(|retries| copy.keepalives_retries(retries));
    copy.ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .keepalives(config.get_keepalives())
        .keepalives_idle(config.get_keepalives_idle())
        .target_session_attrs(config.get_target_session_attrs())
        .channel_binding(config.get_channel_binding())
        .load_balance_hosts(config.get_load_balance_hosts());
    copy
}

/// Whether a connection may use TLS.
pub(super) fn wants_tls(config: &Target) -> bool {
    config.get_ssl_mode() != SslMode::Disable && !is_local(config)
}

/// Host and port: what is left of a URL without its secrets.
pub fn name(config: &tokio_postgres::Config) -> String {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match config.get_hosts().first() {
        Some(Host::Tcp(host)) => format!("{host}:{port}"),
        Some(Host::Unix(path)) => format!("{}:{port}", path.display()),
        None => format!("localhost:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::pool::parse_url;

    #[test]
    fn several_servers_mean_the_one_that_takes_writes() {
        let attrs = |url: &str| parse_url(url).unwrap().get_target_session_attrs();
        assert_eq!(attrs("postgres://u@a,b/d"), TargetSessionAttrs::ReadWrite);
        assert_eq!(attrs("postgres://u@a:1,b:2,c:3/d"), TargetSessionAttrs::ReadWrite);
        assert_eq!(
            attrs("postgres://u@a,b/d?target_session_attrs=read-only"),
            TargetSessionAttrs::ReadOnly
        );
        assert_eq!(attrs("postgres://u@a/d"), TargetSessionAttrs::Any);
        assert_eq!(
            attrs("postgres://u@a/d?target_session_attrs=read-write"),
            TargetSessionAttrs::ReadWrite
        );
    }

    #[test]
    fn other_machines_are_reached_by_tls_unless_the_url_says_otherwise() {
        use SslMode::{Disable, Prefer, Require};
        for (url, mode) in [
            ("postgres://u@db.example.com/d", Require),
            ("postgres://u@10.0.0.1/d", Require),
            ("postgres://u@[2001:db8::1]/d", Require),
            ("postgres://u@localhost.example.com/d", Require),
            ("postgres://u@127.0.0.1.example.com/d", Require),
            ("postgres://u@localhost,db.example.com/d", Require),
            ("postgres://u@db.example.com/d?application_name=sslmode", Require),
            ("postgres://u@db.example.com/d?xsslmode=1&sslmode=prefer", Prefer),
            ("postgres://u@localhost/d?hostaddr=10.0.0.1", Require),
            ("postgres:///d?host=db.example.com", Require),
            ("postgres:///d?hostaddr=10.0.0.1", Require),
            ("postgres://u@db.example.com/d?sslmode=require", Require),
            ("postgres://u@db.example.com/d?sslmode=prefer", Prefer),
            ("postgres://u@db.example.com/d?sslmode=disable", Disable),
            ("postgres://u@db.example.com/d?application_name=x&sslmode=disable", Disable),
            ("postgres://u@localhost/d", Prefer),
            ("postgres://u@LOCALHOST:5433/d", Prefer),
            ("postgres://u@127.8.9.10/d", Prefer),
            ("postgres://u@[::1]/d", Prefer),
            ("postgres://u@db.example.com/d?hostaddr=127.0.0.1", Prefer),
            ("postgres:///d?host=/run/postgresql", Prefer),
            ("postgres://u@%2Frun%2Fpostgresql/d", Prefer),
            ("postgres://u@localhost/d?sslmode=require", Require),
        ] {
            match parse_url(url) {
                Ok(config) => assert_eq!(config.get_ssl_mode(), mode, "{url}"),
                // Unknown parameters are refused.
                Err(_) => assert!(url.contains("xsslmode"), "{url}"),
            }
        }
        let may_be = |url: &str| may_be_unencrypted(&parse_url(url).unwrap());
        assert!(may_be("postgres://u@db.example.com/d?sslmode=prefer"));
        assert!(!may_be("postgres://u@db.example.com/d") && !may_be("postgres://u@localhost/d"));
    }

    #[test]
    fn a_url_that_can_never_work_is_refused() {
        for url in [
            "postgres://u:p@/db",
            "postgres:///db",
            "postgres://u:p%00s@a/d",
            "postgres://u@a/d%00x",
            "postgres://u%00@a/d",
            "postgres://u@a:0/d",
        ] {
            assert!(parse_url(url).is_err(), "{url}");
        }
        assert!(parse_url("postgres:///db?host=/run/postgresql").is_ok());
        assert!(parse_url("postgres:///db?hostaddr=127.0.0.1").is_ok());
    }

    #[test]
    fn each_server_keeps_what_the_url_says_of_all() {
        let url = "postgres://u:p@a:1,b:2/d?sslmode=require&connect_timeout=3&keepalives_idle=7\
                   &keepalives_retries=4&tcp_user_timeout=9&options=-c%20search_path%3Dx\
                   &application_name=n&channel_binding=require&hostaddr=10.0.0.1,10.0.0.2";
        let config = parse_url(url).unwrap();
        let found = each_server(&config);
        let one = |n: usize, server: &str| {
            let address = format!("10.0.0.{}", n + 1);
            let url = url.replace("a:1,b:2", server).replace("10.0.0.1,10.0.0.2", &address);
            let mut wanted = parse_url(&url).unwrap();
            wanted.target_session_attrs(TargetSessionAttrs::ReadWrite);
            assert_eq!(found[n], wanted);
            assert_eq!(found[n].get_password(), Some(&b"p"[..]));
        };
        one(0, "a:1");
        one(1, "b:2");
        // One port for all.
        let config = parse_url("postgres://u@a,b,c/d").unwrap();
        let ports = |config: &Target| config.get_ports().to_vec();
        assert_eq!(each_server(&config).iter().map(ports).collect::<Vec<_>>(), vec![vec![5432]; 3]);
        // A port that is named is used.
        let config = parse_url("postgres://u@a:7/d").unwrap();
        assert_eq!(each_server(&config), [config]);
    }
}
