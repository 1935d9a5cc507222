//! `backup` and `restore`: everything in one file, and back.

mod archive;
mod create;
mod destination;
mod disk_space;
mod restore;
mod tools;

pub(crate) use create::BackupArgs;
pub(crate) use restore::RestoreArgs;
