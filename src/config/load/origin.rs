//! What a configuration remembers of where it came from.

use super::ConfigSource;
use crate::config::{
    Config, Secret,
    keys::{self, ConfigKey},
    reader::Reader,
};

/// One key's value and where it came from.
#[derive(Clone, Debug)]
pub struct ConfigOrigin {
    pub key: &'static str,
    /// Its value; `***` for secrets, empty for unset.
    pub value: String,
    /// Where it came from.
    pub source: ConfigSource,
    /// The value, secret or not, to tell whether it is another.
    whole: Secret,
}

impl ConfigOrigin {
    fn of(key: &'static ConfigKey, reader: &Reader) -> ConfigOrigin {
        let text = reader.text(key).to_owned();
        let value = if key.secret && !text.is_empty() { "***".to_owned() } else { text.clone() };
        ConfigOrigin { key: key.name, value, source: reader.source(key), whole: Secret::new(text) }
    }
}

/// A configuration that may be used.
#[derive(Clone, Debug)]
pub struct LoadedConfig {
    pub config: Config,
    /// Where each came from, in the order of the keys.
    pub origins: Vec<ConfigOrigin>,
    /// Secrets that are set.
    pub secrets: Vec<(&'static str, Secret)>,
}

impl LoadedConfig {
    pub(super) fn new(config: Config, reader: &Reader) -> LoadedConfig {
        let secrets = keys::all().filter(|key| key.secret && reader.is_set(key));
        LoadedConfig {
            config,
            origins: keys::all().map(|key| ConfigOrigin::of(key, reader)).collect(),
            secrets: secrets
                .map(|key| (key.name, Secret::new(reader.text(key).to_owned())))
                .collect(),
        }
    }

    /// The keys whose values are not those of `before`, in the order in which keys are shown.
    pub fn changed_since(&self, before: &LoadedConfig) -> Vec<&'static str> {
        let both = self.origins.iter().zip(&before.origins);
        both.filter(|(now, then)| now.whole.expose() != then.whole.expose())
            .map(|(now, _)| now.key)
            .collect()
    }
}
