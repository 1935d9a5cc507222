//! Postgres, reached over TCP: the one that all tests share, with a database for each, and others that a
//! test may kill, start again and stall, with streaming replicas.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User, geteuid},
};

use super::{
    BINARY, DEADLINE, Folder, accounts, command,
    folder::copy,
    guard::{Guarded, Until, free_port, stop},
    test_run,
};

/// A running Postgres.
pub struct Postgres {
    folder: Folder,
    port: u16,
    settings: Vec<String>,
    server: Option<Guarded>,
    until: Until,
}

/// A database on the Postgres that all tests of the run share: migrated, and empty. Dropped with its owner.
pub struct Database {
    port: u16,
    name: String,
}

/// Connections to the shared Postgres: those of all processes of all tests that run at once.
const CONNECTIONS: &str = "max_connections=800";
/// Its superuser, and the database that the others are copied from.
const NAME: &str = "esh3ar";

impl Database {
    /// Creating one from a template takes a tenth of a second.
    pub async fn new() -> Database {
        let port = tokio::task::spawn_blocking(shared).await.unwrap();
        let name = format!("test{}", test_run::next("database"));
        let create = format!("CREATE DATABASE {name} TEMPLATE {NAME}");
        let client = super::connect(&config(port, "postgres")).await;
        client.batch_execute(&create).await.unwrap();
        Database { port, name }
    }

    pub fn url(&self) -> String {
        url(self.port, &self.name)
    }

    pub fn config(&self) -> tokio_postgres::Config {
        config(self.port, &self.name)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (port, name) = (self.port, self.name.clone());
        accounts::block_on(async move {
            let Ok((client, connection)) =
                config(port, "postgres").connect(tokio_postgres::NoTls).await
            else {
                return;
            };
            tokio::spawn(connection);
            let _ = client.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await;
        });
    }
}

fn url(port: u16, database: &str) -> String {
    format!("postgres://{NAME}@127.0.0.1:{port}/{database}")
}

fn config(port: u16, database: &str) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).user(NAME).dbname(database);
    config
}

/// The data folder that all others are copied from, with a migrated database: made once a run.
fn installation() -> PathBuf {
    test_run::once("postgres-data", |place| {
        let folder = Folder::of_run(place);
        let data = folder.data();
        accounts::block_on(async move {
            let postgres = Postgres::empty(folder).await;
            let mut migrate = command(&postgres.folder.path().join("none"));
            migrate.arg("migrate").env("ESH3AR__DATABASE__URL", postgres.url());
            let made = migrate.output().unwrap();
            let text = String::from_utf8_lossy(&made.stderr);
            assert!(made.status.success(), "{BINARY} migrate: {}\n{text}", made.status);
            // Its fast stop, which ends sessions; whoever waits blocks a thread.
            let pid = postgres.server.as_ref().unwrap().pid();
            tokio::task::spawn_blocking(move || stop(pid, Signal::SIGINT)).await.unwrap();
        });
        data.to_str().unwrap().to_owned()
    })
    .into()
}

/// The port of the server that all tests share.
fn shared() -> u16 {
    let port = test_run::once("postgres", |place| {
        let folder = Folder::of_run(place);
        let data = installation();
        accounts::block_on(async move {
            let mut postgres = Postgres::copied(&data, folder, Until::RunEnds);
            postgres.settings.push(CONNECTIONS.to_owned());
            postgres.start().await;
            postgres.port.to_string()
        })
    });
    port.parse().unwrap()
}

/// Postgres is never root.
fn user() -> Option<User> {
    let named = || ["esh3ar", "postgres", "nobody"].iter().find_map(|n| User::from_name(n).ok()?);
    geteuid().is_root().then(|| named().unwrap())
}

fn program(name: &str) -> Command {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let folders = installed.map(|entry| entry.path().join("bin"));
    let found: Option<PathBuf> = folders.map(|folder| folder.join(name)).find(|p| p.is_file());
    let found = found.unwrap_or_else(|| name.into());
    let mut command = match user() {
        None => Command::new(found),
        Some(user) => {
            let mut command = Command::new("setpriv");
            command.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid));
            command.args(["--clear-groups", "--"]).arg(found);
            command
        }
    };
    command.env("LANG", "C.UTF-8").current_dir("/");
    command
}

fn succeed(mut command: Command) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
}

impl Postgres {
    /// A new one with a migrated database `esh3ar`.
    pub async fn primary() -> Postgres {
        let data = tokio::task::spawn_blocking(installation).await.unwrap();
        let mut postgres = Postgres::copied(&data, Folder::new(), Until::Dropped);
        postgres.start().await;
        postgres
    }

    /// One that was never a copy of another, as its system identifier says. Its database `esh3ar` is empty.
    pub async fn stranger() -> Postgres {
        Postgres::empty(Folder::new()).await
    }

    async fn empty(folder: Folder) -> Postgres {
        let mut initdb = program("initdb");
        let user = format!("--username={NAME}");
        initdb.args(["--auth=trust", &user, "--encoding=UTF8", "--no-sync", "-D"]);
        let postgres = Postgres::made(initdb, folder).await;
        let client = postgres.connect_to("postgres").await;
        client.batch_execute(&format!("CREATE DATABASE {NAME}")).await.unwrap();
        postgres
    }

