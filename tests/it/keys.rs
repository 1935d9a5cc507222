//! The keys outside the database: what a dump contains, what rotation keeps, and what a lost or foreign key means.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use serde_json::{Value, json};

use crate::support::{Folder, Server, command, in_cluster, run, run_json};

fn code(data: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = run(data, arguments);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|some| some == part)
}

fn doctor(data: &Path) -> Value {
    let output = run(data, &["doctor", "-o", "json"]);
    let checks: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = checks.as_array().unwrap().iter().find(|check| check["check"] == "key file");
    found.unwrap_or_else(|| panic!("{checks}"))["state"].clone()
}

/// The row of the table, and the secret in it.
async fn stored(server: &Server) -> (Vec<u8>, Option<Vec<u8>>, bool) {
    let sql = "SELECT value, sealed, value_is_secret FROM secrets WHERE name = 'connection_tokens'";
    let row = server.database().await.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1), row.get(2))
}

fn open(data: &Path, sealed: &[u8]) -> Vec<u8> {
    let ring = esh3ar::secrets::KeyRing::load(&data.join("secrets.key")).unwrap();
    let purpose = esh3ar::secrets::KeyPurpose::SecretsTable;
    ring.open(purpose, b"connection_tokens", sealed).unwrap().to_vec()
}

#[tokio::test]
async fn a_dump_alone_opens_no_secret() {
    let server = Server::start().await;
    let data = server.data();
    assert_eq!(fs::metadata(data.join("secrets.key")).unwrap().mode() & 0o777, 0o600);
    let (value, sealed, is_secret) = stored(&server).await;
    let secret = open(&data, &sealed.unwrap());
    assert!(!is_secret && value != secret, "the plain column has other bytes");
    assert_eq!(doctor(&data), "ok");
    let text = fs::read_to_string(data.join("secrets.key")).unwrap();
    let key = text.lines().last().unwrap().split(' ').nth(2).unwrap().to_owned();
    let file = server.folder.path().join("all.tar");
    run_json(&data, &["backup", file.to_str().unwrap(), "--no-verify"]);
    // The dump is compressed: of the table the database itself gives the text.
    let database = server.database().await;
    let row = database.query_one("SELECT string_agg(s::text, ' ') FROM secrets s", &[]).await;
    let dump: String = row.unwrap().get(0);
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!dump.contains(&hex), "{dump}");
    let bytes = fs::read(&file).unwrap();
    assert!(!contains(&bytes, key.as_bytes()), "the key is not in the backup");
}

#[tokio::test]
async fn a_plain_secret_is_sealed_and_stays_readable_while_an_older_version_runs() {
    let mut server = Server::start().await;
    let data = server.data();
    server.stop().await;
    server.launch().await;
    // As an older version left it, and as one that still runs is listed.
    let database = server.database().await;
    let older = "
        UPDATE secrets SET value = decode(repeat('ab', 32), 'hex'), sealed = NULL, value_is_secret = true;
        INSERT INTO nodes (id, role, host, pid, version, started_at, seen_at)
        VALUES ('\\x0102030405060708', 'gateway', 'other', 1, '0', now(), now())";
    database.batch_execute(older).await.unwrap();
    drop(database);
    server.stop().await;
    server.launch().await;
    let (value, sealed, is_secret) = stored(&server).await;
    assert_eq!(value, [0xab; 32], "the older version reads it");
    assert!(is_secret);
    assert_eq!(open(&data, &sealed.unwrap()), [0xab; 32]);
    let gone = "DELETE FROM nodes WHERE version = '0'";
    server.database().await.batch_execute(gone).await.unwrap();
    server.stop().await;
    server.launch().await;
    let (value, sealed, is_secret) = stored(&server).await;
    assert!(value != [0xab; 32] && !is_secret);
    assert_eq!(open(&data, &sealed.unwrap()), [0xab; 32], "the secret has not changed");
}

