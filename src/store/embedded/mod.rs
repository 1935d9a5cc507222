//! The private Postgres of an appliance without `database.url`.
//!
//! A child of the serving process, reached over a unix socket in a folder of our own, never over TCP and
//! never as root. One process at a time serves a folder; administrator commands attach to the running server,
//! or run one for as long as they need it.

mod binaries;
mod cluster;
mod lock;
pub(super) mod recovery;
mod repair;
pub(super) mod roles;
mod server;

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use ring::digest::{SHA256, digest};
use tokio_postgres::NoTls;

pub use binaries::folder_with;
use lock::{FolderLock, LockAttempt};
pub use recovery::{ClosedFolder, Replay, ReplayTarget};
pub use repair::{ClusterFault, faults};
use server::PostgresProcess;

use super::{error::tells_of_full_disk, roles as names, statement::statements};

// Run on a plain driver connection to a maintenance database.
statements! {
    // Whether the database exists, and whether error details are kept out of the log.
    DATABASE: once = "
        SELECT coalesce('log_error_verbosity=terse' = ANY (setconfig), false) AS terse
        FROM pg_database LEFT JOIN pg_db_role_setting ON setdatabase = pg_database.oid AND setrole = 0
        WHERE datname = 'esh3ar'";
    // Databases that a restore creates.
    OF_A_RESTORE: once = "
        SELECT datname::text AS name FROM pg_database
        WHERE datname LIKE 'esh3ar\\_before\\_%' OR datname LIKE 'esh3ar\\_new\\_%' ORDER BY 1";
}

/// Purpose of opening the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To serve, exclusively.
    Serve,
    /// For one command: attaches to a running server.
    Command,
}

/// How to open a folder.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data folder, which contains the cluster.
    pub data_dir: PathBuf,
    /// Folder of the Postgres programs, if not in a usual place.
    pub bin_dir: Option<PathBuf>,
    pub purpose: Purpose,
}

/// Why the private Postgres is not available.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// Postgres is not installed.
    #[error("the Postgres programs initdb and postgres were not found")]
    NoBinaries,
    /// Another process serves this folder.
    #[error("{} is already in use by process {pid}", data_dir.display())]
    Locked { data_dir: PathBuf, pid: String },
    /// The cluster has another major version than the programs.
    #[error("the data in {} belongs to Postgres {data}, but the programs found are version {programs}", path.display())]
    MajorMismatch {
        path: PathBuf,
        data: String,
        /// That of the programs.
        programs: String,
    },
    /// A file or folder cannot be used.
    #[error("{}: {why}", path.display())]
    Folder { path: PathBuf, why: String },
    /// The disk is full: the cluster cannot be created or started.
    #[error("the disk of {} is full: {why}", path.display())]
    DiskFull {
        /// The data folder, or a file in it.
        path: PathBuf,
        /// The error.
        why: String,
    },
    /// The data is incomplete or unreadable for the server: another start would fail in the same way.
    #[error("the private Postgres cannot start: {}: {why}", path.display())]
    Damaged { path: PathBuf, why: String },
    /// `initdb` failed.
    #[error("the database could not be created: {0}")]
    Initdb(String),
    /// The server exited during its start.
    #[error("Postgres did not start; its log ends: {0}")]
    Died(String),
    /// The server runs and does not answer.
    #[error("Postgres does not answer: {0}")]
    NoAnswer(String),
    /// Databases of a restore exist, but not the one in use. Creating an empty one would hide them.
    #[error("the database esh3ar is missing, but a restore left {}", found.join(", "))]
    Missing {
        /// What there is instead.
        found: Vec<String>,
    },
    /// Root must never run it.
    #[error("Postgres must not be run by root")]
    Root,
}

impl EmbeddedError {
    /// A hint for the administrator.
    pub fn hint(&self) -> &'static str {
        match self {
            EmbeddedError::NoBinaries => {
                "install them (apt install postgresql), set database.bin_dir to their folder, or set \
                 database.url"
            }
            EmbeddedError::Locked { .. } => "stop the other process, or use another --data-dir",
            EmbeddedError::MajorMismatch { .. } => {
                "install that version of Postgres, or upgrade the data with pg_upgrade"
            }
            EmbeddedError::DiskFull { .. } => {
                "free space on that disk (df -h, df -i), or move data_dir to a larger one"
            }
            EmbeddedError::Damaged { .. } => {
                "run: esh3ar doctor; see also postgres.log in the data folder; to recover lost data, run: \
                 esh3ar restore FILE"
            }
            EmbeddedError::Folder { .. } => "check the folder's owner and permissions",
            EmbeddedError::Initdb(_) | EmbeddedError::Died(_) | EmbeddedError::NoAnswer(_) => {
                "see postgres.log in the data folder"
            }
            EmbeddedError::Missing { .. } => {
                "nothing was changed; rename the database or folder to keep, see \
                 \"Backup and restore drill\" in the guide"
            }
            EmbeddedError::Root => "run esh3ar as a dedicated user",
        }
    }
}

