//! Files that are being written: `.NAME.PID.part` in the folder of their final name. One that is left by
//! a killed process is removed by the next that writes there.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::fcntl::OFlag;

/// A file may exist this long before its process has locked it.
const LOCK_GRACE: Duration = Duration::from_secs(60);

pub(crate) fn path_for(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.part", std::process::id()))
}

/// Creates it, closed to others, and locks it for as long as it is open.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    // Without support for locks, no file counts as stale.
    let _ = file.try_lock();
    Ok(file)
}

/// Removes stale files from a folder, whose final names are `ours`.
pub(crate) fn remove_stale(folder: &Path, ours: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((of, pid)) = parse(&name) else { continue };
        if ours(of) && is_stale(&entry.path(), pid) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The final name, and the process.
fn parse(name: &str) -> Option<(&str, u32)> {
    let (of, pid) = name.strip_prefix('.')?.strip_suffix(".part")?.rsplit_once('.')?;
    Some((of, pid.parse().ok()?))
}

/// Whether nobody writes to it any more. A process with that id may be another one, or on another machine
/// with the same folder: so the lock decides, and a new file is left alone.
fn is_stale(path: &Path, pid: u32) -> bool {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let Ok(file) = File::options().read(true).custom_flags(flags).open(path) else { return false };
    let age = file.metadata().and_then(|metadata| metadata.modified());
    let old = age.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > LOCK_GRACE));
    let lives = Path::new("/proc").join(pid.to_string()).exists();
    file.try_lock().is_ok() && (old || !lives)
}