    /// A streaming replica of this one.
    pub async fn replica(&self) -> Postgres {
        let mut backup = program("pg_basebackup");
        let port = self.port.to_string();
        backup.args(["-h", "127.0.0.1", "-U", NAME, "-p", &port, "-R", "-X", "stream"]);
        backup.args(["-c", "fast", "--no-sync", "-D"]);
        Postgres::made(backup, Folder::new()).await
    }

    /// One whose folder a command makes.
    async fn made(mut command: Command, folder: Folder) -> Postgres {
        if let Some(user) = user() {
            chown(folder.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
        command.arg(folder.data());
        tokio::task::spawn_blocking(move || succeed(command)).await.unwrap();
        let mut postgres = Postgres::in_folder(folder, Until::Dropped);
        postgres.start().await;
        postgres
    }

    /// One whose data are a copy, not started yet.
    fn copied(data: &Path, folder: Folder, until: Until) -> Postgres {
        copy(data, &folder.data());
        Postgres::in_folder(folder, until)
    }

    fn in_folder(folder: Folder, until: Until) -> Postgres {
        let port = free_port();
        let settings = [
            format!("port={port}"),
            "listen_addresses=127.0.0.1".to_owned(),
            "unix_socket_directories=".to_owned(),
            "max_connections=100".to_owned(),
            "shared_buffers=64MB".to_owned(),
            "wal_level=replica".to_owned(),
            "wal_keep_size=256MB".to_owned(),
            "hot_standby=on".to_owned(),
            "wal_retrieve_retry_interval=200ms".to_owned(),
        ];
        Postgres { folder, port, settings: settings.into(), server: None, until }
    }

    /// Starts it, on the port that it had before.
    pub async fn start(&mut self) {
        assert!(self.server.is_none());
        let mut command = program("postgres");
        command.arg("-D").arg(self.folder.data());
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        let server = Guarded::start_until(self.until, self.folder.path(), "postgres", &command);
        let pid = server.pid();
        self.server = Some(server);
        let deadline = Instant::now() + DEADLINE;
        while self.try_connect("postgres").await.is_err() {
            assert!(kill(pid, None).is_ok(), "Postgres ended\n{}", self.log());
            assert!(Instant::now() < deadline, "Postgres does not answer\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("out.log")).unwrap_or_default()
    }

    /// The URL of its database.
    pub fn url(&self) -> String {
        url(self.port, NAME)
    }

    /// The way to its database.
    pub fn config(&self) -> tokio_postgres::Config {
        config(self.port, NAME)
    }

    /// How it is called on health pages and in metrics.
    pub fn name(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    async fn try_connect(
        &self,
        database: &str,
    ) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let config = config(self.port, database);
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    async fn connect_to(&self, database: &str) -> tokio_postgres::Client {
        self.try_connect(database).await.unwrap()
    }

    pub async fn connect(&self) -> tokio_postgres::Client {
        self.connect_to(NAME).await
    }

    /// Stops or goes on with replaying what the primary streams; it answers all the while.
    pub async fn stall(&self, stalled: bool) {
        let sql =
            if stalled { "SELECT pg_wal_replay_pause()" } else { "SELECT pg_wal_replay_resume()" };
        let client = self.connect().await;
        client.execute(sql, &[]).await.unwrap();
        let wanted = if stalled { "paused" } else { "not paused" };
        let deadline = Instant::now() + DEADLINE;
        loop {
            let state = client.query_one("SELECT pg_get_wal_replay_pause_state()", &[]).await;
            if state.unwrap().get::<_, &str>(0) == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "the replay is not {wanted}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// How often a table was read by an index, on this server.
    pub async fn reads_of(&self, table: &str) -> i64 {
        let client = self.connect().await;
        let sql = "SELECT coalesce(sum(idx_scan), 0)::int8 FROM pg_stat_user_tables \
                   WHERE relname = $1";
        client.query_one(sql, &[&table]).await.unwrap().get(0)
    }

    fn pids(&self) -> Vec<Pid> {
        let parent = self.server.as_ref().unwrap().pid();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        let children = children.unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        std::iter::once(parent).chain(children.map(Pid::from_raw)).collect()
    }

    /// Freezes it, or lets it go on: connections stay and nothing answers.
    pub fn freeze(&self, frozen: bool) {
        for pid in self.pids() {
            let _ = kill(pid, if frozen { Signal::SIGSTOP } else { Signal::SIGCONT });
        }
    }

    /// Every process of it at once.
    pub fn kill(&mut self) {
        for pid in self.pids() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        self.server.take().unwrap().kill();
        // While nobody has asked how they ended, they still look alive to the next.
        let _ = fs::remove_file(self.folder.data().join("postmaster.pid"));
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.server.is_some() && self.until == Until::Dropped {
            // Its processes are in groups of their own.
            self.kill();
        }
        if std::thread::panicking() {
            eprintln!("---- what Postgres on port {} said ----\n{}", self.port, self.log());
        }
    }
}
