//! A file that is written under a temporary name and then renamed, so that neither a full disk nor a
//! failure leaves a partial file or destroys an existing one.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::{exit::Failure, private_file, temp_file};

pub(crate) struct AtomicFile {
    path: PathBuf,
    /// `None` for a terminal, a pipe or a device, which is written directly.
    temporary: Option<PathBuf>,
}

impl AtomicFile {
    /// Creates it for an export of people's messages: readable by its owner only.
    pub(crate) fn open(path: &Path) -> Result<(AtomicFile, File), Failure> {
        AtomicFile::try_open(path).map_err(|error| write_error(path, &error))
    }

    fn try_open(path: &Path) -> io::Result<(AtomicFile, File)> {
        let there = fs::metadata(path);
        if there.as_ref().is_ok_and(|there| !there.is_file()) {
            let atomic = AtomicFile { path: path.to_owned(), temporary: None };
            return Ok((atomic, private_file::open(path)?));
        }
        // A symbolic link is kept.
        let path = if there.is_ok() { path.canonicalize()? } else { path.to_owned() };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        temp_file::remove_stale(folder.unwrap_or(Path::new(".")), |of| of == name);
        let temporary = temp_file::path_for(&path);
        let file = temp_file::create(&temporary)?;
        Ok((AtomicFile { path, temporary: Some(temporary) }, file))
    }

    /// Renames it if it is complete, and removes it otherwise.
    pub(crate) fn finish(self, is_complete: bool) -> Result<(), Failure> {
        let Some(temporary) = self.temporary else { return Ok(()) };
        if !is_complete {
            let _ = fs::remove_file(temporary);
            return Ok(());
        }
        // Synced before the rename, whichever process wrote it.
        let synced = File::open(&temporary).and_then(|file| file.sync_all());
        synced.and_then(|()| fs::rename(&temporary, &self.path)).map_err(|error| {
            let _ = fs::remove_file(&temporary);
            write_error(&self.path, &error)
        })
    }
}

pub(crate) fn write_error(path: &Path, error: &io::Error) -> Failure {
    Failure::write_error(path, error, "choose another file with --out")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_interrupted_one_left_goes_with_the_next() {
        let folder = tempfile::tempdir().unwrap();
        // No process has this number: the kernel's are smaller.
        let left = folder.path().join(format!(".person.jsonl.{}.part", 1u32 << 30));
        fs::write(&left, "a person's").unwrap();
        let path = folder.path().join("person.jsonl");
        let (atomic, _file) = AtomicFile::open(&path).unwrap();
        assert!(!left.exists() && !path.exists());
        atomic.finish(true).unwrap();
        assert!(path.is_file());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