fn folder(path: &Path, error: &std::io::Error) -> EmbeddedError {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let (path, why) = (path.to_owned(), error.to_string());
    match error.kind() {
        StorageFull | QuotaExceeded => EmbeddedError::DiskFull { path, why },
        _ => EmbeddedError::Folder { path, why },
    }
}

/// Whether a folder contains a database, or one is being created. Read-only.
pub fn is_there(data_dir: &Path) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    match fs::metadata(data_dir.join("postgres/PG_VERSION")) {
        Ok(_) => true,
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => {
            // Incomplete data counts as data.
            data_dir.join("postgres/base").exists()
                || lock::is_held(&data_dir.join("lock"))
                || !recovery::kept(data_dir).is_empty()
        }
        // The code that opens it reports the error.
        Err(_) => true,
    }
}

/// The private Postgres, running.
pub struct Embedded {
    socket_dir: PathBuf,
    role: Role,
    /// Whether the cluster has the roles. A running server of an earlier version has none until its next start.
    has_roles: bool,
}

enum Role {
    /// We started it.
    Owner { server: Box<PostgresProcess>, lock: FolderLock },
    /// Another process owns it; the shared lock keeps a temporary owner from stopping it.
    Guest { _users: FolderLock },
}

/// How long a server waits for a command that uses the folder.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it waits before it logs that.
const NOTICE_DELAY: Duration = Duration::from_secs(1);
/// How long a command waits for a starting server; crash recovery may take long.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a command waits for an answer of a running server.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

impl Embedded {
    /// Opens a folder: creates the cluster the first time, and starts the server or attaches to it.
    ///
    /// # Errors
    /// See [`EmbeddedError`].
    pub async fn open(options: Options) -> Result<Embedded, EmbeddedError> {
        if nix::unistd::geteuid().is_root() {
            return Err(EmbeddedError::Root);
        }
        let data_dir = prepare(&options.data_dir)?;
        let socket_dir = socket_dir(&data_dir)?;
        let deadline = tokio::time::Instant::now()
            + match options.purpose {
                Purpose::Serve => COMMAND_TIMEOUT,
                Purpose::Command => START_TIMEOUT,
            };
        let mut told_at = tokio::time::Instant::now() + NOTICE_DELAY;
        loop {
            match FolderLock::try_exclusive(&data_dir.join("lock"), options.purpose)? {
                LockAttempt::Ours(lock) => {
                    let started = start(&data_dir, &socket_dir, &options).await;
                    let server = started.map_err(|error| of_full_disk(&data_dir, error))?;
                    return Ok(Embedded {
                        socket_dir,
                        role: Role::Owner { server: Box::new(server), lock },
                        has_roles: true,
                    });
                }
                LockAttempt::Held { pid, purpose: Some(Purpose::Serve) }
                    if options.purpose == Purpose::Serve =>
                {
                    return Err(EmbeddedError::Locked { data_dir, pid });
                }
                LockAttempt::Held { pid, .. } => {
                    if options.purpose == Purpose::Command
                        && let Some(guest) = attach(&data_dir, &socket_dir).await?
                    {
                        return Ok(guest);
                    }
                    if tokio::time::Instant::now() >= deadline {
                        return Err(EmbeddedError::Locked { data_dir, pid });
                    }
                    if options.purpose == Purpose::Serve && tokio::time::Instant::now() >= told_at {
                        tracing::warn!(
                            pid,
                            "waiting for a command that uses the database, such as esh3ar top, to end"
                        );
                        told_at = deadline;
                    }
                }
            }
            tokio::time::sleep(POLL_INTERVAL * 5).await;
        }
    }

    /// As the application's role, which may only read and change rows.
    pub fn pg_config(&self) -> tokio_postgres::Config {
        self.config_of(names::APP)
    }

    /// As the owner of the schema, who migrates.
    pub fn owner_config(&self) -> tokio_postgres::Config {
        self.config_of(names::OWNER)
    }

    /// As the role that fills the database of a restore.
    pub fn restore_config(&self) -> tokio_postgres::Config {
        self.config_of(names::RESTORE)
    }

    /// As the cluster's superuser, for databases and the programs of Postgres.
    pub fn admin_config(&self) -> tokio_postgres::Config {
        config(&self.socket_dir, "esh3ar")
    }

