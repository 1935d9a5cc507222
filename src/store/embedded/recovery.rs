//! Copies of the private cluster that replay archived log: to prove a backup, and to restore one.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;
use tokio_postgres::{Client, NoTls};

use super::{
    super::{roles as names, statement::statements},
    EmbeddedError, Purpose, binaries, cluster, config, folder,
    lock::{FolderLock, LockAttempt},
    prepare,
    server::{self, PostgresProcess},
    socket_dir,
};

// Run on a plain driver connection as superuser.
statements! {
    STATE: once = "SELECT pg_is_in_recovery() AS replays, coalesce(pg_last_wal_replay_lsn()::text, '') AS position";
    HAS_REPLAYED: once = "SELECT coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, false) AS is_done";
    // The oldest segment that another start of the copy needs.
    NEEDED: once = "SELECT redo_wal_file::text AS name FROM pg_control_checkpoint()";
}

/// Up to where a copy replays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayTarget {
    /// As far as there is log; it stays a copy that can replay more.
    Standby,
    /// To the end of the log; then it is a cluster of its own.
    End,
    /// To a time; then it is a cluster of its own.
    Time(String),
}

/// A copy, running.
pub struct Replay {
    server: PostgresProcess,
    socket_dir: PathBuf,
}

const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// A copy that replays nothing for this long lacks log.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Until a copy is consistent: it replays what was written during its base backup.
const CONSISTENCY_TIMEOUT: Duration = Duration::from_secs(3600);
/// The name under which a replaced cluster is kept, before a time.
const KEPT_PREFIX: &str = "postgres.before-";

fn no_answer(error: &tokio_postgres::Error) -> EmbeddedError {
    EmbeddedError::NoAnswer(server::words(error))
}

impl Replay {
    /// Starts the cluster `postgres` in a folder. It takes log segments from the folder `wal` beside it.
    ///
    /// # Errors
    /// See [`EmbeddedError`].
    pub async fn start(
        place: &Path,
        bin_dir: Option<&Path>,
        target: &ReplayTarget,
    ) -> Result<Replay, EmbeddedError> {
        let place = place.canonicalize().map_err(|error| folder(place, &error))?;
        let path = place.join("postgres");
        let major = fs::read_to_string(path.join("PG_VERSION")).ok();
        let found = binaries::find(bin_dir, major.as_deref().map(str::trim));
        let binaries = found.ok_or(EmbeddedError::NoBinaries)?;
        cluster::stop_orphan(&path).await?;
        cluster::check_version(&path, &binaries)?;
        let signal = match target {
            ReplayTarget::Standby => path.join("standby.signal"),
            ReplayTarget::End | ReplayTarget::Time(_) => path.join("recovery.signal"),
        };
        fs::write(&signal, "").map_err(|error| folder(&signal, &error))?;
        // As arguments: settings in the cluster's own files would stay. The command runs in the cluster's folder.
        let mut settings = vec![
            "restore_command=cp ../wal/%f %p".to_owned(),
            "recovery_target_timeline=current".to_owned(),
            "hot_standby=on".to_owned(),
        ];
        if let ReplayTarget::Time(time) = target {
            settings.push(format!("recovery_target_time={time}"));
            settings.push("recovery_target_action=promote".to_owned());
        }
        let socket_dir = socket_dir(&place)?;
        let log = place.join("postgres.log");
        let mut server = PostgresProcess::spawn(&path, &socket_dir, &log, &binaries, &settings)?;
        let target = config(&socket_dir, "postgres");
        tokio::time::timeout(CONSISTENCY_TIMEOUT, server.wait_ready(&target))
            .await
            .unwrap_or_else(|_| {
                Err(EmbeddedError::NoAnswer("the copy does not become consistent".to_owned()))
            })?;
        Ok(Replay { server, socket_dir })
    }

    /// Stops a server that a killed process left on the cluster in a folder.
    ///
    /// # Errors
    /// It cannot be stopped.
    pub async fn stop_leftover(place: &Path) -> Result<(), EmbeddedError> {
        cluster::stop_orphan(&place.join("postgres")).await
    }

