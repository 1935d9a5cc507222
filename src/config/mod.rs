//! The configuration: typed, checked as a whole before anything starts, and able to say where each
//! value came from.
//!
//! [`keys`] is the one list of keys; a key that is not in it does not exist, and one that is in it
//! has an effect.

pub mod describe;
pub mod duration;
pub mod keys;
mod load;
mod secret;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

pub use load::{ConfigErrors, Fault, Loaded, Origin, Source, Sources, load};
pub use secret::{LONGEST_SECRET, Secret, read_bounded};

use crate::domain::{phone::Region, retry::RetryPolicy};

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// `data_dir`: where embedded parts keep their data; unset: see the command.
    pub data_dir: Option<PathBuf>,
    /// `http.*`
    pub http: Http,
    /// `metrics.listen`: metrics and health for machines; `None` when it is `off`.
    pub metrics_listen: Option<SocketAddr>,
    /// `database.*`
    pub database: Database,
    /// `queue.*`; `None` without a URL: the queue inside the process.
    pub queue: Option<Queue>,
    /// `cache.url`; set exactly when `queue` is.
    pub cache_url: Option<Secret>,
    /// `cluster.address`
    pub cluster_address: Option<String>,
    /// `phone.default_region`
    pub default_region: Option<Region>,
    /// `retry.*`
    pub retry: RetryPolicy,
    /// `limits.messages_*`, `limits.queue_depth`
    pub limits: MessageLimits,
    /// `limits.connections_per_user`
    pub connections_per_user: usize,
    /// `limits.connections_per_business_user`
    pub connections_per_business_user: usize,
    /// `smtp.*`; `None` without a host.
    pub smtp: Option<Smtp>,
    /// `smtp.alert_interval`
    pub alert_interval: Duration,
    /// `retention.dead_letters`
    pub dead_letters_kept: Duration,
    /// `retention.audit_log`
    pub audit_log_kept: Duration,
    /// `retention.messages`; `None`: for ever.
    pub messages_kept: Option<Duration>,
    /// `retention.events`; `None`: as long as the messages.
    pub events_kept: Option<Duration>,
    /// How long the rows of deleted messages are kept.
    pub deleted_kept: Duration,
    /// `retention.idempotency_keys`
    pub idempotency_keys_kept: Duration,
    /// `auth.access_token_ttl`
    pub access_token_ttl: Duration,
    /// `traces.*`; `None` without an endpoint.
    pub traces: Option<Traces>,
    /// `log.*`
    pub log: Log,
}

impl Config {
    /// Where other gateways reach this one, which listens at `bound`; nowhere if that is a wildcard and
    /// nobody says more.
    pub fn reachable_at(&self, bound: SocketAddr) -> Option<String> {
        let scheme = if self.http.tls.is_some() { "https" } else { "http" };
        let own = (!bound.ip().is_unspecified()).then(|| format!("{scheme}://{bound}"));
        self.cluster_address.clone().or(own)
    }
}

/// The gateway.
#[derive(Clone, Debug)]
pub struct Http {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Certificate chain and key, both or neither.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// HTTP connections, and sockets of the hub, at once.
    pub max_connections: usize,
    /// How long a request's headers may take.
    pub header_timeout: Duration,
    /// How long a stop waits for requests under way.
    pub stop_timeout: Duration,
    /// Whether the diagnostics hub is there.
    pub diagnostics_hub: bool,
}

/// How much is taken on; 0 means no limit.
#[derive(Clone, Copy, Debug)]
pub struct MessageLimits {
    /// Messages a user may send in a minute.
    pub messages_per_minute: u32,
    /// Messages a user may send in an hour.
    pub messages_per_hour: u32,
    /// Messages that all together may send in a second.
    pub messages_per_second: u32,
    /// Messages whose delivery is in hand at once.
    pub queue_depth: u64,
}

/// Postgres.
#[derive(Clone, Debug)]
pub struct Database {
    /// A given one; unset: the private one under the data folder.
    pub url: Option<Secret>,
    /// Copies of the given one, for lists and histories.
    pub replica_urls: Vec<Secret>,
    /// Connections at once, to it and to each copy.
    pub pool_size: usize,
    /// Where Postgres' programs are, for the private one.
    pub bin_dir: Option<PathBuf>,
}

/// RabbitMQ.
#[derive(Clone, Debug)]
pub struct Queue {
    /// The nodes of one cluster, with commas.
    pub url: Secret,
    /// Queues in each lane, from 1 to 64.
    pub partitions: u16,
    /// How the broker keeps them.
    pub kind: QueueKind,
}

/// How the broker keeps queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// As they are there already, else quorum where three nodes or more are named, else classic.
    Auto,
    /// On one node.
    Classic,
    /// On a majority of the nodes.
    Quorum,
}

/// Mail to the administrators.
#[derive(Clone, Debug)]
pub struct Smtp {
    /// The server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is kept private.
    pub tls: SmtpTls,
    /// User name and password, both or neither.
    pub credentials: Option<(String, Secret)>,
    /// Who mails are from.
    pub from: String,
    /// Whom they go to.
    pub to: Vec<String>,
}

/// How the connection to the mail server is kept private.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmtpTls {
    /// Begins in the open and changes to TLS.
    StartTls,
    /// TLS from the beginning.
    Tls,
    /// None.
    None,
}

/// Traces of messages.
#[derive(Clone, Debug)]
pub struct Traces {
    /// The collector, `http://` or `https://`.
    pub endpoint: String,
    /// Which share of the messages is followed, from 0 to 1.
    pub sample: f64,
}

/// Logs.
#[derive(Clone, Debug)]
pub struct Log {
    /// A level, or filter directives such as `info,esh3ar::store=debug`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
    /// Of which share of the messages it is logged what goes well, from 0 to 1.
    pub sample: f64,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Always text.
    Text,
    /// Always JSON.
    Json,
}
