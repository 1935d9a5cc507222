//! `backup.*`: backup files.

use std::time::Duration;

use crate::config::{
    duration::MAX_DURATION,
    key::default,
    parse::{duration, flag, whole},
    sections::section::section,
};

section! {
    /// Backup files.
    pub struct BackupConfig in "backup." {
        /// Encrypt backup files with the key of secrets.key_file. Without it they are authenticated only.
        encrypt: bool = default("false") => flag,
        /// How old a base backup of the private Postgres may become before `backup --method wal` makes
        /// another; in between it copies only the log.
        base_interval: Duration = default("1d") => duration(MAX_DURATION),
        /// How many base backups, each with its log, `backup --method wal` keeps in a folder.
        keep_bases: usize = default("7") => whole(1..=10_000),
    }
}
