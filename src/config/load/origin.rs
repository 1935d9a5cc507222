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
    /// Its full name.
    pub key: String,
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
        ConfigOrigin {
            key: key.name.to_owned(),
            value,
            source: reader.source(key),
            whole: Secret::new(text),
        }
    }

    /// What is set in the tables of lists.
    fn of_lists(reader: &Reader) -> impl Iterator<Item = ConfigOrigin> {
        reader.values.iter().filter(|(name, _)| keys::is_in_list(name)).map(|(name, found)| {
            let (text, source) = found;
            let is_secret = keys::find(name).is_none_or(|key| key.secret);
            let value = if is_secret { "***".to_owned() } else { text.clone() };
            let whole = Secret::new(text.clone());
            ConfigOrigin { key: name.clone(), value, source: source.clone(), whole }
        })
    }
}

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct LoadedConfig {
    pub config: Config,
    /// The source of each, in the order of the keys.
    pub origins: Vec<ConfigOrigin>,
    /// The secrets that are set.
    pub secrets: Vec<(String, Secret)>,
}

impl LoadedConfig {
    pub(super) fn new(config: Config, reader: &Reader) -> LoadedConfig {
        let origins: Vec<ConfigOrigin> = keys::all()
            .map(|key| ConfigOrigin::of(key, reader))
            .chain(ConfigOrigin::of_lists(reader))
            .collect();
        let is_secret = |origin: &&ConfigOrigin| {
            keys::find(&origin.key).is_some_and(|key| key.secret)
                && !origin.whole.expose().is_empty()
        };
        let secrets = origins.iter().filter(is_secret);
        let secrets = secrets.map(|origin| (origin.key.clone(), origin.whole.clone())).collect();
        LoadedConfig { config, origins, secrets }
    }

    /// The keys whose values differ from `before`, in the order of the keys; then those that are gone.
    pub fn changed_since(&self, before: &LoadedConfig) -> Vec<String> {
        let changed =
            self.origins.iter().filter(|now| before.whole(&now.key) != Some(now.whole.expose()));
        let gone = before.origins.iter().filter(|then| self.whole(&then.key).is_none());
        changed.chain(gone).map(|origin| origin.key.clone()).collect()
    }

    fn whole(&self, key: &str) -> Option<&str> {
        self.origins.iter().find(|origin| origin.key == key).map(|origin| origin.whole.expose())
    }
}
