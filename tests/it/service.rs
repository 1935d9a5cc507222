//! What is said between esh3ar and systemd, with a socket in systemd's place.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    process::Command,
    time::Instant,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{DEADLINE, Folder, Server};

/// The service manager's end.
struct Ear(UnixDatagram);

impl Ear {
    fn new(folder: &Folder) -> (Ear, String) {
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        (Ear(socket), path.display().to_string())
    }

    fn next(&self) -> String {
        let mut buffer = [0; 4096];
        let read = self.0.recv(&mut buffer).expect("a word to the service manager in time");
        String::from_utf8_lossy(&buffer[..read]).into_owned()
    }

    /// Listens until this is said, and gives all of that message.
    fn until(&self, wanted: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let said = self.next();
            if said.lines().any(|line| line == wanted) {
                return said;
            }
            assert!(Instant::now() < deadline, "{wanted} was not said");
        }
    }
}

fn signal(server: &Server, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(server.pid()).unwrap()), signal).unwrap();
}

#[tokio::test]
async fn it_tells_systemd_that_it_is_ready_lives_reloads_and_stops() {
    let folder = Folder::seeded();
    let (ear, socket) = Ear::new(&folder);
    let config = folder.path().join("esh3ar.toml");
    fs::write(&config, "[log]\nlevel = \"info\"\n").unwrap();
    let config = config.display().to_string();
    let told = [
        ("NOTIFY_SOCKET", socket.as_str()),
        ("WATCHDOG_USEC", "1500000"),
        ("ESH3AR_CONFIG", config.as_str()),
    ];
    let mut server = Server::start_in(folder, &told).await;
    server.expect_error("configuration not applied");
    let ready = ear.until("READY=1");
    assert!(ready.contains("STATUS=serving on 127.0.0.1:"), "{ready}");
    ear.until("WATCHDOG=1");
    ear.until("WATCHDOG=1");

    // What can be taken up is; of the rest it is said that it waits.
    fs::write(
        &config,
        "[log]\nlevel = \"debug\"\n[retry]\nattempts = 3\n[http]\nheader_timeout = \"9s\"\n",
    )
    .unwrap();
    signal(&server, Signal::SIGHUP);
    let reloading = ear.until("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    ear.until("READY=1");
    let log = server.log();
    assert!(
        log.contains("these keys need a restart") && log.contains("http.header_timeout"),
        "{log}"
    );
    assert_eq!(server.request("GET", "/health", None, None).await.0, 200);

    // A mistake changes nothing and ends nothing.
    fs::write(&config, "[log]\nlevell = 1\n").unwrap();
    signal(&server, Signal::SIGHUP);
    ear.until("READY=1");
    assert!(server.log().contains("did you mean log.level?"), "{}", server.log());
    assert_eq!(server.request("GET", "/health", None, None).await.0, 200);

    server.terminate();
    ear.until("STOPPING=1");
    assert_eq!(server.ended().await, Some(0));
}

/// Without systemd as process 1 this is how far units can be looked at; the package's test runs what
/// they ask for.
#[test]
fn the_units_are_sound_and_closed() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd");
    let offline = Folder::new();
    for name in ["esh3ar.service", "esh3ar-worker.service", "esh3ar-backup.service"] {
        let path = format!("{folder}/{name}");
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--threshold=15", &path])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{name} is more open than 1.5:\n{text}");
        // The program of the unit is not installed here: one that is stands in for it.
        let unit = fs::read_to_string(&path).unwrap();
        let unit = unit.replace("/usr/bin/esh3ar", crate::support::BINARY);
        fs::write(offline.path().join(name), unit).unwrap();
    }
    let timer = "esh3ar-backup.timer";
    fs::copy(format!("{folder}/{timer}"), offline.path().join(timer)).unwrap();
    let units = ["esh3ar.service", "esh3ar-worker.service", "esh3ar-backup.service", timer];
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args(units.map(|name| offline.path().join(name)))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && text.is_empty(), "{text}");
}

#[tokio::test]
async fn its_memory_is_closed_to_other_processes_of_its_user() {
    use std::os::unix::fs::MetadataExt as _;
    let server = Server::start().await;
    let process = format!("/proc/{}", server.pid());
    // The files of a process that may not be dumped are root's.
    assert_eq!(fs::metadata(format!("{process}/environ")).unwrap().uid(), 0);
    let limits = fs::read_to_string(format!("{process}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let words: Vec<&str> = core.split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "{core}");
}
