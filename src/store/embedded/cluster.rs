//! The cluster on disk: made once, of the right version, and nobody else's.

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

/// How long an orphan may take to stop in order before it is stopped without.
const ORPHAN_STOP_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Makes the cluster if there is none. It is made beside its place and moved there whole, so that a
/// crash in the middle leaves nothing that looks like a cluster.
pub(super) async fn create_once(path: &Path, binaries: &Binaries) -> Result<(), EmbeddedError> {
    if path.join("PG_VERSION").is_file() {
        return Ok(());
    }
    // A name of this process' own: an initdb outlives us when we are killed, and may still write.
    let half = path.with_extension(format!("new-{}", std::process::id()));
    remove_halves(path);
    // No time limit: on a busy disk this has been seen to take many seconds.
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
        // The new name must survive a crash, as the data below it will have to.
        let sync = fs::File::open(parent).and_then(|parent| parent.sync_all());
        sync.map_err(|error| folder(parent, &error))?;
    }
    Ok(())
}

/// Removes what earlier attempts left. What cannot be removed is in nobody's way.
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

/// Refuses a cluster of another major version: Postgres would too, with less to go on.
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

/// Stops a server that an earlier process left behind when it was killed. We hold the folder's lock,
/// so a server on this cluster is nobody's; stopping it is quicker to get right than adopting a
/// process that is not our child and whose settings may be another version's.
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

/// The process that runs on this cluster, by its pid file and the kernel's word that it is one.
fn running(path: &Path) -> Option<Pid> {
    let text = fs::read_to_string(path.join("postmaster.pid")).ok()?;
    let pid = Pid::from_raw(text.lines().next()?.trim().parse().ok()?);
    if pid.as_raw() <= 1 || !is_alive(pid) {
        return None;
    }
    // Another process may have got the number since: a postmaster works in its cluster's folder.
    let place = fs::read_link(PathBuf::from(format!("/proc/{pid}/cwd"))).ok()?;
    (place == path.canonicalize().ok()?).then_some(pid)
}

/// Whether a number that a pid file of the cluster has is that of a process which lives and is no server on
/// the cluster. Those of other users need not be asked after: Postgres passes them over itself.
pub(super) fn is_of_another(pid: i32, path: &Path) -> bool {
    let own = std::process::id();
    if pid <= 1 || u32::try_from(pid) == Ok(own) || kill(Pid::from_raw(pid), None).is_err() {
        return false;
    }
    let place = fs::read_link(PathBuf::from(format!("/proc/{pid}/cwd"))).ok();
    // One that has ended and was not collected yet works nowhere.
    place.is_none_or(|place| path.canonicalize().ok() != Some(place))
}

fn is_alive(pid: Pid) -> bool {
    kill(pid, None) != Err(Errno::ESRCH) && !is_zombie(pid)
}

/// Dead, and only not yet collected by its parent.
fn is_zombie(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}
