//! From the sources to a [`Config`]: all of them read, all faults told at once.

mod cluster;
mod login;
mod origin;
mod retention;
mod secrets;
mod text;
mod traces;

use std::{
    collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration,
};

pub use origin::{Loaded, Origin};

use config::{Environment, File, FileFormat, ValueKind};

use super::{
    Config, Database, Http, LONGEST_SECRET, Log, LogFormat, MessageLimits, Secret, Smtp, SmtpTls,
    duration, keys, read_bounded,
};
use crate::domain::retry::RetryPolicy;

/// Where a value came from, from the weakest to the strongest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody set it.
    Default,
    /// The file.
    File {
        /// Its name.
        name: String,
        /// The line, where it can be told.
        line: Option<usize>,
    },
    /// A variable of the environment.
    Environment(String),
    /// An option of the command.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File { name, line: Some(line) } => write!(f, "{name}:{line}"),
            Source::File { name, line: None } => f.write_str(name),
            Source::Environment(name) => write!(f, "environment {name}"),
            Source::Flag(name) => write!(f, "option {name}"),
        }
    }
}

/// What is read.
#[derive(Debug, Default)]
pub struct Sources {
    /// The file's name and contents.
    pub file: Option<(String, String)>,
    /// The environment.
    pub environment: Vec<(String, String)>,
    /// Options of the command: key, value, and what the option is called.
    pub flags: Vec<(&'static str, String, &'static str)>,
}

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Where.
    pub source: Source,
    /// What.
    pub text: String,
}

/// Everything that is wrong.
#[derive(Clone, Debug, Default)]
pub struct ConfigErrors(pub Vec<Fault>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}: {}", fault.source, fault.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

type Values = BTreeMap<String, (String, Source)>;

/// The prefix of our variables, with the separator that also parts sections.
const PREFIX: &str = "ESH3AR__";

/// The private Postgres takes 64 connections; commands and its own reserve need some of them.
const PRIVATE_POOL: usize = 48;

/// Reads and checks everything.
///
/// # Errors
/// All faults at once.
pub fn load(sources: Sources) -> Result<Loaded, ConfigErrors> {
    let mut faults = Vec::new();
    let mut values = Values::new();
    if let Some((name, text)) = &sources.file {
        read_file(name, text, &mut values, &mut faults);
    }
    read_environment(&sources.environment, &mut values, &mut faults);
    for (key, value, option) in sources.flags {
        values.insert(key.to_owned(), (value, Source::Flag(option.to_owned())));
    }
    take_secrets_from_files(&mut values, &mut faults);
    values.retain(|name, (_, source)| {
        let known = keys::find(name).is_some();
        if !known {
            faults.push(Fault { source: source.clone(), text: keys::unknown(name) });
        }
        known
    });
    let mut reader = Reader { values, faults };
    let config = reader.config();
    if !reader.faults.is_empty() {
        return Err(ConfigErrors(reader.faults));
    }
    let (origins, secrets) = (reader.origins(), reader.secrets());
    Ok(Loaded { config, origins, secrets })
}

fn read_file(name: &str, text: &str, values: &mut Values, faults: &mut Vec<Fault>) {
    let parsed = config::Config::builder()
        .add_source(File::from_str(&text::as_texts(text), FileFormat::Toml))
        .build();
    match parsed {
        Ok(parsed) => {
            let mut flat = Vec::new();
            flatten("", &parsed.cache, &mut flat);
            for (key, value) in flat {
                let source = Source::File { name: name.to_owned(), line: line_of(text, &key) };
                values.insert(key, (value, source));
            }
        }
        Err(error) => {
            let source = Source::File { name: name.to_owned(), line: None };
            faults.push(Fault { source, text: text::without_excerpt(&error.to_string()) });
        }
    }
}