    async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = self.admin_config().connect(NoTls).await?;
        // It ends with the client.
        tokio::spawn(connection);
        Ok(client)
    }

    /// As the cluster's superuser.
    pub fn admin_config(&self) -> tokio_postgres::Config {
        config(&self.socket_dir, "esh3ar")
    }

    /// As the owner of the schema.
    pub fn owner_config(&self) -> tokio_postgres::Config {
        let mut config = self.admin_config();
        config.user(names::OWNER);
        config
    }

    /// Waits until everything before a position of the log is replayed.
    ///
    /// # Errors
    /// The copy stops, or lacks log.
    pub async fn wait_replayed(&mut self, position: &str) -> Result<(), EmbeddedError> {
        self.wait(Some(STALL_TIMEOUT), async |client: &Client, _| {
            client.query_one(HAS_REPLAYED.text(), &[&position]).await?.try_get("is_done")
        })
        .await
    }

    /// Waits until the copy has become a cluster of its own.
    ///
    /// # Errors
    /// The copy stops: its log ends before the time, or is damaged.
    pub async fn wait_promoted(&mut self) -> Result<(), EmbeddedError> {
        // The checkpoint at the end may take long.
        self.wait(None, async |_: &Client, replays| Ok(!replays)).await
    }

    async fn wait(
        &mut self,
        stall: Option<Duration>,
        is_done: impl AsyncFn(&Client, bool) -> Result<bool, tokio_postgres::Error>,
    ) -> Result<(), EmbeddedError> {
        let (mut last, mut moved) = (String::new(), Instant::now());
        loop {
            let asked = async {
                let client = self.connect().await?;
                let row = client.query_one(STATE.text(), &[]).await?;
                let (replays, position): (bool, String) =
                    (row.try_get("replays")?, row.try_get("position")?);
                Ok::<_, tokio_postgres::Error>((is_done(&client, replays).await?, position))
            };
            let error = match asked.await {
                Ok((true, _)) => return Ok(()),
                Ok((false, position)) => {
                    if position != last {
                        (last, moved) = (position, Instant::now());
                    }
                    None
                }
                Err(error) => Some(error),
            };
            if let Some(words) = self.server.ended() {
                return Err(EmbeddedError::Died(words));
            }
            if stall.is_some_and(|stall| moved.elapsed() > stall) {
                return Err(error.as_ref().map_or_else(
                    || EmbeddedError::NoAnswer(format!("its log ends at {last}")),
                    no_answer,
                ));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// The name of the oldest segment that another start of this copy needs.
    ///
    /// # Errors
    /// [`EmbeddedError::NoAnswer`].
    pub async fn oldest_needed(&self) -> Result<String, EmbeddedError> {
        let asked = async {
            let client = self.connect().await?;
            client.query_one(NEEDED.text(), &[]).await?.try_get("name")
        };
        asked.await.map_err(|error| no_answer(&error))
    }

    /// Stops the server. The copy stays.
    ///
    /// # Errors
    /// The server cannot be stopped.
    pub async fn stop(self) -> Result<(), EmbeddedError> {
        self.server.stop().await
    }
}

/// A data folder that no server uses while this value lives.
pub struct ClosedFolder {
    data_dir: PathBuf,
    _lock: FolderLock,
    _users: FolderLock,
}

impl ClosedFolder {
    /// # Errors
    /// [`EmbeddedError::Locked`] while a process uses it.
    pub async fn close(data_dir: &Path) -> Result<ClosedFolder, EmbeddedError> {
        if nix::unistd::geteuid().is_root() {
            return Err(EmbeddedError::Root);
        }
        let data_dir = prepare(data_dir)?;
        let lock =
            |name: &str| match FolderLock::try_exclusive(&data_dir.join(name), Purpose::Command)? {
                LockAttempt::Ours(lock) => Ok(lock),
                LockAttempt::Held { pid, .. } => {
                    Err(EmbeddedError::Locked { data_dir: data_dir.clone(), pid })
                }
            };
        let (held, users) = (lock("lock")?, lock("users.lock")?);
        cluster::stop_orphan(&data_dir.join("postgres")).await?;
        Ok(ClosedFolder { data_dir, _lock: held, _users: users })
    }

    /// Puts another cluster, stopped, in the place of the present one. Returns the name under which that is kept. A
    /// start after an interruption in between makes no empty cluster: see [`kept`].
    ///
    /// # Errors
    /// A rename failed.
    pub fn replace_cluster(
        &self,
        new: &Path,
        stamp: &str,
    ) -> Result<Option<PathBuf>, EmbeddedError> {
        let path = self.data_dir.join("postgres");
        let kept = self.data_dir.join(format!("{KEPT_PREFIX}{stamp}"));
        let is_there = path.symlink_metadata().is_ok();
        if is_there {
            fs::rename(&path, &kept).map_err(|error| folder(&path, &error))?;
        }
        fs::rename(new, &path).map_err(|error| folder(new, &error))?;
        let sync = fs::File::open(&self.data_dir).and_then(|place| place.sync_all());
        sync.map_err(|error| folder(&self.data_dir, &error))?;
        Ok(is_there.then_some(kept))
    }
}

/// The clusters that restores have replaced.
pub(super) fn kept(data_dir: &Path) -> Vec<String> {
    let names = fs::read_dir(data_dir).into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut found: Vec<String> = names.filter(|name| name.starts_with(KEPT_PREFIX)).collect();
    found.sort_unstable();
    found
}
