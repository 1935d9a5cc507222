//! Where a backup is written: under a temporary name until it is complete; and how many
//! older ones are kept.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use time::{OffsetDateTime, macros::format_description};

use crate::cli::io::{
    exit::{ExitStatus, Failure},
    temp_file,
};

const NAME_PREFIX: &str = "esh3ar-";
const NAME_SUFFIX: &str = ".tar";

#[derive(Clone, Debug)]
pub(super) struct BackupDestination {
    pub(super) path: PathBuf,
    temporary: PathBuf,
    /// The folder whose older backups are counted, if one was given.
    rotated: Option<PathBuf>,
}

impl BackupDestination {
    /// A file, or one named after the time in a folder.
    pub(super) fn new(given: &Path, now: OffsetDateTime) -> Result<BackupDestination, Failure> {
        let given = std::path::absolute(given).map_err(|error| unusable(given, &error))?;
        let rotated = given.is_dir().then(|| given.clone());
        let path = match &rotated {
            Some(folder) => {
                let form = format_description!("[year][month][day]T[hour][minute][second]Z");
                let at = now.to_offset(time::UtcOffset::UTC).format(&form).unwrap_or_default();
                folder.join(format!("{NAME_PREFIX}{at}{NAME_SUFFIX}"))
            }
            // The existing file may be the only good backup.
            None if given.symlink_metadata().is_ok() => {
                let what = format!("{} already exists", given.display());
                return Err(Failure::new(ExitStatus::Refused, what).hint("choose another name"));
            }
            None => given,
        };
        Ok(BackupDestination { temporary: temp_file::path_for(&path), path, rotated })
    }

    /// Whether older backups can be counted.
    pub(super) fn is_rotated(&self) -> bool {
        self.rotated.is_some()
    }

    /// Creates the temporary file, private and locked while it is written, and removes
    /// those that killed processes left.
    pub(super) fn open(&self) -> Result<File, Failure> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let own = self.path.file_name().unwrap_or_default().to_string_lossy();
        temp_file::remove_stale(
            folder,
            |of| if self.is_rotated() { is_backup(of) } else { of == own },
        );
        temp_file::create(&self.temporary).map_err(|error| unusable(&self.path, &error))
    }

    /// Removes the temporary file.
    pub(super) fn discard(&self) {
        let _ = fs::remove_file(&self.temporary);
    }

    /// Renames the complete file, durably, and removes the oldest of more than `keep`. Returns how many.
    pub(super) fn finish(&self, keep: Option<usize>) -> Result<usize, Failure> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        fs::rename(&self.temporary, &self.path)
            .and_then(|()| File::open(folder)?.sync_all())
            .map_err(|error| unusable(&self.path, &error))?;
        let (Some(folder), Some(keep)) = (&self.rotated, keep) else { return Ok(0) };
        rotate(folder, keep).map_err(|error| unusable(folder, &error))
    }
}

fn rotate(folder: &Path, keep: usize) -> std::io::Result<usize> {
    let mut backups = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_backup(&name) {
            backups.push(entry.path());
        }
    }
    // Their names sort by time.
    backups.sort_unstable();
    let surplus = backups.len().saturating_sub(keep);
    for old in backups.iter().take(surplus) {
        fs::remove_file(old)?;
    }
    Ok(surplus)
}

/// `esh3ar-20260131T120000Z.tar`, and nothing else in the folder.
fn is_backup(name: &str) -> bool {
    let at = name.strip_prefix(NAME_PREFIX).and_then(|rest| rest.strip_suffix(NAME_SUFFIX));
    at.is_some_and(|at| {
        at.len() == 16
            && at.bytes().enumerate().all(|(place, byte)| match place {
                8 => byte == b'T',
                15 => byte == b'Z',
                _ => byte.is_ascii_digit(),
            })
    })
}

fn unusable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(ExitStatus::Failed, format!("{} cannot be written: {error}", path.display()))
        .hint("choose an existing folder with enough free space")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_backups_are_counted() {
        assert!(is_backup("esh3ar-20260131T120000Z.tar"));
        for other in
            ["esh3ar-mine.tar", "esh3ar-20260131T120000Z.tar.gz", "notes.txt", "esh3ar-.tar"]
        {
            assert!(!is_backup(other), "{other}");
        }
    }

    #[test]
    fn what_the_killed_left_goes_and_what_is_written_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        // No process has this number: the kernel's are smaller.
        const NOBODY: u32 = 1 << 30;
        let left = [
            format!(".esh3ar-20260131T120000Z.tar.{NOBODY}.part"),
            format!(".mine.tar.{NOBODY}.part"),
        ];
        let stays = [
            format!(".esh3ar-20260131T120001Z.tar.{}.part", std::process::id()),
            format!(".notes.{NOBODY}.part"),
        ];
        left.iter().chain(&stays).for_each(|name| fs::write(path(name), "x").unwrap());
        let now = OffsetDateTime::UNIX_EPOCH;
        let there = || left.each_ref().map(|name| path(name).exists());
        // Another process's, locked.
        let other = File::open(path(&left[0])).unwrap();
        other.lock().unwrap();
        let _open = BackupDestination::new(folder.path(), now).unwrap().open().unwrap();
        assert_eq!(there(), [true, true]);
        drop(other);
        let place = BackupDestination::new(folder.path(), now).unwrap();
        place.discard();
        let _open = place.open().unwrap();
        assert_eq!(there(), [false, true]);
        let _file = BackupDestination::new(&path("mine.tar"), now).unwrap().open().unwrap();
        assert_eq!(there(), [false, false]);
        assert!(stays.iter().all(|name| path(name).exists()));
        assert!(place.temporary.exists(), "what is being written is not left over");
    }

    #[test]
    fn the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        for day in 1..=5 {
            fs::write(folder.path().join(format!("esh3ar-2026010{day}T000000Z.tar")), "x").unwrap();
        }
        fs::write(folder.path().join("esh3ar-before-upgrade.tar"), "x").unwrap();
        assert_eq!(rotate(folder.path(), 2).unwrap(), 3);
        let mut left: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let wanted = [
            "esh3ar-20260104T000000Z.tar",
            "esh3ar-20260105T000000Z.tar",
            "esh3ar-before-upgrade.tar",
        ];
        assert_eq!(left, wanted);
    }
}
