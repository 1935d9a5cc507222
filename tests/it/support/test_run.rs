//! What the tests of one run share: a folder, made by the first test that asks, and what is made in it once.
//!
//! nextest gives each test a process of its own, so what is shared is found by files. It ends with the run:
//! with nextest's process, or with this one under `cargo test`.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use nix::fcntl::{Flock, FlockArg};

/// The process whose end is the run's end.
pub fn owner() -> u32 {
    match std::env::var_os("NEXTEST_RUN_ID") {
        Some(_) => std::os::unix::process::parent_id(),
        None => std::process::id(),
    }
}

/// Free space below which a memory file system is not used, in bytes: a few clusters under load.
const ROOM: u64 = 6 << 30;
const MEMORY: &str = "/dev/shm";

/// Where temporary folders are made: in memory when there is room, else where the system has them.
/// `ESH3AR_TEST_TMP` overrides it. The product calls `fsync` either way.
pub fn temporary() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        if let Some(told) = std::env::var_os("ESH3AR_TEST_TMP") {
            return told.into();
        }
        let free = nix::sys::statvfs::statvfs(MEMORY)
            .map_or(0, |found| found.blocks_available().saturating_mul(found.fragment_size()));
        if free.min(available()) >= ROOM { MEMORY.into() } else { std::env::temp_dir() }
    })
}

/// Memory that can be had without swapping, in bytes: the size of a memory file system says nothing of it.
fn available() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// Before the name of a run's folder.
const PREFIX: &str = "esh3ar-test-";

/// The folder of this run. It is removed when the run has ended.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // Short, because a socket's path has at most 107 bytes. The process may have had an earlier run.
        let id = std::env::var("NEXTEST_RUN_ID").unwrap_or_default();
        let id = id.get(..8).unwrap_or("own");
        let path = temporary().join(format!("{PREFIX}{}-{id}", owner()));
        match fs::create_dir(&path) {
            Ok(()) => remove_after(owner(), &path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => panic!("{}: {error}", path.display()),
        }
        path
    })
}

/// A shell that waits for a process to end, and then removes a folder. `tail` returns for a process that
/// has ended already.
const REMOVE: &str = r#"tail --pid="$1" -f /dev/null; sleep 1; rm -rf "$2""#;

fn remove_after(process: u32, folder: &Path) {
    // In a session of its own: Ctrl-C in a terminal ends the run, and what is left of it still has to go.
    let mut shell = Command::new("setsid");
    shell.args(["--fork", "sh", "-c", REMOVE, "remove", &process.to_string()]).arg(folder);
    shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(shell.status().unwrap().success());
}

/// Counts over all tests of the run: no two get the same number.
pub fn next(name: &str) -> u32 {
    let path = folder().join(format!("{name}.count"));
    let file = File::options().create(true).truncate(false).read(true).write(true).open(path);
    let mut file = lock(file.unwrap());
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    let number: u32 = text.parse().unwrap_or(0);
    file.rewind().unwrap();
    write!(file, "{}", number + 1).unwrap();
    number
}

fn lock(file: File) -> Flock<File> {
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap()
}

/// Makes something once in a run; every other test gets what the first one made. Whoever comes meanwhile
/// waits. A test that fails in the middle leaves nothing, and the next one tries.
pub fn once(name: &str, make: impl FnOnce(&Path) -> String) -> String {
    let made = folder().join(format!("{name}.made"));
    let read = || fs::read_to_string(&made).ok();
    if let Some(found) = read() {
        return found;
    }
    let _lock = lock(File::create(folder().join(format!("{name}.lock"))).unwrap());
    if let Some(found) = read() {
        return found;
    }
    let place = folder().join(name);
    let _ = fs::remove_dir_all(&place);
    let value = make(&place);
    let half = made.with_extension("half");
    fs::write(&half, &value).unwrap();
    fs::rename(&half, &made).unwrap();
    value
}
