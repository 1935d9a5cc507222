//! The configuration: typed, checked as a whole before anything starts, and able to say where each
//! value came from.
//!
//! A key is declared once, in the file of its section in `sections`: there are its name, its default, its
//! documentation, how its value is read, and the field that has it. A key that is not declared does not
//! exist, and one that is has an effect.

pub mod describe;
pub mod duration;
pub mod keys;
mod load;
mod parse;
mod reader;
mod secret;
mod section;
mod sections;

use std::net::SocketAddr;

pub use load::{
    ConfigErrors, ConfigOrigin, ConfigProblem, ConfigSource, ConfigSources, LoadedConfig, load,
};
pub use secret::{MAX_SECRET_LEN, Secret, read_bounded};
pub use sections::{
    AuthConfig, CacheConfig, ClusterConfig, Config, DataConfig, DatabaseConfig, HttpConfig,
    LogConfig, LogFormat, MetricsConfig, PhoneConfig, QueueConfig, QueueKind, SmtpConfig, SmtpTls,
    TracesConfig,
};

impl Config {
    /// Where other gateways reach this one, which listens at `bound`; nowhere if that is a wildcard and
    /// nobody says more.
    pub fn reachable_at(&self, bound: SocketAddr) -> Option<String> {
        let scheme = if self.http.tls().is_some() { "https" } else { "http" };
        let own = (!bound.ip().is_unspecified()).then(|| format!("{scheme}://{bound}"));
        self.cluster.address.clone().or(own)
    }
}