#[tokio::test]
async fn keys_are_rotated_while_it_serves_and_forgotten_when_nothing_needs_them() {
    let mut server = Server::start().await;
    let data = server.data();
    let (_, sealed, _) = stored(&server).await;
    let secret = open(&data, &sealed.unwrap());
    let file = server.folder.path().join("all.tar");
    let name = file.to_str().unwrap();
    let made = run_json(&data, &["backup", name, "--no-verify"]);
    let keys = run_json(&data, &["secrets", "status"]);
    let first = keys[0]["key"].as_str().unwrap().to_owned();
    assert_eq!((&keys[0]["current"], &keys[0]["secrets"]), (&json!(true), &json!(1)), "{keys}");
    assert_eq!(made["key"], first.as_str());
    assert_eq!(code(&data, &["secrets", "forget", &first]).0, Some(5), "secrets need it");

    // As if the command had been interrupted before it sealed anything.
    let keys = run_json(&data, &["secrets", "rotate", "--add-only"]);
    assert_eq!((&keys[0]["secrets"], &keys[1]["secrets"]), (&json!(1), &json!(0)), "{keys}");
    let (status, text) = code(&data, &["secrets", "forget", &first]);
    assert!(status == Some(5) && text.contains("--reseal-only"), "{text}");
    let keys = run_json(&data, &["secrets", "rotate", "--reseal-only", "--reason", "drill"]);
    assert_eq!((&keys[0]["secrets"], &keys[1]["secrets"]), (&json!(0), &json!(1)), "{keys}");
    let second = keys[1]["key"].as_str().unwrap().to_owned();
    assert_eq!(code(&data, &["secrets", "forget", &second]).0, Some(5), "it is the current one");
    assert_eq!(open(&data, &stored(&server).await.1.unwrap()), secret);
    assert_eq!(code(&data, &["restore", name, "--check"]).0, Some(0), "the older key is kept");

    let (status, text) = code(&data, &["secrets", "forget", &first]);
    assert!(status == Some(5) && text.contains("backups were made with key"), "{text}");
    let keys = run_json(&data, &["secrets", "forget", &first, "--backups-gone"]);
    assert_eq!(keys.as_array().unwrap().len(), 1, "{keys}");
    let (status, text) = code(&data, &["restore", name, "--check"]);
    assert!(status == Some(5) && text.contains(&first), "{text}");
    assert_eq!(code(&data, &["secrets", "forget", &first]).0, Some(4));
    assert_eq!(code(&data, &["secrets", "forget", "x"]).0, Some(2));
    assert_eq!(code(&data, &["secrets", "init"]).0, Some(5), "never over an existing file");
    let log = run_json(&data, &["audit", "access", "--action", "secret"]);
    let actions: Vec<&str> =
        log.as_array().unwrap().iter().map(|e| e["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["secret.forget", "secret.rotate", "secret.rotate"], "{log}");
    assert_eq!(log[1]["reason"], "drill");
    server.stop().await;
    server.launch().await;
    assert_eq!(open(&data, &stored(&server).await.1.unwrap()), secret);
}

#[tokio::test]
async fn a_missing_wrong_or_exposed_key_is_an_error_at_the_start_that_says_what_to_do() {
    if in_cluster() {
        return;
    }
    let mut server = Server::start().await;
    let data = server.data();
    let before = open(&data, &stored(&server).await.1.unwrap());
    server.stop().await;
    let key = data.join("secrets.key");
    let kept = server.folder.path().join("kept.key");
    let serve = || code(&data, &["serve", "--listen", "127.0.0.1:0"]);

    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let (status, text) = serve();
    assert!(status == Some(78) && text.contains("chmod"), "{text}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();

    fs::rename(&key, &kept).unwrap();
    let (status, text) = serve();
    assert!(status == Some(78) && text.contains("--new-secrets"), "{text}");
    assert!(!key.exists(), "no new key hides that the old one is lost");
    assert_eq!(doctor(&data), "FAIL");
    // The owner of the data folder writes the file, whoever runs the tests.
    let (status, text) = code(&data, &["secrets", "init"]);
    assert_eq!(status, Some(0), "{text}");
    let (status, text) = serve();
    assert!(status == Some(78) && text.contains("which is not in the key file"), "{text}");

    let (status, text) = code(&data, &["secrets", "init", "--new-secrets"]);
    assert_eq!(status, Some(5), "nobody was asked: {text}");
    run_json(&data, &["secrets", "init", "--new-secrets", "--yes", "--reason", "lost"]);
    server.launch().await;
    assert_ne!(open(&data, &stored(&server).await.1.unwrap()), before);
    let log = run_json(&data, &["audit", "access", "--action", "secret.renew"]);
    assert_eq!(log[0]["reason"], "lost", "{log}");
}

#[tokio::test]
async fn an_encrypted_backup_moves_to_another_machine_with_its_key_file() {
    let mut server = Server::start().await;
    let data = server.data();
    let (_, sealed, _) = stored(&server).await;
    let secret = open(&data, &sealed.unwrap());
    let name = server.folder.path().join("all.tar").to_str().unwrap().to_owned();
    run_json(&data, &["user", "add", "A rare name of a shop"]);
    let made = run_json(&data, &["backup", &name, "--encrypt"]);
    assert_eq!((&made["encrypted"], &made["verified"]), (&json!(true), &json!(true)), "{made}");
    let bytes = fs::read(&name).unwrap();
    assert!(!contains(&bytes, b"database.dump") && !contains(&bytes, b"PGDMP"));
    assert_eq!(code(&data, &["restore", &name, "--check"]).0, Some(0));
    server.stop().await;

    let other = Folder::seeded();
    let there = other.data();
    for arguments in [&["restore", &name][..], &["restore", &name, "--trust"]] {
        let (status, text) = code(&there, arguments);
        assert!(status == Some(5) && text.contains("--key-file"), "{text}");
    }
    // Readable for the caller only, who may be root.
    let key = other.path().join("old.key");
    fs::write(&key, fs::read(data.join("secrets.key")).unwrap()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let restored = run_json(&there, &["restore", &name, "--key-file", key.to_str().unwrap()]);
    assert_eq!(restored["restored"], true, "{restored}");
    fs::remove_file(&key).unwrap();
    let moved = Server::start_in(other, &[]).await;
    assert_eq!(
        open(&there, &stored(&moved).await.1.unwrap()),
        secret,
        "sealed with the key of here"
    );
    let users = run_json(&there, &["user", "list"]);
    assert!(users.to_string().contains("A rare name of a shop"), "{users}");
}

#[tokio::test]
async fn a_trusted_backup_without_its_key_gets_new_secrets() {
    let mut server = Server::start().await;
    let data = server.data();
    let name = server.folder.path().join("all.tar").to_str().unwrap().to_owned();
    run_json(&data, &["backup", &name, "--no-verify"]);
    server.stop().await;
    let other = Folder::seeded();
    let (status, text) = code(&other.data(), &["restore", &name]);
    assert!(status == Some(5) && text.contains("--trust"), "{text}");
    let (status, text) = code(&other.data(), &["restore", &name, "--trust"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("is made anew"), "{text}");
    let there = other.data();
    let moved = Server::start_in(other, &[]).await;
    open(&there, &stored(&moved).await.1.unwrap());
    assert_eq!(doctor(&there), "ok");
}

#[tokio::test]
async fn a_database_of_ones_own_needs_a_key_file_for_backups() {
    let server = Server::start().await;
    server.database().await.batch_execute("CREATE DATABASE mine").await.unwrap();
    let url =
        format!("postgres://esh3ar@localhost/mine?host={}", server.data().join("run").display());
    let folder = Folder::new();
    let with = |arguments: &[&str], key: Option<&Path>| {
        let mut command = command(&folder.data());
        command.env("ESH3AR__DATABASE__URL", &url).args(arguments);
        if let Some(key) = key {
            command.env("ESH3AR__SECRETS__KEY_FILE", key);
        }
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(with(&["migrate"], None).0, Some(0));
    let file = folder.path().join("mine.tar");
    let file = file.to_str().unwrap();
    let (status, text) = with(&["backup", file], None);
    assert!(status == Some(78) && text.contains("esh3ar secrets init"), "{text}");
    let key = folder.path().join("own.key");
    let (status, text) = with(&["backup", file], Some(&key));
    assert!(status == Some(78) && text.contains("does not exist"), "{text}");
    assert_eq!(with(&["secrets", "init", key.to_str().unwrap()], None).0, Some(0));
    assert_eq!(with(&["backup", file], Some(&key)).0, Some(0));
    assert_eq!(with(&["restore", file, "--check"], Some(&key)).0, Some(0));
}
