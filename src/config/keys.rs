//! The list of all configuration keys: each section in [`sections`](super::sections) declares its own.

use super::sections::SECTIONS;
pub use super::{key::ConfigKey, sections::known};
use crate::domain::suggestion::nearest;

/// All keys, in the order in which they are shown.
pub fn all() -> impl Iterator<Item = &'static ConfigKey> {
    SECTIONS.iter().copied().flatten()
}

pub fn find(name: &str) -> Option<&'static ConfigKey> {
    all().find(|key| key.name == name)
}

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
            // One more for a table in a section, such as `otp.text`.
            let parts = key.name.split('.').count();
            assert!(key.name == "data_dir" || matches!(parts, 2 | 3), "{}", key.name);
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
