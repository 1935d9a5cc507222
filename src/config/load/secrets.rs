//! Secrets that are set, wherever they came from.

use super::Reader;
use crate::config::{Secret, keys};

impl Reader {
    /// Each by its key.
    pub(super) fn secrets(&self) -> Vec<(&'static str, Secret)> {
        let set =
            keys::KEYS.iter().filter(|key| key.secret).map(|key| (key.name, self.text(key.name)));
        set.filter(|(_, text)| !text.is_empty())
            .map(|(key, text)| (key, Secret::new(text)))
            .collect()
    }
}