fn read_environment(
    environment: &[(String, String)],
    values: &mut Values,
    faults: &mut Vec<Fault>,
) {
    let ours: config::Map<String, String> =
        environment.iter().filter(|(name, _)| name.starts_with(PREFIX)).cloned().collect();
    let names: BTreeMap<String, String> = ours
        .keys()
        .map(|name| (name[PREFIX.len()..].to_lowercase().replace("__", "."), name.clone()))
        .collect();
    let source = Environment::with_prefix("ESH3AR")
        .prefix_separator("__")
        .separator("__")
        .source(Some(ours));
    match config::Config::builder().add_source(source).build() {
        Ok(parsed) => {
            let mut flat = Vec::new();
            flatten("", &parsed.cache, &mut flat);
            for (key, value) in flat {
                let name = names.get(&key).cloned().unwrap_or_else(|| key.clone());
                values.insert(key, (value, Source::Environment(name)));
            }
        }
        Err(error) => faults.push(Fault {
            source: Source::Environment(format!("{PREFIX}*")),
            text: error.to_string(),
        }),
    }
}

fn flatten(prefix: &str, value: &config::Value, flat: &mut Vec<(String, String)>) {
    if let ValueKind::Table(table) = &value.kind {
        for (name, value) in table {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            flatten(&key, value, flat);
        }
    } else if let ValueKind::Array(list) = &value.kind {
        let texts = list.iter().map(|item| item.clone().into_string().unwrap_or_default());
        flat.push((prefix.to_owned(), texts.collect::<Vec<_>>().join(",")));
    } else {
        flat.push((prefix.to_owned(), value.clone().into_string().unwrap_or_default()));
    }
}

/// The line on which a key of a TOML file is set.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let mut section = String::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            section = format!("{}.", name.trim());
        } else if let Some((name, _)) = line.split_once('=')
            && format!("{section}{}", name.trim()) == key
        {
            return Some(number + 1);
        }
    }
    None
}

fn take_secrets_from_files(values: &mut Values, faults: &mut Vec<Fault>) {
    for key in keys::KEYS.iter().filter(|key| key.secret) {
        let Some((path, source)) = values.remove(&format!("{}_file", key.name)) else { continue };
        match read_bounded(path.as_ref(), LONGEST_SECRET) {
            Ok(text) => {
                values.insert(key.name.to_owned(), (text.trim().to_owned(), source));
            }
            Err(error) => {
                faults.push(Fault { source, text: format!("{path} cannot be read: {error}") });
            }
        }
    }
}

struct Reader {
    values: Values,
    faults: Vec<Fault>,
}

impl Reader {
    fn text(&self, key: &str) -> String {
        let default = || keys::find(key).map_or("", |key| key.default).to_owned();
        self.values.get(key).map_or_else(default, |(value, _)| value.clone())
    }

    fn fault(&mut self, key: &str, text: String) {
        let source = self.values.get(key).map_or(Source::Default, |(_, source)| source.clone());
        self.faults.push(Fault { source, text: format!("{key} {text}") });
    }

    fn value<T>(&mut self, key: &str, wanted: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.text(key);
        let value = read(&text);
        if value.is_none() {
            self.fault(key, format!("must be {wanted}, not '{text}'"));
        }
        value
    }

    fn parsed<T: FromStr>(&mut self, key: &str, wanted: &str) -> Option<T> {
        self.value(key, wanted, |text| text.parse().ok())
    }

    fn positive(&mut self, key: &str) -> usize {
        let wanted = format!("a whole number from 1 to {}", u32::MAX);
        let most = u32::MAX as usize;
        self.value(key, &wanted, |text| text.parse().ok().filter(|n| (1..=most).contains(n)))
            .unwrap_or(1)
    }

    /// A limit; 0 means none.
    fn limit(&mut self, key: &str) -> u32 {
        let wanted = format!("a whole number up to {}; 0 for no limit", u32::MAX);
        self.value(key, &wanted, |text| text.parse().ok()).unwrap_or(0)
    }

