//! The server as a child process.

use std::{
    error::Error as _,
    fs::{self, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::{Child, Command};
use tokio_postgres::{NoTls, error::SqlState};

use super::{EmbeddedError, binaries::Binaries, folder};

/// The log is truncated at this size.
const MAX_LOG_BYTES: u64 = 10 * 1024 * 1024;
/// Bytes at the end of the log that are searched for the reason of a failure.
const LOG_TAIL_BYTES: u64 = 4096;
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Server settings. The first four guarantee that an accepted message is on disk.
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
    // For sessions of administrators; the pool sets lower values.
    "idle_in_transaction_session_timeout=30s",
    "log_min_messages=warning",
    "log_min_duration_statement=1s",
    // Parameters of slow statements are phone numbers and contents.
    "log_parameter_max_length=0",
    "log_line_prefix=%m [%p] ",
];

pub(super) struct PostgresProcess {
    child: Child,
    log: PathBuf,
    /// Offset in the log at which this start begins.
    log_start: u64,
}

impl PostgresProcess {
    pub(super) fn spawn(
        cluster: &Path,
        socket_dir: &Path,
        log: &Path,
        binaries: &Binaries,
        settings: &[String],
    ) -> Result<PostgresProcess, EmbeddedError> {
        if fs::metadata(log).is_ok_and(|metadata| metadata.len() > MAX_LOG_BYTES) {
            let _ = fs::rename(log, log.with_extension("log.1"));
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .map_err(|error| folder(log, &error))?;
        let log_start = file.metadata().map_or(0, |metadata| metadata.len());
        let mut command = Command::new(&binaries.postgres);
        command.arg("-D").arg(cluster).arg("-k").arg(socket_dir);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        for setting in settings {
            command.args(["-c", setting]);
        }
        let child = command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LANG", "C.UTF-8")
            .env("TZ", "UTC")
            .current_dir("/")
            // Ctrl-C in a terminal reaches the whole process group; we stop Postgres after our last write.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(file))
            .spawn()
            .map_err(|error| folder(&binaries.postgres, &error))?;
        Ok(PostgresProcess { child, log: log.to_owned(), log_start })
    }

    /// Waits until the server accepts connections, as long as it lives: crash recovery may take minutes. A
    /// permanent refusal is an error at once.
    pub(super) async fn wait_ready(
        &mut self,
        config: &tokio_postgres::Config,
    ) -> Result<(), EmbeddedError> {
        loop {
            match first_answer(config).await {
                Ok(()) => return Ok(()),
                Err(error) if !may_pass(&error) => {
                    return Err(EmbeddedError::NoAnswer(words(&error)));
                }
                Err(_) => {}
            }
            if let Ok(Some(_)) = self.child.try_wait() {
                return Err(EmbeddedError::Died(self.last_words()));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// How its log ends, if the server has exited.
    pub(super) fn ended(&mut self) -> Option<String> {
        matches!(self.child.try_wait(), Ok(Some(_))).then(|| self.last_words())
    }

    pub(super) async fn died(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => format!("{status}; its log ends: {}", self.last_words()),
            Err(error) => error.to_string(),
        }
    }

    pub(super) async fn stop(mut self) -> Result<(), EmbeddedError> {
        // SIGINT is Postgres' fast shutdown: it ends sessions; SIGTERM would wait for them.
        self.signal(Signal::SIGINT);
        if tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            tracing::warn!("Postgres did not stop in time; killing it");
            self.signal(Signal::SIGQUIT);
            let ended = tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await;
            if ended.is_err() {
                return Err(EmbeddedError::NoAnswer("it cannot be stopped".to_owned()));
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
        let bytes = self.log_end().unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("; ")
    }

    /// Of this start only: reasons of older ones would mislead.
    fn log_end(&self) -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(&self.log)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(self.log_start.max(end.saturating_sub(LOG_TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

async fn first_answer(config: &tokio_postgres::Config) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    let driver = tokio::spawn(connection);
    let answer = client.simple_query("SELECT 1").await;
    drop(client);
    let _ = driver.await;
    answer.map(drop)
}

/// Not listening yet, hung up on, or told "the database system is starting up" (57P03).
fn may_pass(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => [SqlState::CANNOT_CONNECT_NOW, SqlState::TOO_MANY_CONNECTIONS].contains(code),
        None => {
            error.is_closed() || error.source().is_some_and(|source| source.is::<std::io::Error>())
        }
    }
}

/// The server's message, if there is one.
pub(super) fn words(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string)
}

/// An aborted start leaves no server running.
impl Drop for PostgresProcess {
    fn drop(&mut self) {
        self.signal(Signal::SIGINT);
    }
}
