//! `data_dir`: the one key without a section.

use std::path::PathBuf;

use crate::config::{
    key::unset,
    parse::{optional, path},
    sections::section::section,
};

section! {
    /// The embedded parts.
    pub struct DataConfig in "" {
        /// Data folder of this installation. Unset: $STATE_DIRECTORY, else /var/lib/esh3ar for root, else the
        /// user's data folder.
        dir as "data_dir": Option<PathBuf> = unset("/var/lib/esh3ar") => optional(path),
    }
}
