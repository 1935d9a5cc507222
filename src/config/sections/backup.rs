//! `backup.*`: backup files.

use crate::config::{key::default, parse::flag, sections::section::section};

section! {
    /// Backup files.
    pub struct BackupConfig in "backup." {
        /// Encrypt backup files with the key of secrets.key_file. Without it they are authenticated only.
        encrypt: bool = default("false") => flag,
    }
}
