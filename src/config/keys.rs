//! Configuration keys, and the list of all: each section in [`sections`](super::sections) declares its own.

use super::sections::SECTIONS;
use crate::domain::nearest::nearest;

#[derive(Debug)]
pub struct ConfigKey {
    pub name: &'static str,
    /// The default; empty for unset.
    pub default: &'static str,
    /// An example value: the default, or another one where that is unset. Arrays are written as in TOML.
    pub example: &'static str,
    /// Whether its value is never shown; it may then be given as `<name>_file`, too.
    pub secret: bool,
    /// Whether `esh3ar reload` applies a change; other keys need a restart.
    pub reloadable: bool,
    pub doc: &'static str,
}

/// A key with a default.
pub(super) const fn default(text: &'static str) -> ConfigKey {
    ConfigKey { name: "", default: text, example: text, secret: false, reloadable: false, doc: "" }
}

/// A key without a default, with an example value.
pub(super) const fn unset(example: &'static str) -> ConfigKey {
    ConfigKey { default: "", ..default(example) }
}

impl ConfigKey {
    pub(super) const fn secret(self) -> ConfigKey {
        ConfigKey { secret: true, ..self }
    }

    pub(super) const fn reloadable(self) -> ConfigKey {
        ConfigKey { reloadable: true, ..self }
    }

    /// Each line of a doc comment begins with a space.
    pub(super) const fn named(self, name: &'static str, doc: &'static str) -> ConfigKey {
        ConfigKey { name, doc: doc.trim_ascii_start(), ..self }
    }
}

/// All keys, in the order in which they are shown.
pub fn all() -> impl Iterator<Item = &'static ConfigKey> {
    SECTIONS.iter().copied().flatten()
}

pub fn find(name: &str) -> Option<&'static ConfigKey> {
    all().find(|key| key.name == name)
}

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
        const KEY: &$crate::config::keys::ConfigKey = $crate::config::keys::known($name);
        KEY
    }};
}
pub(super) use key;

pub fn is_reloadable(name: &str) -> bool {
    find(name).is_some_and(|key| key.reloadable)
}

/// Parts of the documented interface that this version does not implement.
const NOT_IMPLEMENTED: &[&str] =
    &["media.", "push.", "scan.", "sms.", "http.public_url", "limits.uploads_per_minute"];

/// The error for an unknown key.
pub fn unknown(name: &str) -> String {
    let nearest = nearest(name, all().map(|key| key.name));
    match nearest {
        Some(near) => format!("unknown key {name}; did you mean {near}?"),
        None if NOT_IMPLEMENTED.iter().any(|prefix| name.starts_with(prefix)) => {
            format!("{name} is not available in this version")
        }
        None => format!("unknown key {name}; see: esh3ar config show"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_declared_once_with_a_section_a_text_and_an_example() {
        for key in all() {
            assert_eq!(all().filter(|other| other.name == key.name).count(), 1, "{}", key.name);
            assert!(key.name == "data_dir" || key.name.split('.').count() == 2, "{}", key.name);
            assert!(key.doc.ends_with('.') && !key.doc.contains("  "), "{}", key.name);
            assert!(!key.example.is_empty(), "{}", key.name);
            assert_eq!(known(key.name).name, key.name);
        }
    }

    #[test]
    fn a_section_may_have_keys_that_are_live_and_others() {
        assert!(is_reloadable("limits.queue_depth") && is_reloadable("log.level"));
        assert!(!is_reloadable("log.format") && !is_reloadable("http.listen"));
    }

    #[test]
    fn a_typo_names_its_neighbour() {
        assert!(unknown("htp.listen").contains("did you mean http.listen?"));
        assert!(unknown("media.url").contains("not available in this version"));
        assert!(unknown("weather.today.now").starts_with("unknown key"));
    }
}
