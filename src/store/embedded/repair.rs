//! Checks and repairs the folder of a cluster before the server starts, which would only fail, and fail again
//! after each restart.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::{EmbeddedError, cluster, folder};

/// Folders that may be empty, which some copy programs leave out. Postgres does not create them.
const EMPTY_FOLDERS: [&str; 13] = [
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical/mappings",
    "pg_logical/snapshots",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal/archive_status",
];

/// Files without which the data is incomplete.
const REQUIRED_FILES: [&str; 8] = [
    "PG_VERSION",
    "base",
    "global/pg_control",
    "pg_hba.conf",
    "pg_multixact",
    "pg_wal",
    "pg_xact",
    "postgresql.conf",
];

/// Errors that another start would only repeat.
const PERMANENT_FAILURES: [&str; 15] = [
    "contains errors",
    "could not access directory",
    "could not find the database system",
    "could not load ",
    "could not locate a valid checkpoint record",
    "could not locate required checkpoint record",
    "database files are incompatible",
    "has invalid permissions",
    "has wrong ownership",
    "incorrect checksum in control file",
    "invalid value for parameter",
    "No such file or directory",
    "Permission denied",
    "specified data directory",
    "unrecognized configuration parameter",
];

/// A problem with the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFault {
    /// The file or folder.
    pub path: PathBuf,
    pub what: String,
    /// Whether opening the folder repairs it.
    pub is_repairable: bool,
}

/// Problems of the cluster in a data folder, if there is one. Read-only.
pub fn faults(data_dir: &Path) -> Vec<ClusterFault> {
    let cluster = data_dir.join("postgres");
    let Ok(found) = fs::metadata(&cluster) else { return Vec::new() };
    let ours = nix::unistd::geteuid().as_raw();
    let mut faults = Vec::new();
    if found.uid() != ours {
        faults.push(bad(&cluster, "belongs to another user than the one that runs esh3ar"));
        return faults;
    }
    faults.extend(mode_of(&cluster, &found));
    let Ok(entries) = fs::read_dir(&cluster) else { return faults };
    let mut entries: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    if entries.is_empty() {
        // As good as no cluster: one is created.
        return faults;
    }
    for path in entries {
        match fs::metadata(&path) {
            Ok(found) if found.uid() != ours => {
                faults.push(bad(&path, "belongs to another user than the one that runs esh3ar"));
            }
            Ok(found) if found.is_dir() && found.mode() & 0o700 != 0o700 => {
                faults.push(repairable(
                    &path,
                    format!("is closed (mode {:04o})", found.mode() & 0o777),
                ));
            }
            _ => {}
        }
    }
    let missing = |name: &&str| is_missing(&cluster.join(name));
    let gone = REQUIRED_FILES.iter().filter(|name| missing(name));
    faults.extend(gone.map(|name| bad(&cluster.join(name), "is missing: the data is incomplete")));
    let left_out = EMPTY_FOLDERS.iter().filter(|name| missing(name));
    faults.extend(
        left_out
            .map(|name| repairable(&cluster.join(name), "is missing, and was empty".to_owned())),
    );
    let pid_file = cluster.join("postmaster.pid");
    if let Some(what) = strange_pid(&pid_file, &cluster) {
        faults.push(repairable(&pid_file, what));
    }
    faults
}

fn bad(path: &Path, what: &str) -> ClusterFault {
    ClusterFault { path: path.to_owned(), what: what.to_owned(), is_repairable: false }
}

fn repairable(path: &Path, what: String) -> ClusterFault {
    ClusterFault { path: path.to_owned(), what, is_repairable: true }
}

