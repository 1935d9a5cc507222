//! The sections of the configuration, a file each: `http.listen` is declared in `http`. How a section is
//! declared is told at [`section!`](super::section).

mod auth;
mod cache;
mod cluster;
mod data;
mod database;
mod http;
mod limits;
mod log;
mod metrics;
mod phone;
mod queue;
mod retention;
mod retry;
mod smtp;
mod traces;

pub use self::{
    auth::AuthConfig,
    cache::CacheConfig,
    cluster::ClusterConfig,
    data::DataConfig,
    database::DatabaseConfig,
    http::HttpConfig,
    log::{LogConfig, LogFormat},
    metrics::MetricsConfig,
    phone::PhoneConfig,
    queue::{QueueConfig, QueueKind},
    smtp::{SmtpConfig, SmtpTls},
    traces::TracesConfig,
};

use super::{keys::ConfigKey, reader::Reader, section::Section};
use crate::domain::{limits::Limits, retention::Retention, retry::RetryPolicy};

/// Makes the configuration of its sections.
macro_rules! sections {
    ($($(#[doc = $doc:literal])+ $field:ident: $section:ty,)+) => {
        /// The whole configuration.
        #[derive(Clone, Debug)]
        pub struct Config {
            $(
                $(#[doc = $doc])+
                pub $field: $section,
            )+
        }

        /// The keys of each section, in the order in which they are shown.
        pub(super) const SECTIONS: &[&[ConfigKey]] = &[$(<$section as Section>::KEYS),+];

        /// Reads every section. `None` if a default is no value of its key; then the reader has that fault.
        pub(super) fn read(reader: &mut Reader) -> Option<Config> {
            Some(Config { $($field: <$section as Section>::read(reader)?,)+ })
        }
    };
}

sections! {
    /// `data_dir`
    data: DataConfig,
    /// `http.*`
    http: HttpConfig,
    /// `metrics.*`
    metrics: MetricsConfig,
    /// `database.*`
    database: DatabaseConfig,
    /// `queue.*`
    queue: QueueConfig,
    /// `cache.*`
    cache: CacheConfig,
    /// `cluster.*`
    cluster: ClusterConfig,
    /// `phone.*`
    phone: PhoneConfig,
    /// `retry.*`
    retry: RetryPolicy,
    /// `limits.*`
    limits: Limits,
    /// `smtp.*`
    smtp: SmtpConfig,
    /// `retention.*`
    retention: Retention,
    /// `auth.*`
    auth: AuthConfig,
    /// `traces.*`
    traces: TracesConfig,
    /// `log.*`
    log: LogConfig,
}
