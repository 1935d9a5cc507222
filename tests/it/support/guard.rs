//! Servers for tests that never outlive them, however the tests end.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

/// Waits until the test is gone, which closes its input, or until the run is over, if it is to stay that
/// long; then takes everything of theirs away.
const WATCH: &str = r#"
trap : TERM INT HUP
"$@" </dev/null >>"$GUARD_FOLDER/out.log" 2>&1 &
server=$!
echo $server >"$GUARD_PID"
if [ -n "$GUARD_OWNER" ]; then
    tail --pid="$GUARD_OWNER" -f /dev/null
else
    cat >/dev/null
fi
kill -9 $server
rm -rf "$GUARD_FOLDER"
kill -9 0
"#;

/// A server and the shell that watches over it, in a process group of their own.
pub struct Guarded {
    watch: Child,
    pid: std::path::PathBuf,
    until: Until,
}

/// When a server ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// When it is dropped, or with the process of its test.
    Dropped,
    /// When the run is over: other tests use it.
    RunEnds,
}

impl Guarded {
    /// Starts a server whose data are in a folder, which goes with the tests.
    pub fn start(folder: &Path, name: &str, command: &Command) -> Guarded {
        Guarded::start_until(Until::Dropped, folder, name, command)
    }

    /// Starts a server for this test, or for all tests of the run.
    pub fn start_until(until: Until, folder: &Path, name: &str, command: &Command) -> Guarded {
        use std::os::unix::process::CommandExt as _;
        let pid = folder.join(format!("{name}.guarded"));
        let _ = std::fs::remove_file(&pid);
        let mut shell = Command::new("sh");
        shell.args(["-c", WATCH, "watch"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            shell.env(key, value.unwrap_or_default());
        }
        shell.env("GUARD_FOLDER", folder).env("GUARD_PID", &pid);
        let owner = (until == Until::RunEnds).then(|| super::test_run::owner().to_string());
        shell.env("GUARD_OWNER", owner.unwrap_or_default());
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        Guarded { watch: shell.spawn().unwrap(), pid, until }
    }

    /// The server's process, which may be a script that has started the real one.
    pub fn pid(&self) -> Pid {
        wait_until("a guarded server's pid", || {
            Some(Pid::from_raw(std::fs::read_to_string(&self.pid).ok()?.trim().parse().ok()?))
        })
    }

    /// kill -9, of all of it.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.watch.id()).unwrap());
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.watch.wait();
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.until == Until::Dropped {
            self.end();
        }
    }
}

/// Asks a process to stop, and waits until it is gone.
pub fn stop(pid: Pid, signal: Signal) {
    let _ = kill(pid, signal);
    wait_until("a server to stop", || kill(pid, None).is_err().then_some(()));
}

/// Polls without a runtime.
pub fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + super::DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A port that is free, below those that the system gives to connections: one of those could be taken
/// by somebody's connection, even by that of who waits for the server. No other test of the run gets it.
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u32 = 12_000;
    // Test runs side by side begin at different places.
    let begin = super::test_run::owner() % COUNT * 37 % COUNT;
    loop {
        let next = super::test_run::next("port");
        let port = FIRST + u16::try_from((begin + next) % COUNT).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Whether something is there; where tests must not be skipped, it has to be.
pub fn is_there(found: bool, what: &str) -> bool {
    if !found {
        let text = format!("SKIPPED: {what} is not installed; run: make test");
        assert!(std::env::var_os("ESH3AR_TEST_REQUIRE").is_none(), "{text}");
        eprintln!("{text}");
    }
    found
}
