//! Locks on the folder, by the kernel: they end with the process, however it ends.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use super::{Error, Purpose, folder};

/// A lock that is held for as long as this lives.
pub(super) struct FolderLock {
    _file: File,
    path: PathBuf,
    purpose: Purpose,
}

/// What became of an attempt.
pub(super) enum Taken {
    /// We have it.
    Ours(FolderLock),
    /// Another process does.
    Held { pid: String, purpose: Purpose },
}

fn open(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| folder(path, &error))
}

impl FolderLock {
    pub(super) fn try_exclusive(path: &Path, purpose: Purpose) -> Result<Taken, Error> {
        let mut file = open(path)?;
        match file.try_lock() {
            Ok(()) => {
                let word = match purpose {
                    Purpose::Serve => "serve",
                    Purpose::Command => "command",
                };
                // Only for messages: the lock itself is the kernel's.
                let written = file
                    .set_len(0)
                    .and_then(|()| file.rewind())
                    .and_then(|()| writeln!(file, "{} {word}", std::process::id()));
                written.map_err(|error| folder(path, &error))?;
                Ok(Taken::Ours(FolderLock { _file: file, path: path.to_owned(), purpose }))
            }
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                let (pid, word) = text.trim().split_once(' ').unwrap_or(("?", "serve"));
                let purpose = if word == "command" { Purpose::Command } else { Purpose::Serve };
                Ok(Taken::Held { pid: pid.to_owned(), purpose })
            }
            Err(TryLockError::Error(error)) => Err(folder(path, &error)),
        }
    }

    /// A lock that others may share; `None` while somebody holds it alone.
    pub(super) fn try_shared(path: &Path) -> Result<Option<FolderLock>, Error> {
        let file = open(path)?;
        match file.try_lock_shared() {
            Ok(()) => {
                let path = path.to_owned();
                Ok(Some(FolderLock { _file: file, path, purpose: Purpose::Command }))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(folder(path, &error)),
        }
    }

    pub(super) fn purpose(&self) -> Purpose {
        self.purpose
    }

    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }
}
