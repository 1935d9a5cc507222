//! The sections of the configuration, a file each: `http.listen` is declared in `http`. How a section is
//! declared is told at [`section!`](section).

mod admin;
mod auth;
mod backup;
mod cache;
mod cluster;
mod content;
mod data;
mod database;
mod http;
mod limits;
mod log;
mod metrics;
mod otp;
mod outbound;
mod phone;
mod queue;
mod retention;
mod retry;
mod secrets;
mod section;
mod sms;
mod smtp;
mod traces;

pub use self::{
    admin::AdminConfig,
    auth::AuthConfig,
    backup::BackupConfig,
    cache::CacheConfig,
    cluster::ClusterConfig,
    content::ContentConfig,
    data::DataConfig,
    database::DatabaseConfig,
    http::HttpConfig,
    log::{LogConfig, LogFormat},
    metrics::MetricsConfig,
    outbound::OutboundConfig,
    phone::PhoneConfig,
    queue::{QueueConfig, QueueKind},
    secrets::SecretsConfig,
    sms::SmsConfig,
    smtp::{SmtpConfig, SmtpTls},
    traces::TracesConfig,
};

use self::section::Section;
use super::{
    key::{ConfigKey, ConfigList},
    reader::Reader,
};
use crate::domain::{
    limits::Limits, registration::OtpRules, retention::Retention, retry::RetryPolicy,
};

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
    /// `admin.*`
    admin: AdminConfig,
    /// `metrics.*`
    metrics: MetricsConfig,
    /// `database.*`
    database: DatabaseConfig,
    /// `secrets.*`
    secrets: SecretsConfig,
    /// `backup.*`
    backup: BackupConfig,
    /// `queue.*`
    queue: QueueConfig,
    /// `cache.*`
    cache: CacheConfig,
    /// `cluster.*`
    cluster: ClusterConfig,
    /// `content.*`
    content: ContentConfig,
    /// `phone.*`
    phone: PhoneConfig,
    /// `otp.*`
    otp: OtpRules,
    /// `retry.*`
    retry: RetryPolicy,
    /// `limits.*`
    limits: Limits,
    /// `smtp.*`
    smtp: SmtpConfig,
    /// `outbound.*`
    outbound: OutboundConfig,
    /// `[[sms.gateways]]`
    sms: SmsConfig,
    /// `retention.*`
    retention: Retention,
    /// `auth.*`
    auth: AuthConfig,
    /// `traces.*`
    traces: TracesConfig,
    /// `log.*`
    log: LogConfig,
}

/// The lists of tables.
pub(super) const LISTS: &[&ConfigList] = &[&sms::GATEWAYS];

/// The key with a name known at compile time: in a constant, an unknown name does not compile.
pub const fn known(name: &str) -> &'static ConfigKey {
    let mut section = 0;
    while section < SECTIONS.len() {
        let keys = SECTIONS[section];
        let mut key = 0;
        while key < keys.len() {
            if const_eq(keys[key].name.as_bytes(), name.as_bytes()) {
                return &keys[key];
            }
            key += 1;
        }
        section += 1;
    }
    panic!("this is the name of no key")
}

/// `==` is not const.
const fn const_eq(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

/// Looks a key up at compile time.
macro_rules! key {
    ($name:expr) => {{
        const KEY: &$crate::config::key::ConfigKey = $crate::config::sections::known($name);
        KEY
    }};
}
use key;
