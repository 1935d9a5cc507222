//! Postgres goes away, comes back, loses an answer, or runs out of disk.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use nix::sys::signal::{Signal, kill};

use super::{assert_balanced, assert_kept, beside, over, plan, start, target, verdict_of_slowest};
use crate::support::{
    DEADLINE, Folder, Server,
    proxy::{Fault, Proxy, Upstream},
};

/// A server whose Postgres belongs to another server and is reached through a proxy.
struct Apart {
    owner: Server,
    server: Server,
    proxy: Proxy,
    config: tokio_postgres::Config,
}

async fn apart() -> Apart {
    let owner = Server::start().await;
    owner.database().await.batch_execute("CREATE DATABASE given").await.unwrap();
    let socket = owner.data().join("run");
    let file = std::fs::read_dir(&socket)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            path.to_string_lossy().rsplit('.').next().is_some_and(|end| end.parse::<u16>().is_ok())
        })
        .unwrap();
    let proxy = Proxy::start(Upstream::Unix(file)).await;
    let url = format!("postgres://esh3ar@127.0.0.1:{}/given?sslmode=disable", proxy.port);
    let server = Server::start_in(Folder::new(), &[("ESH3AR__DATABASE__URL", url.as_str())]).await;
    let mut config = tokio_postgres::Config::new();
    config.host_path(&socket).user("esh3ar").dbname("given");
    Apart { owner, server, proxy, config }
}