    fn config_of(&self, role: &str) -> tokio_postgres::Config {
        let mut config = self.admin_config();
        if self.has_roles {
            config.user(role).options(SESSION);
        }
        config
    }

    /// Whether the cluster has roles of its own for owner, application and restore.
    pub fn has_roles(&self) -> bool {
        self.has_roles
    }

    /// The folder of the server's socket.
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// Whether the server is this process' child.
    pub fn is_owner(&self) -> bool {
        matches!(self.role, Role::Owner { .. })
    }

    /// Resolves when the server exits unexpectedly, with how it ended; never for a guest. Cancel-safe.
    pub async fn died(&mut self) -> String {
        match &mut self.role {
            Role::Owner { server, .. } => server.died().await,
            Role::Guest { .. } => std::future::pending().await,
        }
    }

    /// Stops the server; a guest only detaches. A temporary owner waits for its guests first.
    ///
    /// # Errors
    /// The server cannot be stopped.
    pub async fn stop(self) -> Result<(), EmbeddedError> {
        let Role::Owner { server, lock } = self.role else { return Ok(()) };
        let users = match lock.purpose() {
            Purpose::Command => Some(last_guest_left(lock.folder()).await?),
            Purpose::Serve => None,
        };
        server.stop().await?;
        // Held until the server has exited, or a guest could attach while it stops.
        drop(users);
        drop(lock);
        Ok(())
    }
}

async fn last_guest_left(data_dir: &Path) -> Result<FolderLock, EmbeddedError> {
    let users = data_dir.join("users.lock");
    loop {
        if let LockAttempt::Ours(lock) = FolderLock::try_exclusive(&users, Purpose::Command)? {
            return Ok(lock);
        }
        tokio::time::sleep(POLL_INTERVAL * 5).await;
    }
}

/// Settings that stand over those of the role: every role may change its own, for all later connections.
const SESSION: &str =
    "-c search_path=public -c default_transaction_read_only=off -c synchronous_commit=on";

fn config(socket_dir: &Path, database: &str) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host_path(socket_dir).user("esh3ar").dbname(database);
    config
}

/// Creates the folder if needed, makes it private, and returns its real path.
fn prepare(data_dir: &Path) -> Result<PathBuf, EmbeddedError> {
    fs::create_dir_all(data_dir).map_err(|error| folder(data_dir, &error))?;
    let data_dir = data_dir.canonicalize().map_err(|error| folder(data_dir, &error))?;
    private(&data_dir)?;
    Ok(data_dir)
}

