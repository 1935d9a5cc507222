//! Files that only their owner may read.

use std::{
    fs::{self, File},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

/// Opens a file for an export of people's messages: closed to others, also if it
/// existed before. A terminal, pipe or device is not changed.
pub(crate) fn open(path: &Path) -> std::io::Result<File> {
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    if file.metadata()?.is_file() {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// Creates a file that must not exist, closed to others: nothing is overwritten, and no symbolic link
/// is followed.
pub(crate) fn create_new(path: &Path) -> std::io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(path)
}
