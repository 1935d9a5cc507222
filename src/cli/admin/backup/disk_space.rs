//! Whether a backup fits on the disk, before hours are spent on it.

use std::fs::{self, File};

use nix::sys::statvfs::{Statvfs, fstatvfs, statvfs};

use super::tools::BackupError;
use crate::{
    cli::{
        io::exit::{ExitStatus, Failure},
        process::database::OpenDatabase,
        setup::Setup,
    },
    store::backup,
};

fn free(found: &Statvfs) -> u64 {
    found.blocks_available().saturating_mul(found.fragment_size())
}

/// Compares the free space with the size of the database: that is the largest that a backup may become, and what
/// the scratch database takes, if the server is on this machine.
pub(super) async fn require(
    setup: &Setup,
    opened: &OpenDatabase,
    file: &File,
    verified: bool,
) -> Result<(), Failure> {
    let size = backup::size(&opened.store).await?;
    let place = fstatvfs(file).map_err(std::io::Error::from);
    let place = place.map_err(|error| Failure::from(BackupError::from(error)))?;
    let scratch = verified && !opened.is_external();
    let shared = scratch
        && fs::metadata(&setup.data_dir).is_ok_and(|folder| {
            use std::os::unix::fs::MetadataExt as _;
            file.metadata().is_ok_and(|file| file.dev() == folder.dev())
        });
    check("for the backup", free(&place), if shared { 2 * size } else { size }, size, shared)?;
    if scratch && !shared {
        let folder = statvfs(&setup.data_dir).map_err(std::io::Error::from);
        let folder = folder.map_err(|error| Failure::from(BackupError::from(error)))?;
        check("in the data folder", free(&folder), size, size, true)?;
    }
    Ok(())
}

fn check(place: &str, free: u64, needed: u64, size: u64, scratch: bool) -> Result<(), Failure> {
    if free >= needed {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let what = format!(
        "{} MiB free {place}, up to {} MiB needed: the database has {} MiB",
        free >> 20,
        mib(needed),
        mib(size)
    );
    let other = if scratch { "; --no-verify avoids the scratch database" } else { "" };
    let hint = format!("free disk space, keep fewer backups, or write to another disk{other}");
    Err(Failure::new(ExitStatus::Failed, what).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_told_with_how_much_is_missing() {
        assert!(check("here", 10 << 20, 10 << 20, 10 << 20, true).is_ok());
        let refused = check("here", (10 << 20) - 1, 20 << 20, 10 << 20, true).unwrap_err();
        assert_eq!(refused.what, "9 MiB free here, up to 20 MiB needed: the database has 10 MiB");
        assert!(refused.hint.unwrap().contains("--no-verify"));
        let refused = check("here", 0, 1, 1, false).unwrap_err();
        assert!(!refused.hint.unwrap().contains("--no-verify"));
    }
}
