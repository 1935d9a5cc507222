//! Reads the found values key by key, and collects all problems.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    key::ConfigKey,
    problem::{ConfigProblem, ConfigSource},
};

/// The text of each key that is set, and where it came from.
pub(super) type Values = BTreeMap<String, (String, ConfigSource)>;

pub(super) struct Reader {
    pub(super) values: Values,
    pub(super) problems: Vec<ConfigProblem>,
}

impl Reader {
    /// The text of a key, or its default.
    pub(super) fn text(&self, key: &ConfigKey) -> &str {
        self.values.get(key.name).map_or(key.default, |(text, _)| text)
    }

    /// The numbers of the tables of a list, in order.
    pub(super) fn tables(&self, list: &str) -> Vec<usize> {
        let index = |name: &String| {
            name.strip_prefix(list)?.strip_prefix('.')?.split('.').next()?.parse().ok()
        };
        let found: BTreeSet<usize> = self.values.keys().filter_map(index).collect();
        found.into_iter().collect()
    }

    /// The text of a key by its full name, if it is set.
    pub(super) fn text_of(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|(text, _)| text.as_str())
    }

    /// Records a problem with a key, given by its full name.
    pub(super) fn problem_with(&mut self, name: &str, why: &str) {
        // A missing key of a table is reported where the table is.
        let table = name.rsplit_once('.').map_or(name, |(table, _)| table);
        let inside = |(key, _): &(&String, &(String, ConfigSource))| {
            key.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'))
        };
        let found = self
            .values
            .get(name)
            .or_else(|| self.values.iter().find(inside).map(|(_, value)| value));
        let source = found.map_or(ConfigSource::Default, |(_, source)| source.clone());
        self.problems.push(ConfigProblem { source, text: format!("{name} {why}") });
    }

    /// Whether a key has a value, even a wrong one.
    pub(super) fn is_set(&self, key: &ConfigKey) -> bool {
        !self.text(key).is_empty()
    }

    /// Where the value of a key came from.
    pub(super) fn source(&self, key: &ConfigKey) -> ConfigSource {
        self.values.get(key.name).map_or(ConfigSource::Default, |(_, source)| source.clone())
    }

    /// Records a problem with a key.
    pub(super) fn problem(&mut self, key: &ConfigKey, why: &str) {
        let problem =
            ConfigProblem { source: self.source(key), text: format!("{} {why}", key.name) };
        self.problems.push(problem);
    }

    /// The value of a key. If it is invalid, the default, so that the other keys can be read as well; `None`
    /// if that is invalid, too.
    pub(super) fn read<T>(
        &mut self,
        key: &ConfigKey,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        match parse(self.text(key)) {
            Ok(value) => Some(value),
            Err(why) => {
                self.problem(key, &why);
                parse(key.default).ok()
            }
        }
    }
}
