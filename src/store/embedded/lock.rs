//! Kernel locks on the data folder: they end with the process, however it ends.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use nix::{errno::Errno, sys::signal::kill, unistd::Pid};

use super::{EmbeddedError, Purpose, folder};

/// A lock, held while this value lives.
pub(super) struct FolderLock {
    file: File,
    path: PathBuf,
    purpose: Purpose,
}

/// The result of an attempt to lock.
pub(super) enum LockAttempt {
    Ours(FolderLock),
    /// Another process holds it; `purpose` is `None` until that has written it.
    Held {
        pid: String,
        purpose: Option<Purpose>,
    },
}

fn open(path: &Path) -> Result<File, EmbeddedError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| folder(path, &error))
}

impl FolderLock {
    pub(super) fn try_exclusive(
        path: &Path,
        purpose: Purpose,
    ) -> Result<LockAttempt, EmbeddedError> {
        let mut file = open(path)?;
        match file.try_lock() {
            Ok(()) => {
                let word = match purpose {
                    Purpose::Serve => "serve",
                    Purpose::Command => "command",
                };
                // Only for messages: the kernel holds the lock.
                let written = file
                    .set_len(0)
                    .and_then(|()| file.rewind())
                    .and_then(|()| writeln!(file, "{} {word}", std::process::id()));
                written.map_err(|error| folder(path, &error))?;
                Ok(LockAttempt::Ours(FolderLock { file, path: path.to_owned(), purpose }))
            }
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                let (pid, purpose) = holder(&text);
                Ok(LockAttempt::Held { pid, purpose })
            }
            Err(TryLockError::Error(error)) => Err(folder(path, &error)),
        }
    }

    /// A shared lock; `None` while somebody holds it exclusively.
    pub(super) fn try_shared(path: &Path) -> Result<Option<FolderLock>, EmbeddedError> {
        let file = open(path)?;
        match file.try_lock_shared() {
            Ok(()) => {
                let path = path.to_owned();
                Ok(Some(FolderLock { file, path, purpose: Purpose::Command }))
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

/// Whether somebody holds a lock; does not create the file.
pub(super) fn is_held(path: &Path) -> bool {
    let taken = File::open(path).map(|file| file.try_lock_shared());
    matches!(taken, Ok(Err(TryLockError::WouldBlock)))
}

/// The lock is taken before the holder is written, so the file may name an earlier holder or nothing: it must
/// not be trusted yet.
fn holder(text: &str) -> (String, Option<Purpose>) {
    let (pid, word) = text.trim().split_once(' ').unwrap_or(("unknown", ""));
    let purpose = match word {
        "serve" => Some(Purpose::Serve),
        "command" => Some(Purpose::Command),
        _ => None,
    };
    let gone = pid.parse().is_ok_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH));
    if gone { ("unknown".to_owned(), None) } else { (pid.to_owned(), purpose) }
}

/// Clears the file; the lock ends when it is closed after this.
impl Drop for FolderLock {
    fn drop(&mut self) {
        let _ = self.file.set_len(0);
    }
}
