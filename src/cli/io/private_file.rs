//! Files that only their owner may read.

use std::{
    fs::{self, File},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

/// Opens a file for what an administrator writes out of people's messages: readable for nobody else, also
/// when it was there before. What is no file, such as a terminal, stays as it is.
///
/// # Errors
/// It cannot be made or closed to others; then nothing was written into it.
pub(crate) fn open(path: &Path) -> std::io::Result<File> {
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    if file.metadata()?.is_file() {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// Makes a file that must not be there yet, readable for nobody else: nothing is overwritten, and no link
/// that somebody put there is followed.
///
/// # Errors
/// There is something of that name, or it cannot be made.
pub(crate) fn create_new(path: &Path) -> std::io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(path)
}
