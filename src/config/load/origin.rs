//! What a configuration remembers of where it came from.

use super::Source;
use crate::config::{Config, Secret};

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
    pub(super) whole: Secret,
}

impl Loaded {
    /// The keys whose values are not those of `before`, in the order of [`keys::KEYS`].
    pub fn changed_since(&self, before: &Loaded) -> Vec<&'static str> {
        let both = self.origins.iter().zip(&before.origins);
        both.filter(|(now, then)| now.whole.expose() != then.whole.expose())
            .map(|(now, _)| now.key)
            .collect()
    }
}

/// A configuration that may be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Where each came from.
    pub origins: Vec<Origin>,
    /// Secrets that are set.
    pub secrets: Vec<(&'static str, Secret)>,
}