fn is_missing(path: &Path) -> bool {
    fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn mode_of(cluster: &Path, found: &fs::Metadata) -> Option<ClusterFault> {
    let mode = found.mode() & 0o777;
    // Postgres refuses a folder that others can read.
    (mode != 0o700).then(|| repairable(cluster, format!("has the mode {mode:04o} instead of 0700")))
}

/// Why a stale pid file would keep the server from starting.
fn strange_pid(file: &Path, cluster: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    match text.lines().next().and_then(|line| line.trim().parse::<i32>().ok()) {
        None => Some("names no process".to_owned()),
        Some(pid) => cluster::is_of_another(pid, cluster)
            .then(|| format!("names the process {pid}, which is another program's now")),
    }
}

/// Sets the folder's mode first, so that the rest can be checked.
pub(super) fn fix_permissions(cluster: &Path) -> Result<(), EmbeddedError> {
    match fs::metadata(cluster) {
        Ok(_) => super::private(cluster),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(folder(cluster, &error)),
    }
}

/// Repairs what can be repaired, while no server runs on the cluster.
///
/// # Errors
/// [`EmbeddedError::Damaged`] for problems that cannot be repaired.
pub(super) fn repair(data_dir: &Path, socket_dir: &Path) -> Result<(), EmbeddedError> {
    for fault in faults(data_dir) {
        let ClusterFault { path, what, is_repairable } = fault;
        if !is_repairable {
            return Err(EmbeddedError::Damaged { path, why: what });
        }
        tracing::warn!(path = %path.display(), "{what}: repaired");
        repair_path(&path).map_err(|error| folder(&path, &error))?;
    }
    let cluster = data_dir.join("postgres");
    let socket = socket_dir.join(".s.PGSQL.5432.lock");
    if strange_pid(&socket, &cluster).is_some() {
        repair_path(&socket).map_err(|error| folder(&socket, &error))?;
    }
    Ok(())
}

fn repair_path(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => fs::set_permissions(path, fs::Permissions::from_mode(0o700)),
        Ok(_) => take_over(path),
        Err(_) => fs::DirBuilder::new().mode(0o700).recursive(true).create(path),
    }
}

/// Writes our own pid into a pid file: Postgres treats a file that names its parent as stale, and uses the
/// rest of it to check whether processes of an earlier server still hold shared memory. Without the file it
/// could not.
fn take_over(file: &Path) -> io::Result<()> {
    let text = fs::read_to_string(file)?;
    match text.split_once('\n') {
        Some((first, rest)) if first.trim().parse::<i32>().is_ok() => {
            fs::write(file, format!("{}\n{rest}", std::process::id()))
        }
        _ => fs::remove_file(file),
    }
}

/// Classifies the error of a failed start: whether a restart may help.
pub(super) fn classify(cluster: &Path, error: EmbeddedError) -> EmbeddedError {
    match error {
        EmbeddedError::Died(why) if is_for_good(&why) => {
            EmbeddedError::Damaged { path: cluster.to_owned(), why }
        }
        other => other,
    }
}

