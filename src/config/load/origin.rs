//! What a configuration remembers of where it came from.

use super::Source;
use crate::config::{
    Config, Secret,
    keys::{self, Key},
    reader::Reader,
};

/// One key's value and where it came from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The key.
    pub key: &'static str,
    /// Its value; `***` for secrets, empty for unset.
    pub value: String,
    /// Where it came from.
    pub source: Source,
    /// The value, secret or not, to tell whether it is another.
    whole: Secret,
}

impl Origin {
    fn of(key: &'static Key, reader: &Reader) -> Origin {
        let text = reader.text(key).to_owned();
        let value = if key.secret && !text.is_empty() { "***".to_owned() } else { text.clone() };
        Origin { key: key.name, value, source: reader.source(key), whole: Secret::new(text) }
    }
}

/// A configuration that may be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Where each came from, in the order of the keys.
    pub origins: Vec<Origin>,
    /// Secrets that are set.
    pub secrets: Vec<(&'static str, Secret)>,
}

impl Loaded {
    pub(super) fn new(config: Config, reader: &Reader) -> Loaded {
        let secrets = keys::all().filter(|key| key.secret && reader.is_set(key));
        Loaded {
            config,
            origins: keys::all().map(|key| Origin::of(key, reader)).collect(),
            secrets: secrets
                .map(|key| (key.name, Secret::new(reader.text(key).to_owned())))
                .collect(),
        }
    }

    /// The keys whose values are not those of `before`, in the order in which keys are shown.
    pub fn changed_since(&self, before: &Loaded) -> Vec<&'static str> {
        let both = self.origins.iter().zip(&before.origins);
        both.filter(|(now, then)| now.whole.expose() != then.whole.expose())
            .map(|(now, _)| now.key)
            .collect()
    }
}
