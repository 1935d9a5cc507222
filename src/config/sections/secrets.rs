//! `secrets.*`: the keys of the installation.

use std::path::PathBuf;

use crate::config::{
    key::unset,
    parse::{optional, path},
    sections::section::section,
};

section! {
    /// The keys of the installation.
    pub struct SecretsConfig in "secrets." {
        /// File of the keys that seal secrets in the database and authenticate backups; every machine of an
        /// installation needs the same. It may be a systemd credential. Unset: secrets.key in data_dir, which
        /// is created if the database is the private one. Keep a copy apart from the database.
        key_file: Option<PathBuf> = unset("/etc/esh3ar/secrets.key") => optional(path),
    }
}
