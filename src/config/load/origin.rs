//! The sources of the values of a configuration.

use super::ConfigSource;
use crate::config::{
    Config, Secret,
    keys::{self, ConfigKey},
    reader::Reader,
};

/// The value of a key and its source.
#[derive(Clone, Debug)]
pub struct ConfigOrigin {
    pub key: &'static str,
    /// Its value; `***` for secrets, empty for unset.
    pub value: String,
    pub source: ConfigSource,
    /// The unmasked value, to detect changes.
    whole: Secret,
}

impl ConfigOrigin {
    fn of(key: &'static ConfigKey, reader: &Reader) -> ConfigOrigin {
        let text = reader.text(key).to_owned();
        let value = if key.secret && !text.is_empty() { "***".to_owned() } else { text.clone() };
        ConfigOrigin { key: key.name, value, source: reader.source(key), whole: Secret::new(text) }
    }
}

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct LoadedConfig {
    pub config: Config,
    /// The source of each, in the order of the keys.
    pub origins: Vec<ConfigOrigin>,
    /// The secrets that are set.
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

    /// The keys whose values differ from `before`, in the order of the keys.
    pub fn changed_since(&self, before: &LoadedConfig) -> Vec<&'static str> {
        let both = self.origins.iter().zip(&before.origins);
        both.filter(|(now, then)| now.whole.expose() != then.whole.expose())
            .map(|(now, _)| now.key)
            .collect()
    }
}
