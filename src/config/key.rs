//! A configuration key, as its section declares it.

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

/// A list of tables, `[[name]]` in the file, each with the same keys.
#[derive(Debug)]
pub struct ConfigList {
    pub name: &'static str,
    pub doc: &'static str,
    /// Their names are without that of the list.
    pub keys: &'static [ConfigKey],
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
    /// Another example than the default.
    pub(super) const fn example(self, example: &'static str) -> ConfigKey {
        ConfigKey { example, ..self }
    }

    pub(super) const fn secret(self) -> ConfigKey {
        ConfigKey { secret: true, ..self }
    }

    pub(super) const fn reloadable(self) -> ConfigKey {
        ConfigKey { reloadable: true, ..self }
    }

    /// Whether its value is a table with names that the user chooses.
    pub(super) fn is_table(&self) -> bool {
        self.example.starts_with("{ ")
    }

    /// Each line of a doc comment begins with a space.
    pub(super) const fn named(self, name: &'static str, doc: &'static str) -> ConfigKey {
        ConfigKey { name, doc: doc.trim_ascii_start(), ..self }
    }
}