fn private(path: &Path) -> Result<(), EmbeddedError> {
    let fault = |error: std::io::Error| folder(path, &error);
    let metadata = fs::symlink_metadata(path).map_err(fault)?;
    if !metadata.is_dir() || metadata.uid() != nix::unistd::geteuid().as_raw() {
        let why = "not a folder owned by the user that runs esh3ar".to_owned();
        return Err(EmbeddedError::Folder { path: path.to_owned(), why });
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(fault)
}

/// The socket's folder: in the data folder, unless the path would exceed the limit for sockets (107 bytes);
/// the alternative is derived from the path, so that commands find it.
fn socket_dir(data_dir: &Path) -> Result<PathBuf, EmbeddedError> {
    const MAX_SOCKET_PATH_LEN: usize = 107;
    const FILE: usize = "/.s.PGSQL.5432.lock".len();
    let near = data_dir.join("run");
    let path = if near.as_os_str().len() + FILE <= MAX_SOCKET_PATH_LEN {
        near
    } else {
        let hash = digest(&SHA256, data_dir.as_os_str().as_encoded_bytes());
        let name: String = hash.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        // Not TMPDIR, which may differ between the service and the administrator's shell.
        Path::new("/tmp").join(format!("esh3ar-{name}"))
    };
    match fs::DirBuilder::new().mode(0o700).create(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(folder(&path, &error)),
    }
    private(&path)?;
    Ok(path)
}

/// A start on a full disk fails with many different messages, or none.
fn of_full_disk(data_dir: &Path, error: EmbeddedError) -> EmbeddedError {
    let why = match &error {
        EmbeddedError::Initdb(why) | EmbeddedError::Died(why) | EmbeddedError::NoAnswer(why) => {
            why.clone()
        }
        _ => return error,
    };
    if tells_of_full_disk(&why) || has_no_room(data_dir) {
        return EmbeddedError::DiskFull { path: data_dir.to_owned(), why };
    }
    error
}

/// Postgres needs at least one WAL segment to start, in bytes.
const MIN_FREE_BYTES: u64 = 16 << 20;

fn has_no_room(data_dir: &Path) -> bool {
    nix::sys::statvfs::statvfs(data_dir).is_ok_and(|found| {
        let free = found.blocks_available().saturating_mul(found.fragment_size());
        free < MIN_FREE_BYTES || (found.files() > 0 && found.files_available() == 0)
    })
}

/// The most log that waits for a backup, in MB: beyond, the next backup is a full one.
const MAX_WAITING_LOG: u64 = 16 << 10;
const MIN_WAITING_LOG: u64 = 1 << 10;

/// The setting that keeps a missing backup from filling the disk: at most a quarter of what is free.
fn log_limit(data_dir: &Path) -> String {
    let free = nix::sys::statvfs::statvfs(data_dir)
        .map_or(0, |found| found.blocks_available().saturating_mul(found.fragment_size()));
    let limit = ((free / 4) >> 20).clamp(MIN_WAITING_LOG, MAX_WAITING_LOG);
    format!("max_slot_wal_keep_size={limit}MB")
}

async fn start(
    data_dir: &Path,
    socket_dir: &Path,
    options: &Options,
) -> Result<PostgresProcess, EmbeddedError> {
    let path = data_dir.join("postgres");
    repair::fix_permissions(&path)?;
    let major = fs::read_to_string(path.join("PG_VERSION")).ok();
    let major = major.as_deref().map(str::trim);
    let binaries =
        binaries::find(options.bin_dir.as_deref(), major).ok_or(EmbeddedError::NoBinaries)?;
    cluster::stop_orphan(&path).await?;
    repair::repair(data_dir, socket_dir)?;
    let kept = recovery::kept(data_dir);
    if !path.exists() && !kept.is_empty() {
        return Err(EmbeddedError::Missing { found: kept });
    }
    cluster::create_once(&path, &binaries).await?;
    cluster::check_version(&path, &binaries)?;
    let (log, settings) = (data_dir.join("postgres.log"), [log_limit(data_dir)]);
    let mut server = PostgresProcess::spawn(&path, socket_dir, &log, &binaries, &settings)?;
    let ready = server.wait_ready(&config(socket_dir, "postgres")).await;
    ready.map_err(|error| repair::classify(&path, error))?;
    create_database(socket_dir).await?;
    let fault = |error: tokio_postgres::Error| EmbeddedError::NoAnswer(server::words(&error));
    roles::ensure(socket_dir).await.map_err(fault)?;
    Ok(server)
}

async fn create_database(socket_dir: &Path) -> Result<(), EmbeddedError> {
    let fault = |error: tokio_postgres::Error| EmbeddedError::NoAnswer(server::words(&error));
    let (client, connection) =
        config(socket_dir, "postgres").connect(NoTls).await.map_err(fault)?;
    let driver = tokio::spawn(connection);
    let there = client.query_opt(DATABASE.text(), &[]).await.map_err(fault)?;
    if there.is_none() {
        let found = client.query(OF_A_RESTORE.text(), &[]).await.map_err(fault)?;
        let found: Vec<String> = found.iter().filter_map(|row| row.try_get("name").ok()).collect();
        if !found.is_empty() {
            return Err(EmbeddedError::Missing { found });
        }
        client.batch_execute("CREATE DATABASE esh3ar").await.map_err(fault)?;
    }
    if !there.is_some_and(|row| row.try_get("terse").unwrap_or(false)) {
        // Error details contain whole rows, with phone numbers and contents. Only for this database: errors
        // of the server itself are logged in full.
        let quiet = "ALTER DATABASE esh3ar SET log_error_verbosity = terse";
        client.batch_execute(quiet).await.map_err(fault)?;
    }
    drop(client);
    let _ = driver.await;
    Ok(())
}

/// Attaches to a running server; `None` while it does not answer.
async fn attach(data_dir: &Path, socket_dir: &Path) -> Result<Option<Embedded>, EmbeddedError> {
    let Some(users) = FolderLock::try_shared(&data_dir.join("users.lock"))? else {
        return Ok(None);
    };
    let connect = async {
        let (client, connection) = config(socket_dir, "esh3ar").connect(NoTls).await?;
        let driver = tokio::spawn(connection);
        let has_roles = roles::are_there(&client).await;
        drop(client);
        let _ = driver.await;
        has_roles
    };
    let Ok(answer) = tokio::time::timeout(RESPONSE_TIMEOUT, connect).await else {
        let text = "it is running but has not answered for 5 s: check its processes and its disk";
        return Err(EmbeddedError::NoAnswer(text.to_owned()));
    };
    match answer {
        Ok(has_roles) => {
            let role = Role::Guest { _users: users };
            Ok(Some(Embedded { socket_dir: socket_dir.to_owned(), role, has_roles }))
        }
        Err(_) => Ok(None),
    }
}
