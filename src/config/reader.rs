//! The values that were found, read key by key. Everything that is wrong is kept, to be told at once.

use std::collections::BTreeMap;

use super::{
    keys::ConfigKey,
    load::{ConfigProblem, ConfigSource},
};

/// The text of each key that is set, and where it came from.
pub(super) type Values = BTreeMap<String, (String, ConfigSource)>;

/// What sections read their keys from.
pub(super) struct Reader {
    pub(super) values: Values,
    pub(super) faults: Vec<ConfigProblem>,
}

impl Reader {
    /// The text of a key: what is set, or its default.
    pub(super) fn text(&self, key: &ConfigKey) -> &str {
        self.values.get(key.name).map_or(key.default, |(text, _)| text)
    }

    /// Whether a key has a value, even a wrong one.
    pub(super) fn is_set(&self, key: &ConfigKey) -> bool {
        !self.text(key).is_empty()
    }

    /// Where the value of a key came from.
    pub(super) fn source(&self, key: &ConfigKey) -> ConfigSource {
        self.values.get(key.name).map_or(ConfigSource::Default, |(_, source)| source.clone())
    }

    /// Notes what is wrong with a key.
    pub(super) fn fault(&mut self, key: &ConfigKey, why: &str) {
        let fault = ConfigProblem { source: self.source(key), text: format!("{} {why}", key.name) };
        self.faults.push(fault);
    }

    /// The value of a key. In place of one that is wrong its default is given, so that the other keys
    /// can be read as well; `None` if that is wrong too.
    pub(super) fn read<T>(
        &mut self,
        key: &ConfigKey,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        match parse(self.text(key)) {
            Ok(value) => Some(value),
            Err(why) => {
                self.fault(key, &why);
                parse(key.default).ok()
            }
        }
    }
}
