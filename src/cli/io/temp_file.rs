//! Files that are not whole yet: `.NAME.PID.path`, beside the place that they are for. One that is left by
//! a process which was killed is taken away by the next that writes there.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::fcntl::OFlag;

/// So long such a file may be there before the process that made it has locked it.
const LOCK_GRACE: Duration = Duration::from_secs(60);

/// Where a file is written before it is whole.
pub(crate) fn path_for(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.part", std::process::id()))
}

/// Makes it, readable for nobody else, and locks it for as long as it is open.
///
/// # Errors
/// It is there already, or cannot be made.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    // Where there are no locks, nothing is ever held to be left over.
    let _ = file.try_lock();
    Ok(file)
}

/// Takes away what the killed left in a folder of files that are `ours` by the names they were to have.
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

/// What it becomes, and who made it.
fn parse(name: &str) -> Option<(&str, u32)> {
    let (of, pid) = name.strip_prefix('.')?.strip_suffix(".part")?.rsplit_once('.')?;
    Some((of, pid.parse().ok()?))
}

/// Whether nobody writes to it any more. A process of that number may be another one, or on another machine
/// that has the same folder: so the lock decides, and a new file is given time.
fn is_stale(path: &Path, pid: u32) -> bool {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let Ok(file) = File::options().read(true).custom_flags(flags).open(path) else { return false };
    let age = file.metadata().and_then(|metadata| metadata.modified());
    let old = age.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > LOCK_GRACE));
    let lives = Path::new("/proc").join(pid.to_string()).exists();
    file.try_lock().is_ok() && (old || !lives)
}