    fn duration(&mut self, key: &str) -> Duration {
        let most = match key {
            "auth.access_token_ttl"
            | "retention.dead_letters"
            | "retention.audit_log"
            | "retention.deleted"
            | "retention.idempotency_keys" => duration::LONGEST,
            _ => Duration::from_secs(24 * 3600),
        };
        let wanted =
            format!("a duration such as 250ms, 5s, 10m or 2h, at most {}", duration::format(most));
        self.value(key, &wanted, |text| {
            duration::parse(text).filter(|d| !d.is_zero() && *d <= most)
        })
        .unwrap_or_default()
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        Some(self.text(key)).filter(|text| !text.is_empty()).map(PathBuf::from)
    }

    /// URLs in a row. A comma may also stand in one, between the hosts of a server that has several.
    fn urls(&self, key: &str) -> Vec<Secret> {
        let mut urls: Vec<String> = Vec::new();
        for part in self.text(key).split([',', '\n']).map(str::trim).filter(|p| !p.is_empty()) {
            match urls.last_mut() {
                Some(last) if !part.contains("://") => {
                    last.push(',');
                    last.push_str(part);
                }
                _ => urls.push(part.to_owned()),
            }
        }
        urls.into_iter().map(Secret::new).collect()
    }

    fn smtp(&mut self) -> Option<Smtp> {
        let host = self.text("smtp.host");
        let from = self.text("smtp.from");
        let to: Vec<String> = self
            .text("smtp.to")
            .split(',')
            .map(|to| to.trim().to_owned())
            .filter(|to| !to.is_empty())
            .collect();
        let port = self.value("smtp.port", "a port from 1 to 65535", |text| {
            text.parse::<u16>().ok().filter(|port| *port > 0)
        });
        let tls = self.value("smtp.tls", "starttls, tls or none", |text| match text {
            "starttls" => Some(SmtpTls::StartTls),
            "tls" => Some(SmtpTls::Tls),
            "none" => Some(SmtpTls::None),
            _ => None,
        });
        let (user, password) = (self.text("smtp.username"), self.text("smtp.password"));
        if user.is_empty() != password.is_empty() {
            let key = if user.is_empty() { "smtp.username" } else { "smtp.password" };
            self.fault(key, "user name and password go together".to_owned());
        }
        let is_address = |address: &str| {
            address.split_once('@').is_some_and(|(name, host)| {
                !name.is_empty() && !host.is_empty() && !host.contains('@')
            }) && !address.contains(char::is_whitespace)
        };
        if let Some(address) = to.iter().find(|address| !is_address(address)) {
            self.fault("smtp.to", format!("'{address}' is no mail address"));
        }
        if !from.is_empty() && !is_address(&from) {
            self.fault("smtp.from", format!("'{from}' is no mail address"));
        }
        if host.is_empty() {
            return None;
        }
        if from.is_empty() {
            self.fault("smtp.from", "is needed with smtp.host".to_owned());
        }
        if to.is_empty() {
            self.fault("smtp.to", "is needed with smtp.host".to_owned());
        }
        Some(Smtp {
            host,
            port: port.unwrap_or_default(),
            tls: tls.unwrap_or(SmtpTls::StartTls),
            credentials: (!user.is_empty()).then(|| (user, Secret::new(password))),
            from,
            to,
        })
    }