/// By the last line: earlier ones may be about recoverable problems.
fn is_for_good(why: &str) -> bool {
    let mut last = why.split("; ").filter(|line| line.contains("FATAL") || line.contains("PANIC"));
    last.any(|line| PERMANENT_FAILURES.iter().any(|words| line.contains(words)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least that looks like a whole cluster.
    fn whole() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let cluster = folder.path().join("postgres");
        fs::DirBuilder::new().mode(0o700).create(&cluster).unwrap();
        for name in EMPTY_FOLDERS.iter().chain(&["base", "global", "pg_multixact", "pg_xact"]) {
            fs::create_dir_all(cluster.join(name)).unwrap();
        }
        for name in ["PG_VERSION", "global/pg_control", "pg_hba.conf", "postgresql.conf"] {
            fs::write(cluster.join(name), "x").unwrap();
        }
        folder
    }

    #[test]
    fn what_can_be_mended_is_mended() {
        let folder = whole();
        let cluster = folder.path().join("postgres");
        assert_eq!(faults(folder.path()), []);
        fs::set_permissions(&cluster, fs::Permissions::from_mode(0o755)).unwrap();
        fs::remove_dir(cluster.join("pg_notify")).unwrap();
        fs::remove_dir_all(cluster.join("pg_logical")).unwrap();
        fs::set_permissions(cluster.join("base"), fs::Permissions::from_mode(0o500)).unwrap();
        // A program that lives, of this user, and has nothing to do with the cluster.
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = other.id();
        let rest = "/somewhere\n1764466000\n5432\n/run\n\n  5432001  7\nready\n";
        fs::write(cluster.join("postmaster.pid"), format!("{pid}\n{rest}")).unwrap();
        fs::write(folder.path().join(".s.PGSQL.5432.lock"), format!("{pid}\n{rest}")).unwrap();
        let found = faults(folder.path());
        assert_eq!(found.len(), 6, "{found:?}");
        assert!(found.iter().all(|fault| fault.is_repairable), "{found:?}");
        assert!(found[0].what.contains("0755"), "{found:?}");
        repair(folder.path(), folder.path()).unwrap();
        assert_eq!(faults(folder.path()), []);
        let _ = other.kill();
        let _ = other.wait();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!([mode(&cluster), mode(&cluster.join("pg_logical/snapshots"))], [0o700; 2]);
        // The rest is what Postgres looks for processes by that still have the old memory.
        for file in [cluster.join("postmaster.pid"), folder.path().join(".s.PGSQL.5432.lock")] {
            let text = fs::read_to_string(file).unwrap();
            assert_eq!(text, format!("{}\n{rest}", std::process::id()));
        }
    }

    #[test]
    fn a_pid_file_without_a_pid_goes_and_one_of_the_dead_stays() {
        let folder = whole();
        let file = folder.path().join("postgres/postmaster.pid");
        for text in ["", "\n", "bogus\n"] {
            fs::write(&file, text).unwrap();
            assert_eq!(faults(folder.path()).len(), 1, "{text:?}");
            repair(folder.path(), folder.path()).unwrap();
            assert!(!file.exists(), "{text:?}");
        }
        // No process has this number: the kernel's are smaller. Postgres knows what to do with it.
        fs::write(&file, "1073741824\n/x\n").unwrap();
        repair(folder.path(), folder.path()).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "1073741824\n/x\n");
    }

    #[test]
    fn what_is_lost_is_told() {
        for name in ["global/pg_control", "postgresql.conf", "PG_VERSION"] {
            let folder = whole();
            let path = folder.path().join("postgres").join(name);
            fs::remove_file(&path).unwrap();
            let found = faults(folder.path());
            assert_eq!(found, [bad(&path, "is missing: the data is incomplete")]);
            let error = repair(folder.path(), folder.path()).unwrap_err();
            assert!(matches!(error, EmbeddedError::Damaged { .. }), "{error}");
        }
        // A folder without anything is no cluster yet.
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(faults(folder.path()), []);
        fs::DirBuilder::new().mode(0o700).create(folder.path().join("postgres")).unwrap();
        assert_eq!(faults(folder.path()), []);
    }

    #[test]
    fn only_what_every_start_would_meet_is_for_good() {
        let judge = |why: &str| classify(Path::new("/x"), EmbeddedError::Died(why.to_owned()));
        for why in [
            "FATAL:  data directory \"/x\" has invalid permissions",
            "FATAL:  could not open file \"global/pg_control\": Permission denied",
            "PANIC:  could not locate a valid checkpoint record",
            "FATAL:  configuration file \"/x/postgresql.conf\" contains errors",
        ] {
            assert!(matches!(judge(why), EmbeddedError::Damaged { .. }), "{why}");
        }
        for why in [
            "FATAL:  could not create shared memory segment: Cannot allocate memory",
            "FATAL:  pre-existing shared memory block (key 1, ID 2) is still in use",
            "LOG:  could not open \"x\": No such file or directory; FATAL:  the system is shutting down",
            "",
        ] {
            assert!(matches!(judge(why), EmbeddedError::Died(_)), "{why}");
        }
    }
}
