//! The private Postgres.

use std::{fs, os::unix::fs::MetadataExt as _};

use crate::support::{Folder, Server, command, run, run_json};

#[tokio::test]
async fn it_is_private_durable_and_not_run_by_root() {
    let server = Server::start().await;
    let database = server.database().await;
    for (setting, wanted) in [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("listen_addresses", ""),
        ("data_checksums", "on"),
    ] {
        let value: String =
            database.query_one("SELECT current_setting($1)", &[&setting]).await.unwrap().get(0);
        assert_eq!(value, wanted, "{setting}");
    }
    for folder in [server.data(), server.data().join("run"), server.data().join("postgres")] {
        let metadata = fs::metadata(&folder).unwrap();
        assert_eq!(metadata.mode() & 0o077, 0, "{} is open to others", folder.display());
        assert_ne!(metadata.uid(), 0, "{} belongs to root", folder.display());
    }
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let uid = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    assert!(!uid.split_whitespace().any(|number| number == "0"), "serve runs as root: {uid}");
}

#[tokio::test]
async fn a_postgres_left_behind_by_a_kill_is_no_hindrance() {
    let mut server = Server::start().await;
    run_json(&server.data(), &["user", "add", "survivor"]);
    let postmaster = || {
        let text = fs::read_to_string(server.folder.data().join("postgres/postmaster.pid"));
        text.unwrap().lines().next().unwrap().to_owned()
    };
    let before = postmaster();
    server.kill();
    assert!(fs::metadata(format!("/proc/{before}")).is_ok(), "the orphan lives");
    server.launch().await;
    let users = run_json(&server.data(), &["user", "list"]);
    assert_eq!(users[0]["name"], "survivor");
    server.kill();
    // A command copes with it too, and leaves nothing behind.
    assert_eq!(run_json(&server.data(), &["user", "list"]).as_array().unwrap().len(), 1);
    assert!(!server.data().join("postgres/postmaster.pid").exists());
}

#[tokio::test]
async fn data_of_another_version_are_refused() {
    let folder = Folder::new();
    run_json(&folder.data(), &["user", "list"]);
    let version = folder.data().join("postgres/PG_VERSION");
    fs::write(&version, "9\n").unwrap();
    let output = run(&folder.data(), &["user", "list"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("are of Postgres 9") && text.contains("pg_upgrade"), "{text}");
}

#[tokio::test]
async fn a_missing_postgres_is_told_with_what_to_install() {
    let folder = Folder::new();
    let mut command = command(&folder.data());
    command.args(["user", "list"]).env("ESH3AR__DATABASE__BIN_DIR", "/nowhere");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("apt install postgresql"), "{text}");
}

#[tokio::test]
async fn a_crash_in_the_middle_of_making_the_cluster_leaves_nothing_half() {
    let folder = Folder::new();
    run_json(&folder.data(), &["user", "list"]);
    let cluster = folder.data().join("postgres");
    fs::rename(&cluster, folder.data().join("postgres.new")).unwrap();
    fs::remove_file(folder.data().join("postgres.new/PG_VERSION")).unwrap();
    run_json(&folder.data(), &["user", "add", "fresh"]);
    assert!(!folder.data().join("postgres.new").exists());
}

#[tokio::test]
async fn a_long_path_does_not_overflow_the_socket() {
    let folder = Folder::new();
    let data = folder.path().join("d".repeat(100));
    run_json(&data, &["user", "add", "far away"]);
    let users = run_json(&data, &["user", "list"]);
    assert_eq!(users[0]["name"], "far away");
    assert!(!data.join("run").exists());
}
