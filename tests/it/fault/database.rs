//! Postgres goes away, comes back, loses an answer, or runs out of disk.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use esh3ar::{bench::load::Plan, client::Error::Refused};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    ENOUGH, Load, Waiting, assert_balanced, assert_kept, beside, over, plan, target,
    verdict_of_slowest,
};
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
    owner.expect_error("the embedded Postgres exited");
    server.expect_error("could not be stored");
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
    let load = Load::start(target, plan());
    load.accepted(ENOUGH).await;
    // SIGQUIT is its immediate stop: no farewell, crash recovery at the next start.
    kill(apart.owner.postmaster(), Signal::SIGQUIT).unwrap();
    apart.owner.ended().await;
    // With its start it is away for longer than is usual, and for less than a send is tried again.
    tokio::time::sleep(Duration::from_millis(1700)).await;
    apart.owner.launch().await;
    let figures = load.healed().await;
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
    let load = Load::start(target, plan());
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
    // And once it stays away so long that what waits is late, less than a send is tried again.
    apart.proxy.cut_for_good_at(b"INSERT 0 ");
    while apart.proxy.sprung() < 9 {
        assert!(Instant::now() < deadline, "nothing was cut");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(2500)).await;
    apart.proxy.set(Fault::None);
    let figures = load.healed().await;
    assert_kept(&figures);
    let database = database(&apart.config).await;
    assert_each_once(&database).await;
    assert_eq!(verdict_of_slowest(&apart.server, &database).await, "delivered_after_outage");
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
        let mut request = crate::support::http()
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

