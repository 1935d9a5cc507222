//! `backup` and `restore`: everything in one file, and back; or base backups and the log in a folder.

mod adopt;
mod archive;
mod create;
mod destination;
mod disk_space;
mod log_backup;
mod log_folder;
mod log_restore;
mod replay;
mod restore;
mod tools;

pub(crate) use create::BackupArgs;
pub(crate) use restore::RestoreArgs;
