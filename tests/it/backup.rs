//! Everything into one file and back: while it serves, when it does not, and whatever is wrong with the
//! file.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use esh3ar::store::{Statements as _, Store, backup::Databases, migrate};
use serde_json::{Value, json};

use crate::support::{
    DEADLINE, Folder, Server, acknowledge, command, id, next_messages, run, run_json,
};

async fn databases(server: &Server) -> Vec<String> {
    let sql = "SELECT datname::text FROM pg_database WHERE datname LIKE 'esh3ar%' ORDER BY 1";
    let rows = server.database().await.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

fn code(data: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = run(data, arguments);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn a_backup_is_made_while_it_serves_and_brings_everything_back() {
    let mut server = Server::start().await;
    let data = server.data();
    let shop = server.user("Shop", "SendMessages,Chat");
    let phone = server.phone("+967770000001");
    let mut hub = server.hub(&phone).await;
    let read = server.send(&shop, "+967770000001", "before").await;
    let (_, found) = next_messages(&mut hub).await;
    acknowledge(&mut hub, &[id(&found[0])]).await;
    server.wait_status(&shop, &read, "delivered").await;
    let waits = server.send(&shop, "+967770000002", "waits").await;

    let file = server.folder.path().join("all.tar");
    let name = file.to_str().unwrap().to_owned();
    let made = run_json(&data, &["backup", &name]);
    assert_eq!((&made["verified"], &made["messages"]), (&json!(true), &json!(2)), "{made}");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let length = fs::metadata(&file).unwrap().len();
    assert_eq!(code(&data, &["backup", &name]).0, Some(5), "never over what is there");
    assert_eq!(fs::metadata(&file).unwrap().len(), length);
    assert_eq!(databases(&server).await, ["esh3ar"], "no scratch database stays");
    let mut archive = tar::Archive::new(fs::File::open(&file).unwrap());
    let entries: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(entries, ["database.dump", "manifest.json"]);
    let backup_check = || {
        let checks = run_json(&data, &["doctor"]);
        let found = checks.as_array().unwrap().iter().find(|check| check["check"] == "backup");
        found.map(|check| check["state"].clone())
    };
    assert_eq!(backup_check(), Some(json!("ok")));
    let older = "UPDATE audit_log SET at = at - interval '27 hours' WHERE action = 'backup.create'";
    server.database().await.batch_execute(older).await.unwrap();
    assert_eq!(backup_check(), Some(json!("warn")));
    let later = server.send(&shop, "+967770000002", "after").await;
    let (status, text) = code(&data, &["restore", &name, "--yes"]);
    assert_eq!(status, Some(5), "{text}");
    assert!(text.contains("the embedded database is in use by esh3ar serve"), "{text}");
    assert_eq!(code(&data, &["restore", &name, "--check"]).0, Some(0), "a drill disturbs nobody");

    server.stop().await;
    assert_eq!(
        code(&data, &["restore", &name]).0,
        Some(5),
        "there is something, and nobody was asked"
    );
    let restored = run_json(&data, &["restore", &name, "--yes", "--reason", "drill"]);
    assert_eq!(restored["restored"], true, "{restored}");
    let old = restored["oldDatabase"].as_str().unwrap().to_owned();
    assert!(old.starts_with("esh3ar_before_"), "{restored}");
    server.launch().await;
    assert_eq!(databases(&server).await, ["esh3ar", &old], "the old one is kept");
    assert_eq!(server.status(&shop, &read).await, "delivered", "the same tokens open it");
    assert_eq!(run(&data, &["message", "show", &later]).status.code(), Some(4));
    let books = run_json(&data, &["audit", "delivery"]);
    assert_eq!(books["balanced"], true, "{books}");
    let log = run_json(&data, &["audit", "access", "--action", "backup.restore"]);
    assert_eq!(log[0]["reason"], "drill", "{log}");
    assert!(log[1].is_null(), "where it was begun is the old one: {log}");
    let nodes = server.database().await.query("SELECT pid FROM nodes", &[]).await.unwrap();
    assert_eq!(nodes.len(), 1, "only the process of now");
    let token = server.phone("+967770000002");
    let mut hub = server.hub(&token).await;
    let (_, found) = next_messages(&mut hub).await;
    assert_eq!((found.len(), id(&found[0])), (1, waits));

    assert_eq!(backup_check(), None, "a backup knows nothing of its own end");
    fs::remove_file(&file).unwrap();
    run_json(&data, &["backup", &name, "--no-verify"]);
    server.stop().await;
    server.launch().await;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while server.metric("esh3ar_last_backup_timestamp_seconds").await < 1.7e9 {
        assert!(tokio::time::Instant::now() < deadline, "the last backup is not told");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// A backup that is whole stays when only that cannot be recorded; one that cannot be recorded is not begun.
#[tokio::test]
async fn what_the_log_refuses_is_not_begun_and_what_is_whole_stays() {
    let server = Server::start().await;
    let database = server.database().await;
    let file = server.folder.path().join("all.tar");
    let backup = ["backup", file.to_str().unwrap(), "--no-verify"];
    let refuse = |what: &str| {
        format!("ALTER TABLE audit_log ADD CONSTRAINT is_full CHECK ({what}) NOT VALID")
    };
    database.batch_execute(&refuse("false")).await.unwrap();
    assert_eq!(code(&server.data(), &backup).0, Some(1));
    assert!(!file.exists());
    database.batch_execute("ALTER TABLE audit_log DROP CONSTRAINT is_full").await.unwrap();
    database.batch_execute(&refuse("details ? 'begun'")).await.unwrap();
    let (status, text) = code(&server.data(), &backup);
    assert!(status == Some(0) && text.contains("was not recorded"), "{text}");
    assert!(file.exists());
    let left = fs::read_dir(server.folder.path()).unwrap();
    let mut left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(!left.any(|name| name.ends_with(".part")));
}

/// As it would be after a restore that was cut off between two renames.
#[tokio::test]
async fn a_missing_database_is_not_made_anew_beside_those_of_a_restore() {
    let folder = Folder::seeded();
    let data = folder.data();
    run_json(&data, &["user", "add", "Shop"]);
    let mut server = Server::start_in(folder, &[]).await;
    let mut config = server.database_config();
    config.dbname("postgres");
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    let deadline = tokio::time::Instant::now() + DEADLINE;
    client.batch_execute("ALTER DATABASE esh3ar ALLOW_CONNECTIONS false").await.unwrap();
    loop {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'esh3ar'";
        client.query(end, &[]).await.unwrap();
        let rename = "ALTER DATABASE esh3ar RENAME TO esh3ar_before_20260131_120000";
        if client.batch_execute(rename).await.is_ok() {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    server.kill();
    for _ in 0..2 {
        let (status, text) = code(&data, &["user", "list"]);
        assert_eq!(status, Some(5), "{text}");
        assert!(text.contains("a restore left esh3ar_before_20260131_120000"), "{text}");
    }
}

/// The archive with another manifest.
fn forged(file: &Path, to: &Path, change: impl Fn(&mut Value)) {
    let mut archive = tar::Archive::new(fs::File::open(file).unwrap());
    let mut built = tar::Builder::new(fs::File::create(to).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        if path.as_os_str() == "manifest.json" {
            let mut manifest: Value = serde_json::from_slice(&bytes).unwrap();
            change(&mut manifest);
            bytes = manifest.to_string().into_bytes();
        }
        let mut header = entry.header().clone();
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        built.append_data(&mut header, path, &bytes[..]).unwrap();
    }
    built.finish().unwrap();
}

#[tokio::test]
async fn what_is_wrong_with_a_file_is_found_before_anything_is_replaced() {
    let folder = Folder::seeded();
    let data = folder.data();
    run_json(&data, &["user", "add", "Shop", "--permission", "SendMessages"]);
    run_json(&data, &["message", "send", "--from", "Shop", "--to", "+967770000001", "x"]);
    // Into a folder: called after the time, the older one goes, and what is no backup stays.
    let kept = folder.path().join("kept");
    fs::create_dir(&kept).unwrap();
    fs::write(kept.join("esh3ar-20200101T000000Z.tar"), "old").unwrap();
    fs::write(kept.join("notes.txt"), "mine").unwrap();
    let config = folder.path().join("esh3ar.toml");
    fs::write(&config, "[smtp]\npassword = \"geheim\"\nusername = \"u\"\n").unwrap();
    let config = config.to_str().unwrap();
    let folder_name = kept.to_str().unwrap();
    let arguments = ["--config", config, "backup", folder_name, "--keep", "1", "--no-verify"];
    assert_eq!(run_json(&data, &arguments)["verified"], false);
    let mut names: Vec<String> = fs::read_dir(&kept)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names.len(), 2, "{names:?}");
    let file = kept.join(&names[0]);
    let name = file.to_str().unwrap();
    assert!(!name.contains("2020") && names[1] == "notes.txt", "{names:?}");
    let new = kept.join("new.tar");
    let new = new.to_str().unwrap();
    assert_eq!(code(&data, &["backup", new, "--keep", "2"]).0, Some(2), "a file is not rotated");

    let bytes = fs::read(&file).unwrap();
    let wrong = folder.path().join("wrong.tar");
    let wrong_name = wrong.to_str().unwrap();
    // Refused before anything of it is read; and, if it is trusted, for what is wrong with it.
    let restore = |what: &str, wanted: i32| {
        let (status, text) = code(&data, &["restore", wrong_name, "--yes"]);
        assert_eq!(status, Some(5), "{what}: {text}");
        assert!(text.contains("is not authenticated"), "{what}: {text}");
        let (status, text) = code(&data, &["restore", wrong_name, "--yes", "--trust"]);
        assert_eq!(status, Some(wanted), "{what}: {text}");
    };
    fs::write(&wrong, &bytes[..bytes.len() / 2]).unwrap();
    restore("truncated", 1);
    fs::write(&wrong, "not a backup").unwrap();
    restore("something else", 1);
    let mut changed = bytes.clone();
    let secret = changed.windows(6).position(|some| some == b"geheim").unwrap();
    changed[secret] = b'G';
    fs::write(&wrong, &changed).unwrap();
    restore("changed", 1);
    forged(&file, &wrong, |manifest| manifest["schema"] = json!(99_999));
    restore("of a newer schema", 5);
    forged(&file, &wrong, |manifest| manifest["format"] = json!(2));
    restore("of a newer format", 5);
    forged(&file, &wrong, |manifest| manifest["tables"]["messages"] = json!(7));
    restore("with fewer rows than it should have", 1);
    assert_eq!(code(&data, &["restore", "/nowhere.tar"]).0, Some(4));
    let listed = run_json(&data, &["message", "list"]);
    assert_eq!(listed.as_array().unwrap().len(), 1, "nothing was replaced");

    let out = folder.path().join("configuration");
    let to = ["restore", name, "--configuration-to", out.to_str().unwrap()];
    assert!(run(&data, &to).status.success());
    assert_eq!(fs::read_to_string(out.join("secrets/smtp.password")).unwrap(), "geheim");
    assert!(fs::read_to_string(out.join("esh3ar.toml")).unwrap().starts_with("[smtp]"));
    assert_eq!(fs::metadata(out.join("esh3ar.toml")).unwrap().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_given_database_of_an_older_schema_is_backed_up_and_comes_back_up_to_date() {
    let server = Server::start().await;
    let database = server.database().await;
    let run = server.data().join("run");
    let url = |name: &str| format!("postgres://esh3ar@localhost/{name}?host={}", run.display());
    database.batch_execute("CREATE DATABASE old").await.unwrap();
    database.batch_execute("CREATE DATABASE fresh").await.unwrap();
    let mut config = tokio_postgres::Config::new();
    config.host_path(&run).user("esh3ar").dbname("old");
    let store = Store::new(config, 2).unwrap();
    let mut client = store.client().await.unwrap();
    migrate::run(&mut client, Some(9)).await.unwrap();
    client
        .batch_execute(
            "INSERT INTO business_users (id, name) VALUES (gen_random_uuid(), 'Shop');
             INSERT INTO nodes (id, role, host, pid, version, started_at, seen_at)
             VALUES ('\\x0102030405060708', 'gateway', 'other', 1, '0', now(), now())",
        )
        .await
        .unwrap();
    drop(client);
    store.close();
    let mut target = tokio_postgres::Config::new();
    target.host_path(&run).user("esh3ar").dbname("old");
    let databases = Databases::beside(&target).unwrap();
    assert!(databases.swap("not_there", "kept").await.is_err());
    assert!(databases.is_there("old").await.unwrap(), "both are renamed or neither is");
    assert!(!databases.is_there("kept").await.unwrap());
    databases.close();
    let file = server.folder.path().join("old.tar");
    let file = file.to_str().unwrap();
    let on = |name: &str, arguments: &[&str]| {
        let mut command = command(&server.data());
        command.env("ESH3AR__DATABASE__URL", url(name)).args(arguments).args(["-o", "json"]);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null), text)
    };
    let (status, made, text) = on("old", &["backup", file]);
    assert_eq!((status, &made["schema"]), (Some(0), &json!(9)), "{text}");
    let (status, _, text) = on("old", &["restore", file, "--yes"]);
    assert_eq!(status, Some(5), "a gateway elsewhere works on it: {text}");
    assert!(text.contains("gateway on other, process 1"), "{text}");
    let (status, restored, text) = on("fresh", &["restore", file]);
    assert_eq!(status, Some(0), "what is empty needs no word: {text}");
    assert!(restored["migrated"].as_array().unwrap().len() > 1, "{restored}");
    assert!(restored.get("oldDatabase").is_none(), "an empty one is not kept: {restored}");
    let (_, users, _) = on("fresh", &["user", "list"]);
    assert_eq!(users[0]["name"], "Shop", "{users}");
}

/// A server of its own with a given database, and a backup of it.
struct Given {
    server: Server,
    file: String,
}

impl Given {
    async fn new() -> Given {
        let server = Server::start().await;
        server.database().await.batch_execute("CREATE DATABASE mine").await.unwrap();
        let file = server.folder.path().join("mine.tar").to_str().unwrap().to_owned();
        let given = Given { server, file };
        given.run(&["migrate"]);
        given.run(&["user", "add", "Shop", "--permission", "SendMessages"]);
        given.run(&["message", "send", "--from", "Shop", "--to", "+967770000001", "x"]);
        let (status, _, text) = given.run(&["backup", &given.file.clone()]);
        assert_eq!(status, Some(0), "{text}");
        given
    }

    fn url(&self, user: &str) -> String {
        format!(
            "postgres://{user}@localhost/mine?host={}",
            self.server.data().join("run").display()
        )
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, Value, String) {
        self.run_as("esh3ar", arguments)
    }

    fn run_as(&self, user: &str, arguments: &[&str]) -> (Option<i32>, Value, String) {
        let mut command = command(&self.server.data());
        command.env("ESH3AR__DATABASE__URL", self.url(user)).args(arguments).args(["-o", "json"]);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null), text)
    }

    /// Somebody who is connected, as what.
    async fn connected(&self, name: &str) -> tokio_postgres::Client {
        let mut config: tokio_postgres::Config = self.url("esh3ar").parse().unwrap();
        config.application_name(name);
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    async fn databases(&self) -> Vec<String> {
        let sql =
            "SELECT datname::text FROM pg_database WHERE datname LIKE 'esh3ar\\_%' ORDER BY 1";
        let rows = self.server.database().await.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_connected_is_told_before_anything_is_restored() {
    let given = Given::new().await;
    let psql = given.connected("psql").await;
    let pid: i32 = psql.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let (status, _, text) = given.run(&["restore", &given.file, "--yes"]);
    assert_eq!(status, Some(5), "{text}");
    assert!(text.contains(&format!("psql as esh3ar (backend {pid})")), "{text}");
    assert!(text.contains("pg_terminate_backend"), "{text}");
    assert!(given.databases().await.is_empty(), "nothing was begun");
    let (_, log, _) = given.run(&["audit", "access", "--action", "backup.restore"]);
    assert_eq!(log, json!([]), "nothing was begun");
    drop(psql);
    // What only looks on is sent away, and what an earlier restore left behind is cleared away.
    let top = given.connected("esh3ar top/4711").await;
    let list = given.connected("esh3ar read/4712").await;
    let left = "CREATE DATABASE esh3ar_new_20260131_120000";
    given.server.database().await.batch_execute(left).await.unwrap();
    // Somebody's own that begins alike is none of these.
    let own = "CREATE DATABASE esh3ar_new_customers";
    given.server.database().await.batch_execute(own).await.unwrap();
    let (_, checks, _) = given.run(&["doctor"]);
    let told = checks.as_array().unwrap().iter().find(|check| check["check"] == "restore");
    let told = told.unwrap_or_else(|| panic!("{checks}"));
    assert!(told["found"].as_str().unwrap().contains("esh3ar_new_20260131_120000"), "{told}");
    let (status, restored, text) = given.run(&["restore", &given.file, "--yes"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("esh3ar_new_20260131_120000, left by an interrupted restore"), "{text}");
    let kept = restored["oldDatabase"].as_str().unwrap();
    assert_eq!(given.databases().await, [kept, "esh3ar_new_customers"], "{text}");
    for client in [top, list] {
        assert!(client.simple_query("SELECT 1").await.is_err(), "its connection was ended");
    }
    let (_, listed, _) = given.run(&["message", "list"]);
    assert_eq!(listed.as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_restore_at_a_time_is_at_work_on_a_server() {
    let given = Given::new().await;
    let mut target: tokio_postgres::Config = given.url("esh3ar").parse().unwrap();
    target.application_name("esh3ar restore/1");
    let databases = Databases::beside(&target).unwrap();
    let alone = databases.alone().await.unwrap();
    assert!(alone.is_some());
    let (status, _, text) = given.run(&["restore", &given.file, "--yes"]);
    assert_eq!(status, Some(5), "{text}");
    assert!(text.contains("another restore is running"), "{text}");
    drop(alone);
    databases.close();
    let deadline = std::time::Instant::now() + DEADLINE;
    while given.run(&["restore", &given.file, "--yes"]).0 != Some(0) {
        assert!(std::time::Instant::now() < deadline, "the lock ends with its connection");
    }
}

/// What is damaged is found by its sums: before a scratch database is made, which this user may not.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_found_before_anything_is_made_of_it() {
    let given = Given::new().await;
    let database = given.server.database().await;
    let poor = "CREATE ROLE poor LOGIN; GRANT pg_read_all_data TO poor";
    database.batch_execute(poor).await.unwrap();
    let (status, _, text) = given.run_as("poor", &["restore", &given.file, "--check"]);
    assert!(status == Some(1) && text.contains("cannot create a scratch database"), "{text}");
    let mut bytes = fs::read(&given.file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x20;
    fs::write(&given.file, &bytes).unwrap();
    for how in ["--check", "--yes"] {
        let (status, _, text) = given.run_as("poor", &["restore", &given.file, how]);
        assert_eq!(status, Some(5), "{text}");
        assert!(text.contains("it was altered"), "{text}");
        let (status, _, text) = given.run_as("poor", &["restore", &given.file, how, "--trust"]);
        assert_eq!(status, Some(1), "{text}");
        assert!(text.contains("database.dump is corrupted"), "{text}");
    }
    let (status, _, text) = given.run(&["restore", &given.file, "--yes"]);
    assert!(status == Some(5) && given.databases().await.is_empty(), "{text}");
}