/// Nobody is shown what its sender was not told to be accepted and the database does not have.
#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_stored_is_not_delivered_either() {
    let apart = apart().await;
    let (app, stop) = over(apart.config.clone());
    let target = target(&apart.server, &app, 1).await;
    stop.cancel();
    drop(app);
    let mut hub = apart.server.hub(&target.recipients[0].1).await;
    let api = apart.server.api(&target.sender);
    let send = async |content: &str| {
        let body = serde_json::json!({ "to": target.recipients[0].0, "content": content });
        api.post("/api/v1/messages", &body).await
    };
    let deadline = Instant::now() + DEADLINE;
    let tried = "messages could not be stored";
    while !apart.server.log().contains(tried) {
        assert!(Instant::now() < deadline, "nothing came as far as the database");
        // A sender who was known a moment ago is let in without the database.
        while send("accepted").await.is_err() {
            assert!(Instant::now() < deadline, "the database is back");
        }
        let (_, found) = crate::support::next_messages(&mut hub).await;
        assert_eq!(found[0]["content"], "accepted");
        crate::support::acknowledge(&mut hub, &[crate::support::id(&found[0])]).await;
        apart.proxy.set(Fault::Cut);
        let refused = send("refused").await;
        assert!(matches!(refused, Err(Refused { status: 503, .. })), "{refused:?}");
        apart.proxy.set(Fault::None);
    }
    while send("accepted").await.is_err() {
        assert!(Instant::now() < deadline, "the database is back");
    }
    let (_, found) = crate::support::next_messages(&mut hub).await;
    assert_eq!(found[0]["content"], "accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_stalls_is_waited_for() {
    let apart = apart().await;
    let (app, stop) = over(apart.config.clone());
    let target = target(&apart.server, &app, 8).await;
    stop.cancel();
    drop(app);
    let load = Load::start(target, plan());
    load.accepted(ENOUGH).await;
    apart.proxy.set(Fault::Stall);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    apart.proxy.set(Fault::Delay(Duration::from_millis(20)));
    let figures = load.healed().await;
    assert_kept(&figures);
    let database = database(&apart.config).await;
    assert_each_once(&database).await;
    // Nothing failed, and the recipients were there all the time.
    assert_eq!(verdict_of_slowest(&apart.server, &database).await, "delivered_after_outage");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_private_postgres_killed_under_load_is_found_whole_by_the_next_start() {
    let mut server = Server::start().await;
    server.expect_error("the embedded Postgres exited");
    let (app, stop) = beside(&server);
    let target = target(&server, &app, 8).await;
    stop.cancel();
    drop(app);
    let load = Load::start(target, plan());
    load.accepted(ENOUGH).await;
    let waiting = Waiting::send(&server).await;
    kill(server.postmaster(), Signal::SIGKILL).unwrap();
    assert_eq!(server.ended().await, Some(69), "systemd starts it again");
    // Long enough that what waited is late.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    server.launch().await;
    let figures = load.healed().await;
    assert_kept(&figures);
    waiting.comes(&server, "delivered_after_crash").await;
    let database = server.database().await;
    assert_each_once(&database).await;
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

    /// The same with the server's log in the other folder: with the disk full, a line of it would break off.
    fn with_log_elsewhere(self) -> (Folder, Folder) {
        let (log, name) = (Folder::new(), "serve.log");
        std::os::unix::fs::symlink(log.path().join(name), self.folder.path().join(name)).unwrap();
        (self.folder, log)
    }
}

/// Unmounts at the end, whatever happened.
struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A disk of this size; `None` where none can be mounted, which is said loudly and fails in CI.
fn small_disk(mebibytes: u32) -> Option<SmallDisk> {
    let disk = SmallDisk::mount(mebibytes);
    if disk.is_none() {
        let text = "SKIPPED: no small file system could be mounted, which needs root";
        assert!(std::env::var_os("CI").is_none(), "{text}");
        eprintln!("{text}");
    }
    disk
}

/// Fills a disk; what became free since the last time as well.
fn fill(path: &Path) {
    let output = Command::new("dd")
        .args(["if=/dev/zero", "bs=1M", "oflag=append", "conv=notrunc"])
        .arg(format!("of={}", path.display()))
        .output()
        .unwrap();
    assert!(!output.status.success(), "the disk should be full now");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_loses_nothing() {
    let Some(disk) = small_disk(220) else { return };
    let (folder, _log) = disk.with_log_elsewhere();
    let filler = folder.path().join("filler");
    let mut server = Server::start_in(folder, &[]).await;
    let _unmount = Unmount(server.folder.path().to_owned());
    let (app, stop) = beside(&server);
    let target = target(&server, &app, 8).await;
    stop.cancel();
    drop(app);
    let load = Load::start(target, Plan { rate: Some(600.0), payload: 4000, ..plan() });
    load.accepted(ENOUGH).await;
    fill(&filler);
    // Either Postgres refuses rows, and after a while their senders are told, or its log has no room left
    // and it ends, and the server with it. How soon depends on how much the machine can write.
    let deadline = Instant::now() + 2 * DEADLINE;
    let mut died = false;
    let page = format!("{}/metrics", server.metrics);
    let refused = "esh3ar_http_requests_total{route=\"/api/v1/messages\",status=\"503\"} ";
    let is_felt = async || match crate::support::get(&page).await {
        Ok(page) => page.text().await.unwrap_or_default().contains(refused),
        Err(_) => false,
    };
    while !died && !is_felt().await {
        assert!(Instant::now() < deadline, "the full disk was not felt");
        tokio::time::sleep(Duration::from_millis(200)).await;
        // The database removes old parts of its log.
        fill(&filler);
        died = server.has_died();
    }
    std::fs::remove_file(&filler).unwrap();
    if died {
        server.launch().await;
    }
    let figures = load.healed().await;
    assert!(!figures.refused.is_empty(), "the full disk was not felt");
    assert_kept(&figures);
    let database = server.database().await;
    assert_each_once(&database).await;
    assert_balanced(&server);
    let named = if died { "delivered_after_crash" } else { "delivered_after_outage" };
    // Where nothing that was accepted had to wait for the disk, there is nothing to name.
    let sql = "SELECT max(delivered_at - created_at) > interval '2 s' FROM messages";
    if database.query_one(sql, &[]).await.unwrap().get(0) {
        assert_eq!(verdict_of_slowest(&server, &database).await, named);
    }
    let _ = server.stop().await;
}

/// A full disk is neither a database that is away nor a matter of permissions: whoever is told of it is told
/// what it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_named_as_what_it_is() {
    let Some(disk) = small_disk(220) else { return };
    let (folder, _log) = disk.with_log_elsewhere();
    let filler = folder.path().join("filler");
    let mut server = Server::start_in(folder, &[]).await;
    let _unmount = Unmount(server.folder.path().to_owned());
    let shop = server.user("shop", "SendMessages");
    let body = serde_json::json!({ "to": crate::support::number(0), "content": "x".repeat(8000) });
    let body = body.to_string();
    let send = async |server: &Server| {
        server.request("POST", "/api/v1/messages", Some(&shop), Some(&body)).await
    };
    assert_eq!(send(&server).await.0, 202);
    fill(&filler);
    let deadline = Instant::now() + DEADLINE;
    let refused = loop {
        let (status, answer) = send(&server).await;
        if status != 202 {
            break answer;
        }
        assert!(Instant::now() < deadline, "the full disk was not felt");
    };
    assert_eq!(
        (&refused["status"], &refused["code"]),
        (&serde_json::json!(503), &serde_json::json!("disk_full")),
        "{refused}\n{}",
        server.log()
    );
    assert!(refused["retryAfter"].as_u64().is_some_and(|seconds| seconds > 1), "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("disk of the database is full"));
    assert!(server.log().contains("the database's disk is full: "), "{}", server.log());
    let health = async |path: &str| {
        let page = crate::support::get(format!("{}{path}", server.metrics)).await.unwrap();
        let status = page.status().as_u16();
        (status, page.json::<serde_json::Value>().await.unwrap()["dependencies"]["disk"].take())
    };
    let (status, of_it) = health("/health").await;
    assert_eq!((status, &of_it["status"]), (503, &serde_json::json!("down")));
    assert!(of_it["fault"].as_str().unwrap().contains("is full"), "{of_it}");
    assert_eq!(health("/health/ready").await.0, 200, "no other gateway would do better");
    let deadline = Instant::now() + DEADLINE;
    loop {
        let page = crate::support::get(format!("{}/metrics", server.metrics)).await.unwrap();
        if page.text().await.unwrap().contains("\nesh3ar_database_disk_full 1\n") {
            break;
        }
        assert!(Instant::now() < deadline, "no metric tells of the full disk");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // For the administrator: with the remedy.
    let command = |arguments: &[&str]| {
        let output = crate::support::run(&server.data(), arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text, output.stdout)
    };
    let content = "x".repeat(8000);
    let to = crate::support::number(0);
    let (code, text, _) = command(&["message", "send", "--from", "shop", "--to", &to, &content]);
    assert_eq!(code, Some(69), "{text}");
    assert!(text.contains("disk of the database is full") && text.contains("free space"), "{text}");
    let (code, text, found) = command(&["doctor", "--json"]);
    assert_eq!(code, Some(1), "{text}");
    let found: serde_json::Value = serde_json::from_slice(&found).unwrap();
    for (check, words) in
        [("data folder", "No space left"), ("database disk", "is full"), ("disk", "MiB free")]
    {
        let of_it = found.as_array().unwrap().iter().find(|one| one["check"] == check);
        let of_it = of_it.unwrap_or_else(|| panic!("no {check} in {found}"));
        assert!(of_it["state"] == "FAIL", "{of_it}");
        assert!(of_it["found"].as_str().unwrap().contains(words), "{of_it}");
        assert!(of_it["remedy"].as_str().unwrap().starts_with("free "), "{of_it}");
    }
    // With room everything goes on by itself.
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(send(&server).await.0, 202);
    assert_eq!(health("/health").await.0, 200);
    // And what cannot even start says why.
    let _ = server.stop().await;
    fill(&filler);
    let output = crate::support::run(&server.data(), &["user", "list"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(69), "{text}");
    assert!(text.contains("is full") && text.contains("free space on that disk"), "{text}");
    std::fs::remove_file(&filler).unwrap();
}

/// The file that was there stays, and half of another one does not.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_to_a_full_disk_leaves_nothing_half() {
    let Some(disk) = small_disk(1) else { return };
    let _unmount = Unmount(disk.folder.path().to_owned());
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages,Chat");
    let to = crate::support::number(0);
    let item = serde_json::json!({ "to": to, "content": "x".repeat(9000) });
    let body = serde_json::json!({ "messages": vec![item; 200] });
    let api = server.api(&shop);
    assert_eq!(api.post("/api/v1/messages/batch", &body).await.unwrap().status, 200);
    let body = serde_json::json!({ "phone": to });
    let talk = api.post("/api/v1/conversations", &body).await.unwrap().body;
    let talk = talk["id"].as_str().unwrap().to_owned();
    for _ in 0..150 {
        let body = serde_json::json!({ "content": "x".repeat(9000) });
        let path = format!("/api/v1/conversations/{talk}/messages");
        assert!(api.post(&path, &body).await.unwrap().status < 300);
    }
    let small = disk.folder.path().join("out.jsonl");
    std::fs::write(&small, "earlier").unwrap();
    let large = server.folder.path().join("out.jsonl");
    for export in [["mobile", "export", &to], ["conversation", "export", &talk]] {
        let run = |path: &Path| {
            let arguments = [&export[..], &["--out", path.to_str().unwrap()]].concat();
            let output = crate::support::run(&server.data(), &arguments);
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let (status, text) = run(&small);
        assert_eq!(status, Some(1), "{export:?}: {text}");
        assert!(text.contains("disk") && text.contains("full"), "{export:?}: {text}");
        assert!(text.contains("free space"), "{export:?}: {text}");
        assert_eq!(std::fs::read_to_string(&small).unwrap(), "earlier");
        assert_eq!(std::fs::read_dir(disk.folder.path()).unwrap().count(), 1, "{export:?}");
        let (status, text) = run(&large);
        assert_eq!(status, Some(0), "{export:?}: {text}");
        let written = std::fs::metadata(&large).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&written.permissions());
        assert!(written.len() > 1_000_000 && mode & 0o777 == 0o600, "{export:?}");
    }
}

/// What an administrator asks for is done as far as the database is there, and what was left is said.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_away_in_a_bulk_requeue_leaves_it_partly_done() {
    const LETTERS: i64 = 250;
    let apart = apart().await;
    let (app, stop) = over(apart.config.clone());
    let shop = target(&apart.server, &app, 1).await.sender;
    stop.cancel();
    drop(app);
    let item = serde_json::json!({ "to": crate::support::number(0), "content": "x" });
    let body = serde_json::json!({ "messages": vec![item; LETTERS as usize] });
    let api = apart.server.api(&shop);
    assert_eq!(api.post("/api/v1/messages/batch", &body).await.unwrap().status, 200);
    let database = database(&apart.config).await;
    database
        .batch_execute(
            "UPDATE messages SET status = 4, failure_reason = 'a test', next_attempt_at = NULL;
             INSERT INTO dead_letters (id, message_id, generation, kind, class, reason, attempts,
                                       first_error_at, last_error_at)
             SELECT gen_random_uuid(), id, 0, 'delivery', 'recipient', 'a test', 1, now(), now()
             FROM messages",
        )
        .await
        .unwrap();
    let requeue = || {
        let mut command = crate::support::command(&apart.server.data());
        command.args(["dlq", "requeue", "--all", "--yes", "-o", "json"]);
        command.envs(apart.server.environment());
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let done: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), done["requeued"].clone(), text)
    };
    // The answer to the second page of letters: the first has been put back by then.
    apart.proxy.cut_for_good_at(b"SELECT 50\0");
    let (code, done, text) = requeue();
    assert_eq!((code, done), (Some(3), serde_json::json!(200)), "{text}");
    assert!(text.contains("200 done, the rest could not be reached"), "{text}");
    apart.proxy.set(Fault::None);
    let (code, done, text) = requeue();
    assert_eq!((code, done), (Some(0), serde_json::json!(50)), "{text}");
    let sql = "SELECT count(*) FROM messages WHERE status = 0 AND generation = 1";
    assert_eq!(database.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), LETTERS);
}

/// The first thing that somebody does when nothing goes on is to ask a command.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_ends_while_the_private_postgres_stands_still() {
    let server = Server::start().await;
    let parent = server.postmaster();
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let children = children.unwrap();
    let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    let all: Vec<Pid> = std::iter::once(parent).chain(children.map(Pid::from_raw)).collect();
    let signal = |signal| {
        for pid in &all {
            let _ = kill(*pid, signal);
        }
    };
    signal(Signal::SIGSTOP);
    let begun = Instant::now();
    let [list, doctor] = [&["user", "list"][..], &["doctor"]].map(|command| server.run(command));
    let took = begun.elapsed();
    signal(Signal::SIGCONT);
    let text = String::from_utf8_lossy(&list.stderr).into_owned();
    assert_eq!(list.status.code(), Some(69), "{text}");
    assert!(text.contains("has not answered"), "{text}");
    assert_eq!(doctor.status.code(), Some(1), "{}", String::from_utf8_lossy(&doctor.stdout));
    assert!(took < Duration::from_secs(40), "{took:?}");
}