    fn config(&mut self) -> Config {
        self.logins();
        let pool_size = self.positive("database.pool_size");
        if pool_size > PRIVATE_POOL && self.text("database.url").is_empty() {
            let text = format!("may be at most {PRIVATE_POOL} with the private Postgres");
            self.fault("database.pool_size", text);
        }
        let replica_urls = self.urls("database.replica_urls");
        if !replica_urls.is_empty() && self.text("database.url").is_empty() {
            let text = "needs database.url beside it: the private Postgres has no replicas";
            self.fault("database.replica_urls", text.to_owned());
        }
        let address = "an address and port such as 127.0.0.1:5000";
        let fallback = SocketAddr::from(([127, 0, 0, 1], 0));
        let tls = match (self.path("http.tls_cert"), self.path("http.tls_key")) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (Some(_), None) => {
                self.fault("http.tls_cert", "needs http.tls_key beside it".to_owned());
                None
            }
            (None, Some(_)) => {
                self.fault("http.tls_key", "needs http.tls_cert beside it".to_owned());
                None
            }
            (None, None) => None,
        };
        let metrics_listen = if self.text("metrics.listen").eq_ignore_ascii_case("off") {
            None
        } else {
            self.parsed("metrics.listen", "an address and port such as 127.0.0.1:5001, or off")
        };
        let region = self.text("phone.default_region");
        let default_region = (!region.is_empty())
            .then(|| self.parsed("phone.default_region", "a two-letter region code such as YE"))
            .flatten();
        // A filter would take a misspelt level for the name of a module and show nothing.
        let level = "error, warn, info, debug, trace or off, or directives such as esh3ar=debug";
        let level = self.value("log.level", level, |text| {
            let is_level = |word: &str| {
                ["error", "warn", "info", "debug", "trace", "off"]
                    .contains(&word.to_ascii_lowercase().as_str())
            };
            let good = text
                .split(',')
                .all(|part| is_level(part.rsplit('=').next().unwrap_or_default().trim()));
            good.then(|| text.to_owned())
        });
        let format = self.value("log.format", "auto, text or json", |text| match text {
            "auto" => Some(LogFormat::Auto),
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            _ => None,
        });
        Config {
            data_dir: self.path("data_dir"),
            http: Http {
                listen: self.parsed("http.listen", address).unwrap_or(fallback),
                tls,
                max_connections: self.positive("http.max_connections"),
                header_timeout: self.duration("http.header_timeout"),
                stop_timeout: self.duration("http.stop_timeout"),
                diagnostics_hub: self
                    .value("http.diagnostics_hub", "true or false", |text| text.parse().ok())
                    .unwrap_or_default(),
            },
            metrics_listen,
            database: Database {
                url: Some(self.text("database.url")).filter(|u| !u.is_empty()).map(Secret::new),
                replica_urls,
                pool_size,
                bin_dir: self.path("database.bin_dir"),
            },
            queue: self.queue(),
            cache_url: self.cache_url(),
            cluster_address: self.cluster_address(),
            default_region,
            retry: RetryPolicy {
                acknowledge_timeout: self.duration("retry.acknowledge_timeout"),
                base: self.duration("retry.base"),
                attempts: self
                    .value("retry.attempts", "a whole number from 0 to 20", |text| {
                        text.parse().ok().filter(|n| *n <= 20)
                    })
                    .unwrap_or_default(),
            },
            limits: MessageLimits {
                messages_per_minute: self.limit("limits.messages_per_minute"),
                messages_per_hour: self.limit("limits.messages_per_hour"),
                messages_per_second: self.limit("limits.messages_per_second"),
                queue_depth: u64::from(self.limit("limits.queue_depth")),
            },
            connections_per_user: self.positive("limits.connections_per_user"),
            connections_per_business_user: self.positive("limits.connections_per_business_user"),
            smtp: self.smtp(),
            alert_interval: self.duration("smtp.alert_interval"),
            dead_letters_kept: self.duration("retention.dead_letters"),
            audit_log_kept: self.duration("retention.audit_log"),
            messages_kept: self.kept("retention.messages"),
            events_kept: self.kept("retention.events"),
            deleted_kept: self.duration("retention.deleted"),
            idempotency_keys_kept: self.duration("retention.idempotency_keys"),
            access_token_ttl: self.duration("auth.access_token_ttl"),
            traces: self.traces(),
            log: Log {
                level: level.unwrap_or_default(),
                format: format.unwrap_or(LogFormat::Auto),
                sample: self.share("log.sample"),
            },
        }
    }

    fn origins(&self) -> Vec<Origin> {
        keys::KEYS
            .iter()
            .map(|key| {
                let text = self.text(key.name);
                let whole = Secret::new(text.clone());
                let value = if key.secret && !text.is_empty() { "***".to_owned() } else { text };
                let source = self.values.get(key.name);
                let source = source.map_or(Source::Default, |(_, source)| source.clone());
                Origin { key: key.name, value, source, whole }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
