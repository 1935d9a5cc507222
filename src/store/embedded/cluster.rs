//! The cluster on disk: created once, of the right version, used by one server.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::Command;

use super::{EmbeddedError, binaries::Binaries, folder};

/// How long an orphaned server may take to stop before it is killed.
const ORPHAN_STOP_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Creates the cluster if there is none, in a temporary folder that is then renamed: a crash leaves nothing
/// that looks like a cluster.
pub(super) async fn create_once(path: &Path, binaries: &Binaries) -> Result<(), EmbeddedError> {
    if path.join("PG_VERSION").is_file() {
        return Ok(());
    }
    // A name unique to this process: an initdb outlives us if we are killed, and may still write.
    let half = path.with_extension(format!("new-{}", std::process::id()));
    remove_halves(path);
    // No timeout: on a busy disk this can take long.
    let output = Command::new(&binaries.initdb)
        .arg("-D")
        .arg(&half)
        .args(["-U", "esh3ar", "--auth-local=trust", "--auth-host=reject", "-E", "UTF8"])
        .args(["--locale=C.UTF-8", "--data-checksums", "--no-instructions"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LANG", "C.UTF-8")
        .current_dir("/")
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| folder(&binaries.initdb, &error))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(EmbeddedError::Initdb(text.trim().replace('\n', "; ")));
    }
    fs::rename(&half, path).map_err(|error| folder(path, &error))?;
    if let Some(parent) = path.parent() {
        // The rename must survive a crash.
        let sync = fs::File::open(parent).and_then(|parent| parent.sync_all());
        sync.map_err(|error| folder(parent, &error))?;
    }
    Ok(())
}

/// Removes leftovers of earlier attempts; those that cannot be removed do no harm.
fn remove_halves(path: &Path) {
    let prefix = path.with_extension("new").display().to_string();
    for entry in path.parent().and_then(|parent| fs::read_dir(parent).ok()).into_iter().flatten() {
        let Ok(half) = entry.map(|entry| entry.path()) else { continue };
        if half.to_string_lossy().starts_with(&prefix)
            && let Err(error) = fs::remove_dir_all(&half)
        {
            tracing::warn!(folder = %half.display(), %error, "cannot remove an incomplete cluster");
        }
    }
}

/// Refuses a cluster of another major version, with a clearer error than Postgres' own.
pub(super) fn check_version(path: &Path, binaries: &Binaries) -> Result<(), EmbeddedError> {
    let file = path.join("PG_VERSION");
    let data = fs::read_to_string(&file).map_err(|error| folder(&file, &error))?;
    let output = std::process::Command::new(&binaries.postgres)
        .arg("--version")
        .output()
        .map_err(|error| folder(&binaries.postgres, &error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
    let version = text.split(' ').nth(2).unwrap_or_default();
    // "16beta1" makes clusters of "16".
    let programs = version.split(|sign: char| !sign.is_ascii_digit()).next().unwrap_or_default();
    let data = data.trim();
    if data == programs {
        return Ok(());
    }
    Err(EmbeddedError::MajorMismatch {
        path: path.to_owned(),
        data: data.to_owned(),
        programs: programs.to_owned(),
    })
}

/// Stops a server orphaned by a killed process. We hold the folder's lock, so nobody uses it; stopping it is
/// safer than adopting a process that is not our child and may have settings of another version.
pub(super) async fn stop_orphan(path: &Path) -> Result<(), EmbeddedError> {
    let Some(pid) = running(path) else { return Ok(()) };
    tracing::warn!(pid = pid.as_raw(), "stopping an orphaned Postgres");
    let deadline = tokio::time::Instant::now() + ORPHAN_STOP_TIMEOUT;
    let _ = kill(pid, Signal::SIGINT);
    while is_alive(pid) {
        if tokio::time::Instant::now() >= deadline {
            let _ = kill(pid, Signal::SIGQUIT);
            if tokio::time::Instant::now() >= deadline + ORPHAN_STOP_TIMEOUT {
                let why = format!("process {pid} still runs on it and cannot be stopped");
                return Err(EmbeddedError::Folder { path: path.to_owned(), why });
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

/// The server running on this cluster, by its pid file and the kernel.
fn running(path: &Path) -> Option<Pid> {
    let text = fs::read_to_string(path.join("postmaster.pid")).ok()?;
    let pid = Pid::from_raw(text.lines().next()?.trim().parse().ok()?);
    if pid.as_raw() <= 1 || !is_alive(pid) {
        return None;
    }
    // The pid may have been reused: a postmaster's working directory is its cluster.
    let place = fs::read_link(PathBuf::from(format!("/proc/{pid}/cwd"))).ok()?;
    (place == path.canonicalize().ok()?).then_some(pid)
}

/// Whether a pid in a pid file belongs to a live process that is not a server on the cluster. Postgres itself
/// ignores processes of other users.
pub(super) fn is_of_another(pid: i32, path: &Path) -> bool {
    let own = std::process::id();
    if pid <= 1 || u32::try_from(pid) == Ok(own) || kill(Pid::from_raw(pid), None).is_err() {
        return false;
    }
    let place = fs::read_link(PathBuf::from(format!("/proc/{pid}/cwd"))).ok();
    // A zombie has no working directory.
    place.is_none_or(|place| path.canonicalize().ok() != Some(place))
}

fn is_alive(pid: Pid) -> bool {
    kill(pid, None) != Err(Errno::ESRCH) && !is_zombie(pid)
}

/// Whether a process is a zombie.
fn is_zombie(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}
