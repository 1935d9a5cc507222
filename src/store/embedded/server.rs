//! The server as a child process.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::{Child, Command};
use tokio_postgres::NoTls;

use super::{Error, binaries::Binaries, folder};

/// The log is begun anew when it has grown to this.
const LOG_LIMIT: u64 = 10 * 1024 * 1024;
/// How long an orderly stop may take.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

/// Settings of the server. The first four are the promise that an answered message is on disk.
const SETTINGS: &[&str] = &[
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "wal_sync_method=fdatasync",
    "listen_addresses=",
    "shared_buffers=128MB",
    "max_wal_size=1GB",
    "wal_compression=on",
    "max_connections=64",
    "jit=off",
    "autovacuum_naptime=10s",
    "log_min_messages=warning",
    "log_line_prefix=%m [%p] ",
];

pub(super) struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    pub(super) fn spawn(
        cluster: &Path,
        socket_dir: &Path,
        log: &Path,
        binaries: &Binaries,
    ) -> Result<Server, Error> {
        if fs::metadata(log).is_ok_and(|metadata| metadata.len() > LOG_LIMIT) {
            let _ = fs::rename(log, log.with_extension("log.1"));
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .map_err(|error| folder(log, &error))?;
        let mut command = Command::new(&binaries.postgres);
        command.arg("-D").arg(cluster).arg("-k").arg(socket_dir);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        let child = command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LANG", "C.UTF-8")
            .env("TZ", "UTC")
            .current_dir("/")
            // Ctrl-C in a terminal reaches a whole process group, and we stop before it does.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(file))
            .spawn()
            .map_err(|error| folder(&binaries.postgres, &error))?;
        Ok(Server { child, log: log.to_owned() })
    }

    /// Waits for the first answer, for as long as the server lives: crash recovery may take minutes.
    pub(super) async fn wait_ready(
        &mut self,
        config: &tokio_postgres::Config,
    ) -> Result<(), Error> {
        loop {
            if let Ok((client, connection)) = config.connect(NoTls).await {
                let driver = tokio::spawn(connection);
                let answer = client.simple_query("SELECT 1").await;
                drop(client);
                let _ = driver.await;
                if answer.is_ok() {
                    return Ok(());
                }
            }
            if let Ok(Some(_)) = self.child.try_wait() {
                return Err(Error::Died(self.last_words()));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    pub(super) async fn died(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => format!("{status}; its log ends: {}", self.last_words()),
            Err(error) => error.to_string(),
        }
    }

    pub(super) async fn stop(mut self) -> Result<(), Error> {
        // SIGINT is Postgres' fast stop: it ends sessions, SIGTERM would wait for them.
        self.signal(Signal::SIGINT);
        if tokio::time::timeout(STOP_PATIENCE, self.child.wait()).await.is_err() {
            tracing::warn!("Postgres did not stop in time; stopping it without order");
            self.signal(Signal::SIGQUIT);
            let ended = tokio::time::timeout(STOP_PATIENCE, self.child.wait()).await;
            if ended.is_err() {
                return Err(Error::NoAnswer("it cannot be stopped".to_owned()));
            }
        }
        Ok(())
    }

    /// Does nothing once the child has been waited for.
    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("; ")
    }
}

/// Whoever gives up in the middle of a start leaves no server behind.
impl Drop for Server {
    fn drop(&mut self) {
        self.signal(Signal::SIGINT);
    }
}
