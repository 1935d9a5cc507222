//! The list of all configuration keys: each section in [`sections`](super::sections) declares its own.

use super::sections::{LISTS, SECTIONS};
pub use super::{
    key::{ConfigKey, ConfigList},
    sections::known,
};
use crate::domain::suggestion::nearest;

/// All keys, in the order in which they are shown.
pub fn all() -> impl Iterator<Item = &'static ConfigKey> {
    SECTIONS.iter().copied().flatten()
}

/// The lists of tables, in the order in which they are shown.
pub fn lists() -> impl Iterator<Item = &'static ConfigList> {
    LISTS.iter().copied()
}

/// A key by its full name; of a table in a list, with the table's number: `sms.gateways.0.url`.
pub fn find(name: &str) -> Option<&'static ConfigKey> {
    all().find(|key| key.name == name).or_else(|| {
        let (list, _, rest) = in_list(name)?;
        list.keys.iter().find(|key| {
            let below = rest.strip_prefix(key.name).and_then(|rest| rest.strip_prefix('.'));
            rest == key.name || (key.is_table() && below.is_some_and(|name| !name.is_empty()))
        })
    })
}

/// Whether a name is that of a key of a table in a list.
pub fn is_in_list(name: &str) -> bool {
    in_list(name).is_some()
}

/// Splits a name into the list, the number of the table, and the name of its key.
fn in_list(name: &str) -> Option<(&'static ConfigList, &str, &str)> {
    LISTS.iter().find_map(|list| {
        let rest = name.strip_prefix(list.name)?.strip_prefix('.')?;
        let (index, rest) = rest.split_once('.')?;
        let is_number = index.parse::<usize>().is_ok_and(|number| number.to_string() == index);
        is_number.then_some((*list, index, rest))
    })
}

pub fn is_reloadable(name: &str) -> bool {
    find(name).is_some_and(|key| key.reloadable)
}

/// Parts of the documented interface that this version does not implement.
const NOT_IMPLEMENTED: &[&str] =
    &["media.", "push.", "scan.", "http.public_url", "limits.uploads_per_minute"];

/// The error for an unknown key.
pub fn unknown(name: &str) -> String {
    if let Some((list, index, rest)) = in_list(name) {
        let table = format!("{}.{index}", list.name);
        return match nearest(rest, list.keys.iter().map(|key| key.name)) {
            Some(near) => format!("unknown key {name}; did you mean {table}.{near}?"),
            None => format!("unknown key {name}; see: esh3ar config doc"),
        };
    }
    if let Some(list) = LISTS.iter().find(|list| name.starts_with(list.name)) {
        return format!("{name} is no key: write tables [[{}]]", list.name);
    }
    match nearest(name, all().map(|key| key.name)) {
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
    fn a_key_of_a_list_is_found_by_the_number_of_its_table() {
        assert!(find("sms.gateways.0.secret").is_some_and(|key| key.secret));
        assert!(find("sms.gateways.12.headers.X-Key").is_some());
        for no_key in ["sms.gateways", "sms.gateways.url", "sms.gateways.01.url"] {
            assert!(find(no_key).is_none(), "{no_key}");
        }
        assert!(
            find("sms.gateways.0.url.x").is_none() && find("sms.gateways.0.headers.").is_none()
        );
        let told = unknown("sms.gateways.1.urll");
        assert_eq!(told, "unknown key sms.gateways.1.urll; did you mean sms.gateways.1.url?");
        assert!(unknown("sms.gateways").ends_with("write tables [[sms.gateways]]"));
        for key in lists().flat_map(|list| list.keys) {
            assert!(key.doc.ends_with('.') && !key.example.is_empty(), "{}", key.name);
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
