//! The configuration: typed, validated as a whole before anything starts, with the source of each value.
//!
//! A key is declared once, in the file of its section in `sections`: name, default, documentation, parser and
//! field.

pub mod describe;
pub mod duration;
mod key;
pub mod keys;
mod load;
mod parse;
mod problem;
mod reader;
mod secret;
mod sections;

use std::net::SocketAddr;

pub use load::{ConfigOrigin, ConfigSources, LoadedConfig, load};
pub use problem::{ConfigErrors, ConfigProblem, ConfigSource};
pub use secret::{MAX_SECRET_LEN, Secret, read_bounded};
pub use sections::{
    AuthConfig, BackupConfig, CacheConfig, ClusterConfig, Config, DataConfig, DatabaseConfig,
    HttpConfig, LogConfig, LogFormat, MetricsConfig, OutboundConfig, PhoneConfig, QueueConfig,
    QueueKind, SecretsConfig, SmsConfig, SmtpConfig, SmtpTls, TracesConfig,
};

impl Config {
    /// The address at which other gateways reach this one, which listens at `bound`; `None` if that is a
    /// wildcard and `cluster.address` is unset.
    pub fn reachable_at(&self, bound: SocketAddr) -> Option<String> {
        let scheme = if self.http.tls().is_some() { "https" } else { "http" };
        let own = (!bound.ip().is_unspecified()).then(|| format!("{scheme}://{bound}"));
        self.cluster.address.clone().or(own)
    }
}