async fn database(config: &tokio_postgres::Config) -> tokio_postgres::Client {
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The rows are the sends: none twice, whatever was repeated.
async fn assert_each_once(database: &tokio_postgres::Client) {
    let sql = "SELECT count(*), count(DISTINCT content) FROM messages";
    let row = database.query_one(sql, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), row.get::<_, i64>(1), "a send was stored twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_is_restarted_under_load_costs_time_only() {
    let mut apart = apart().await;
    let (app, stop) = over(apart.config.clone());
    let target = target(&apart.server, &app, 8).await;
    stop.cancel();
    drop(app);
    let load = start(target, plan());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    // SIGQUIT is its immediate stop: no farewell, crash recovery at the next start.
    kill(apart.owner.postmaster(), Signal::SIGQUIT).unwrap();
    apart.owner.ended().await;
    // With its start it is away for longer than is usual, and for less than a send is tried again.
    tokio::time::sleep(Duration::from_millis(1700)).await;
    apart.owner.launch().await;
    let figures = load.await.unwrap();
    assert_kept(&figures);
    let database = database(&apart.config).await;
    assert_each_once(&database).await;
    assert_eq!(verdict_of_slowest(&apart.server, &database).await, "delivered_after_outage");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_one_commit() {
    let apart = apart().await;
    let (app, stop) = over(apart.config.clone());
    let target = target(&apart.server, &app, 8).await;
    stop.cancel();
    drop(app);
    let load = start(target, plan());
    let deadline = Instant::now() + DEADLINE;
    for n in 0..8 {
        // The words with which Postgres says that an insert is done; they come with the commit.
        let answer: &[u8] = if n % 2 == 0 { b"INSERT 0 " } else { b"UPDATE " };
        apart.proxy.cut_at(answer);
        while apart.proxy.sprung() < n + 1 {
            assert!(Instant::now() < deadline, "nothing was cut");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let figures = load.await.unwrap();
    assert_kept(&figures);
    assert_each_once(&database(&apart.config).await).await;
}

/// With a key and without: the server itself repeats what it cannot know to be stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_send_whose_commit_is_not_heard_is_accepted_and_stored_once() {
    let apart = apart().await;
    let (app, stop) = over(apart.config.clone());
    let shop = target(&apart.server, &app, 1).await.sender;
    stop.cancel();
    drop(app);
    let url = format!("{}/api/v1/messages", apart.server.base);
    for n in 0..6 {
        let sprung = apart.proxy.sprung();
        let body = format!("{{\"to\":\"{}\",\"content\":\"{n}\"}}", crate::support::number(0));
        let mut request = reqwest::Client::new()
            .post(&url)
            .bearer_auth(&shop)
            .header("content-type", "application/json")
            .body(body);
        if n % 2 == 0 {
            apart.proxy.cut_at(b"INSERT 0 ");
        } else {
            request = request.header("idempotency-key", format!("key-{n}"));
            apart.proxy.cut_at(b"COMMIT");
        }
        assert_eq!(request.send().await.unwrap().status(), 202);
        assert_eq!(apart.proxy.sprung(), sprung + 1, "nothing was cut");
    }
    let database = database(&apart.config).await;
    assert_each_once(&database).await;
    let rows: i64 = database.query_one("SELECT count(*) FROM messages", &[]).await.unwrap().get(0);
    assert_eq!(rows, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_stalls_is_waited_for() {
    let apart = apart().await;
    let (app, stop) = over(apart.config.clone());
    let target = target(&apart.server, &app, 8).await;
    stop.cancel();
    drop(app);
    let load = start(target, plan());
    tokio::time::sleep(Duration::from_millis(1000)).await;
    apart.proxy.set(Fault::Stall);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    apart.proxy.set(Fault::Delay(Duration::from_millis(20)));
    let figures = load.await.unwrap();
    assert_kept(&figures);
    assert_each_once(&database(&apart.config).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_private_postgres_killed_under_load_is_found_whole_by_the_next_start() {
    let mut server = Server::start().await;
    let (app, stop) = beside(&server);
    let target = target(&server, &app, 8).await;
    stop.cancel();
    drop(app);
    let load = start(target, plan());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    kill(server.postmaster(), Signal::SIGKILL).unwrap();
    assert_eq!(server.ended().await, Some(69), "systemd starts it again");
    server.launch().await;
    let figures = load.await.unwrap();
    assert_kept(&figures);
    assert_each_once(&server.database().await).await;
    assert_balanced(&server);
}

/// A file system of its own, that can be filled.
struct SmallDisk {
    folder: Folder,
}

impl SmallDisk {
    fn mount(mebibytes: u32) -> Option<SmallDisk> {
        let folder = Folder::new();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m,mode=0755"), "esh3ar-test"])
            .arg(folder.path())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(SmallDisk { folder })
    }
}

/// Unmounts at the end, whatever happened.
struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn fill(path: &Path) {
    let output = Command::new("dd")
        .args(["if=/dev/zero", "bs=1M"])
        .arg(format!("of={}", path.display()))
        .output()
        .unwrap();
    assert!(!output.status.success(), "the disk should be full now");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount(220) else {
        let text = "SKIPPED: no small file system could be mounted, which needs root";
        assert!(std::env::var_os("CI").is_none(), "{text}");
        eprintln!("{text}");
        return;
    };
    let filler = disk.folder.path().join("filler");
    let mut server = Server::start_in(disk.folder, &[]).await;
    let _unmount = Unmount(server.folder.path().to_owned());
    let (app, stop) = beside(&server);
    let target = target(&server, &app, 8).await;
    stop.cancel();
    drop(app);
    let plan = esh3ar::load::Plan {
        rate: Some(600.0),
        payload: 4000,
        duration: Duration::from_secs(11),
        ..plan()
    };
    let load = start(target, plan);
    tokio::time::sleep(Duration::from_millis(1000)).await;
    fill(&filler);
    // Either Postgres refuses rows, or its log has no room left and it ends, and the server with it.
    // Longer than a send is tried again before its sender is told.
    tokio::time::sleep(Duration::from_millis(7000)).await;
    std::fs::remove_file(&filler).unwrap();
    if server.has_died() {
        server.launch().await;
    }
    let figures = load.await.unwrap();
    assert!(!figures.refused.is_empty(), "the full disk was not felt");
    assert_kept(&figures);
    assert_each_once(&server.database().await).await;
    assert_balanced(&server);
    let _ = server.stop().await;
}
