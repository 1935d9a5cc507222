//! The settings that options and answers make, checked as the configuration is.

use crate::{
    cli::process::addresses,
    config::{
        self, ConfigSources, LoadedConfig,
        describe::{ConfigSetting, file_with},
        keys,
    },
};

/// The setting of a key; a secret given as `@FILE` becomes the key that names the file.
pub(super) fn setting(key: &str, value: &str) -> ConfigSetting {
    let secret = keys::find(key).is_some_and(|key| key.secret);
    match value.strip_prefix('@').filter(|_| secret) {
        Some(path) => (format!("{key}_file"), path.to_owned()),
        None => (key.to_owned(), value.to_owned()),
    }
}

/// Whether these settings make a valid configuration; if not, the errors.
pub(super) fn check(settings: &[ConfigSetting]) -> Result<(), String> {
    load("the answers", file_with(settings)).map(|_| ()).map_err(|errors| {
        let texts: Vec<String> = errors.0.into_iter().map(|fault| fault.text).collect();
        texts.join("\n")
    })
}

pub(super) fn load(name: &str, text: String) -> Result<LoadedConfig, config::ConfigErrors> {
    addresses::load(ConfigSources {
        file: Some((name.to_owned(), text)),
        ..ConfigSources::default()
    })
}
