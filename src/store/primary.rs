//! Connections to the server that takes writes, whichever of those that the URL names that is now.
//!
//! After a failover it is another one. Then every connection to the one before is of no use, also one that
//! looks well: it leads to a server that only reads, or that stands still.

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
    config::{Host, SslMode, TargetSessionAttrs},
    tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Error;

/// Where a database is, and how to come in.
pub type Target = tokio_postgres::Config;

/// How long the server that was found last is asked alone, before the others are asked too.
const HEAD_START: Duration = Duration::from_millis(500);

/// Makes connections for a pool.
pub(super) struct Finder {
    /// One server each.
    servers: Vec<Target>,
    tls: Option<MakeRustlsConnect>,
    /// What every connection is told first.
    settings: String,
    found: Arc<Found>,
}

/// Which connections are of use.
#[derive(Debug, Default)]
struct Found {
    /// The server that took the last connection; the first one before there was any.
    place: AtomicUsize,
    /// There was one.
    any: AtomicBool,
    /// Connections of another epoch are of no use.
    epoch: AtomicU64,
}

/// A connection, and what is thought of it.
pub(super) struct Session {
    pub(super) client: ClientWrapper,
    pub(super) trust: Trust,
}

/// Whether a connection may be used again. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    doubted: Arc<AtomicBool>,
    place: usize,
    epoch: u64,
    found: Arc<Found>,
}

impl Trust {
    /// The connection does not answer: it is not used again.
    pub(super) fn doubt(&self) {
        self.doubted.store(true, Ordering::Relaxed);
    }

    /// The server only reads: none of the connections to it is used again.
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

impl Finder {
    pub(super) fn new(config: &Target, tls: Option<MakeRustlsConnect>, settings: String) -> Finder {
        Finder { servers: each_server(config), tls, settings, found: Arc::default() }
    }

    async fn connect(&self, place: usize) -> (usize, Result<ClientWrapper, Error>) {
        let Some(server) = self.servers.get(place) else {
            return (place, Err(Error::Unavailable("no server is named".to_owned())));
        };
        let client = async {
            let client = match &self.tls {
                Some(tls) => open(server, tls.clone()).await?,
                None => open(server, NoTls).await?,
            };
            client.batch_execute(&self.settings).await?;
            Ok(client)
        };
        (place, client.await)
    }

    /// Asks the server that was found last; and when it does not answer soon, all the others as well.
    async fn find(&self) -> Result<(usize, ClientWrapper), Error> {
        let last = self.found.place.load(Ordering::Acquire);
        let mut asked = FuturesUnordered::from_iter([self.connect(last)]);
        let mut others: Vec<usize> = (0..self.servers.len()).filter(|n| *n != last).collect();
        let mut failed: Option<Error> = None;
        loop {
            let wait = if others.is_empty() { Duration::MAX } else { HEAD_START };
            match tokio::time::timeout(wait, asked.next()).await {
                Ok(Some((place, Ok(client)))) => return Ok((place, client)),
                // The first to fail is the one that was the primary: why that is away says most.
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
            tracing::debug!(%error, "a connection to the database ended");
        }
    });
    Ok(ClientWrapper::new(client, driver))
}

impl Manager for Finder {
    type Type = Session;
    type Error = Error;

    async fn create(&self) -> Result<Session, Error> {
        let (place, client) = self.find().await?;
        let moved = self.found.place.swap(place, Ordering::AcqRel) != place;
        let moved = self.found.any.swap(true, Ordering::AcqRel) && moved;
        if let Some(server) = self.servers.get(place).filter(|_| moved) {
            tracing::warn!(server = name(server), "another server takes the writes now");
        }
        let trust = Trust {
            doubted: Arc::default(),
            place,
            epoch: self.found.epoch.load(Ordering::Acquire),
            found: Arc::clone(&self.found),
        };
        Ok(Session { client, trust })
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<Error> {
        if session.client.is_closed() || !session.trust.is_kept() {
            return Err(RecycleError::message("the connection is of no use any more"));
        }
        Ok(())
    }
}

/// Whether none of the servers is reached over a network.
pub(super) fn is_local(config: &Target) -> bool {
    config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)))
}

/// A URL that names several servers means the one that takes writes, unless it says otherwise.
pub(super) fn meant(mut config: Target) -> Target {
    let servers = config.get_hosts().len().max(config.get_hostaddrs().len());
    if servers > 1 && config.get_target_session_attrs() == TargetSessionAttrs::Any {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    config
}

/// The same with one server each. The driver would go through them one after the other, and wait at one that
/// stands still for as long as a caller has.
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

/// All that a configuration says, except where the servers are.
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

/// Whether a connection is to be encrypted.
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
        // Whoever names one, gets what was named.
        let config = parse_url("postgres://u@a:7/d").unwrap();
        assert_eq!(each_server(&config), [config]);
    }
}
