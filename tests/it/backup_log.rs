//! Base backups and the log of the private Postgres: a restore to a time, what is refused, and what an interruption
//! leaves.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::{Value, json};

use crate::support::{Folder, Server, command, run, run_json, wait_for};

fn code(data: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = run(data, arguments);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A folder that the owner of the data folder may write.
fn place(folder: &Folder) -> String {
    let path = folder.path().join("backups");
    fs::create_dir(&path).unwrap();
    let owner = fs::metadata(folder.data()).unwrap();
    chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The names in a folder, sorted.
fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn files(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for name in names(path) {
        let path = path.join(name);
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

async fn now(server: &Server) -> String {
    let sql =
        r#"SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"#;
    server.database().await.query_one(sql, &[]).await.unwrap().get(0)
}

async fn drop_slot(server: &Server) {
    let sql = "SELECT pg_drop_replication_slot('esh3ar_backup')";
    server.database().await.query_one(sql, &[]).await.unwrap();
}

#[tokio::test]
async fn a_time_between_two_runs_is_restored_exactly() {
    let mut server = Server::start().await;
    let data = server.data();
    let place = place(&server.folder);
    let shop = server.user("Shop", "SendMessages,Chat");
    server.send(&shop, "+967770000001", "before").await;
    let made = run_json(&data, &["backup", &place, "--method", "auto"]);
    let found = (&made["newBase"], &made["verified"], &made["messages"]);
    assert_eq!(found, (&json!(true), &json!(true), &json!(1)), "{made}");
    let between = server.send(&shop, "+967770000001", "between").await;
    let time = now(&server).await;
    let after = server.send(&shop, "+967770000001", "after").await;
    let next = run_json(&data, &["backup", &place, "--method", "wal"]);
    let found = (&next["newBase"], &next["verified"], &next["base"]);
    assert_eq!(found, (&json!(false), &json!(true), &made["base"]), "{next}");
    // A full segment has 16 MiB; of one that was ended early only what was written is kept.
    assert!(next["bytes"].as_u64().unwrap() < 16 << 20, "{next}");
    let log = run_json(&data, &["audit", "access", "--action", "backup.create"]);
    assert_eq!(log[0]["details"]["key"], next["key"], "{log}");
    let (status, text) = code(&data, &["restore", &place, "--to", &time, "--yes"]);
    assert_eq!(status, Some(5), "{text}");
    assert!(text.contains("in use by esh3ar serve"), "{text}");

    server.stop().await;
    let checked = run_json(&data, &["restore", &place, "--to", "latest", "--check"]);
    let found = (&checked["restored"], &checked["messages"], &checked["unaccounted"]);
    assert_eq!(found, (&json!(false), &json!(3), &json!(0)), "{checked}");
    let (status, text) = code(&data, &["restore", &place, "--to", &time]);
    assert_eq!(status, Some(5), "there are data, and nobody was asked: {text}");
    let arguments = ["restore", &place, "--to", &time, "--yes", "--reason", "drill"];
    let restored = run_json(&data, &arguments);
    assert_eq!((&restored["restored"], &restored["messages"]), (&json!(true), &json!(2)));
    let old = PathBuf::from(restored["oldFolder"].as_str().unwrap());
    assert!(old.join("PG_VERSION").exists(), "{restored}");
    assert!(!data.join("restore").exists());
    server.launch().await;
    assert_eq!(run(&data, &["message", "show", &between]).status.code(), Some(0));
    assert_eq!(run(&data, &["message", "show", &after]).status.code(), Some(4));
    let books = run_json(&data, &["audit", "delivery"]);
    assert_eq!(books["balanced"], true, "{books}");
    let log = run_json(&data, &["audit", "access", "--action", "backup.restore"]);
    assert_eq!(log[0]["reason"], "drill", "{log}");
    server.send(&shop, "+967770000001", "goes on").await;
    let made = run_json(&data, &["backup", &place, "--method", "wal"]);
    assert_eq!(made["newBase"], true, "the log of what was restored is another: {made}");

    // As it would be after a restore that was cut off between two renames.
    server.stop().await;
    fs::rename(data.join("postgres"), data.join("aside")).unwrap();
    let (status, text) = code(&data, &["user", "list"]);
    assert_eq!(status, Some(5), "{text}");
    assert!(text.contains("a restore left postgres.before-"), "{text}");
    assert!(!data.join("postgres").exists(), "no empty one hides what was kept");
}

#[tokio::test]
async fn what_is_altered_missing_or_of_another_time_is_refused() {
    let folder = Folder::seeded();
    let data = folder.data();
    let place = place(&folder);
    run_json(&data, &["user", "add", "Shop", "--permission", "SendMessages"]);
    let text = "a-text-that-is-searched";
    run_json(&data, &["message", "send", "--from", "Shop", "--to", "+967770000001", text]);
    let backup = ["backup", &place, "--method", "wal", "--encrypt", "--no-verify"];
    let made = run_json(&data, &backup);
    assert_eq!((&made["encrypted"], &made["newBase"]), (&json!(true), &json!(true)), "{made}");
    let base = Path::new(&place).join(made["base"].as_str().unwrap());
    for file in files(&base) {
        let bytes = fs::read(&file).unwrap();
        assert!(bytes.starts_with(b"esh3ar-enc"), "{}", file.display());
        let is_clear = bytes.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(!is_clear, "{}", file.display());
    }
    let check = |to: &str| code(&data, &["restore", &place, "--check", "--to", to]);
    let (status, said) = check("latest");
    assert_eq!(status, Some(0), "{said}");
    for (to, wanted) in [
        ("2020-01-01T00:00:00Z", "the earliest possible time is"),
        ("2999-01-01T00:00:00Z", "the latest possible time is"),
    ] {
        let (status, said) = check(to);
        assert!(status == Some(5) && said.contains(wanted), "{to}: {status:?} {said}");
    }
    assert_eq!(check("sometime").0, Some(2));
    assert_eq!(code(&data, &["restore", &place, "--check"]).0, Some(2), "a folder needs a time");
    let trusted = ["restore", &place, "--to", "latest", "--trust"];
    assert_eq!(code(&data, &trusted).0, Some(2), "no folder is trusted without its codes");
    let file = base.join("base.tar");
    let (status, said) = code(&data, &["restore", file.to_str().unwrap(), "--yes"]);
    assert!(status == Some(5) && said.contains("base backup"), "{said}");

    let segment = base.join("wal").join(&names(&base.join("wal"))[0]);
    for path in [&segment, &file, &base.join("manifest.json")] {
        let bytes = fs::read(path).unwrap();
        let mut altered = bytes.clone();
        let middle = altered.len() / 2;
        altered[middle] ^= 1;
        fs::write(path, &altered).unwrap();
        let (status, said) = check("latest");
        assert_eq!(status, Some(5), "{}: {said}", path.display());
        fs::write(path, &bytes).unwrap();
    }
    let aside = folder.path().join("aside");
    fs::rename(&segment, &aside).unwrap();
    let (status, said) = check("latest");
    assert_eq!(status, Some(4), "{said}");
    fs::rename(&aside, &segment).unwrap();

    let keys = folder.path().join("keys");
    fs::rename(data.join("secrets.key"), &keys).unwrap();
    let (status, said) = check("latest");
    assert!(status == Some(5) && said.contains("not in the key file"), "{said}");
    let keys = keys.to_str().unwrap();
    let given = ["restore", &place, "--check", "--to", "latest", "--key-file", keys];
    let (status, said) = code(&data, &given);
    assert_eq!(status, Some(0), "{said}");

    // On a new machine.
    let other = Folder::new();
    let new = other.data();
    fs::create_dir(&new).unwrap();
    let owner = fs::metadata(&data).unwrap();
    chown(&new, Some(owner.uid()), Some(owner.gid())).unwrap();
    let given = ["restore", &place, "--to", "latest", "--key-file", keys];
    let restored = run_json(&new, &given);
    assert_eq!((&restored["messages"], &restored["oldFolder"]), (&json!(1), &Value::Null));
    assert_eq!(run_json(&new, &["message", "list"]).as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn lost_log_and_an_interruption_lead_to_a_new_base_backup() {
    let server = Server::start().await;
    let data = server.data();
    let place = place(&server.folder);
    let shop = server.user("Shop", "SendMessages,Chat");
    let backup = ["backup", &place, "--method", "wal", "--no-verify"];
    let first = run_json(&data, &backup);
    server.send(&shop, "+967770000001", "one").await;
    drop_slot(&server).await;
    let second = run_json(&data, &backup);
    assert_eq!(second["newBase"], true, "{second}");
    assert_ne!(first["base"], second["base"]);

    drop_slot(&server).await;
    let begun = || names(Path::new(&place)).iter().any(|name| name.starts_with(".base-"));
    let mut killed = command(&data).args(backup).stderr(Stdio::null()).spawn().unwrap();
    wait_for("a base backup that is being made", || {
        (begun() || killed.try_wait().unwrap().is_some()).then_some(())
    })
    .await;
    let _ = killed.kill();
    killed.wait().unwrap();
    let check = ["restore", &place, "--to", "latest", "--check"];
    assert_eq!(run_json(&data, &check)["messages"], 1, "what was there before can be restored");

    server.send(&shop, "+967770000001", "two").await;
    let mut next = command(&data);
    let next = next.args(["backup", &place, "--method", "wal", "-o", "json"]);
    let next = next.env("ESH3AR__BACKUP__KEEP_BASES", "1").output().unwrap();
    assert!(next.status.success(), "{}", String::from_utf8_lossy(&next.stderr));
    assert!(!begun(), "{:?}", names(Path::new(&place)));
    let bases = names(Path::new(&place)).iter().filter(|name| name.starts_with("base-")).count();
    assert_eq!(bases, 1, "older ones go once a newer one is proven");
    assert_eq!(run_json(&data, &check)["messages"], 2);
    assert_eq!(code(&data, &["backup", "/nowhere", "--method", "wal"]).0, Some(2));
}
