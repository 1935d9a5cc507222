//! The private Postgres.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::support::{BINARY, DEADLINE, Folder, Server, command, run, run_json};

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
        ("idle_in_transaction_session_timeout", "30s"),
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

/// Looking makes nothing: a folder that was not meant is told from an empty installation.
#[tokio::test]
async fn what_only_looks_begins_no_installation() {
    let folder = Folder::new();
    for data in [folder.data(), folder.path().join("not/there")] {
        for arguments in [
            &["user", "list"][..],
            &["message", "list"],
            &["message", "explain", "01a20a1b-7317-71ae-8f98-eacc86509605"],
            &["dlq", "list"],
            &["audit", "delivery"],
            &["mobile", "export", "+967771234567"],
            &["token", "revoke", "01a20a1b-7317-71ae-8f98-eacc86509605"],
            &["migrate", "--status"],
            &["top", "--once"],
            &["backup", folder.path().join("file.tar").to_str().unwrap()],
        ] {
            let output = run(&data, arguments);
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(4), "{arguments:?}: {text}");
            let wanted = format!("no installation of esh3ar in {}", data.display());
            assert!(
                text.contains(&wanted) && text.contains("esh3ar init"),
                "{arguments:?}: {text}"
            );
        }
        let output = run(&data, &["doctor", "-o", "json"]);
        let checks: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let of_it = checks.as_array().unwrap().iter().find(|check| check["check"] == "database");
        assert!(of_it.unwrap()["found"].as_str().unwrap().contains("no installation"), "{checks}");
        let left = fs::read_dir(&data).map_or(0, Iterator::count);
        assert_eq!(left, 0, "nothing is made in {}", data.display());
    }
    assert!(!folder.path().join("not").exists() && !folder.path().join("file.tar").exists());
    run_json(&folder.data(), &["user", "add", "first"]);
    assert_eq!(run_json(&folder.data(), &["user", "list"]).as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn data_of_another_version_are_refused() {
    let folder = Folder::new();
    run_json(&folder.data(), &["user", "add", "first"]);
    let version = folder.data().join("postgres/PG_VERSION");
    fs::write(&version, "9\n").unwrap();
    let output = run(&folder.data(), &["user", "list"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("belongs to Postgres 9") && text.contains("pg_upgrade"), "{text}");
}

/// As when the system gets a newer Postgres while the data's own is still there.
#[tokio::test]
async fn programs_of_the_datas_version_are_preferred() {
    let folder = Folder::new();
    run_json(&folder.data(), &["user", "add", "stays"]);
    let newer = folder.path().join("newer");
    fs::create_dir(&newer).unwrap();
    for name in ["postgres", "initdb"] {
        let program = newer.join(name);
        fs::write(&program, "#!/bin/sh\necho 'postgres (PostgreSQL) 99.1'\n").unwrap();
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&newer, PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", newer.display(), std::env::var("PATH").unwrap());
    let output = command(&folder.data()).args(["user", "list"]).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut command = command(&folder.data());
    command.args(["user", "list"]).env("ESH3AR__DATABASE__BIN_DIR", &newer);
    assert_eq!(command.output().unwrap().status.code(), Some(78), "a given folder is the only one");
}

#[tokio::test]
async fn the_log_holds_no_phone_numbers() {
    let server = Server::start().await;
    let database = server.database().await;
    let phone = "+4790011223";
    // A refused row and a slow statement, each of which Postgres would by default log whole.
    let refused = database
        .execute("INSERT INTO mobile_users (phone) VALUES ($1)", &[&phone])
        .await
        .unwrap_err();
    assert!(refused.as_db_error().unwrap().detail().unwrap().contains(phone));
    database.query("SELECT pg_sleep(1.1), $1::text", &[&phone]).await.unwrap();
    let log = fs::read_to_string(server.data().join("postgres.log")).unwrap();
    assert!(log.contains("violates not-null") && log.contains("duration: "), "{log}");
    assert!(!log.contains("90011223"), "{log}");
}

#[tokio::test]
async fn a_missing_postgres_is_told_with_what_to_install() {
    let folder = Folder::new();
    let mut command = command(&folder.data());
    command.args(["user", "add", "x"]).env("ESH3AR__DATABASE__BIN_DIR", "/nowhere");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("apt install postgresql"), "{text}");
}

#[tokio::test]
async fn a_crash_in_the_middle_of_making_the_cluster_leaves_nothing_half() {
    let folder = Folder::new();
    run_json(&folder.data(), &["user", "add", "first"]);
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

#[tokio::test]
async fn the_short_socket_path_does_not_follow_tmpdir() {
    let folder = Folder::new();
    let data = folder.path().join("d".repeat(100));
    let elsewhere = folder.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::set_permissions(&elsewhere, PermissionsExt::from_mode(0o1777)).unwrap();
    let mut command = command(&data);
    let output = command.args(["user", "add", "x"]).env("TMPDIR", &elsewhere).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fs::read_dir(&elsewhere).unwrap().next().is_none(), "a command elsewhere misses it");
}

/// The holder of the lock is known a moment after it has it.
#[tokio::test]
async fn a_server_waits_for_a_holder_that_has_not_said_what_it_is() {
    for word in ["", "999999999 serve\n"] {
        let folder = Folder::new();
        run_json(&folder.data(), &["user", "add", "x"]);
        let path = folder.data().join("lock");
        fs::write(&path, word).unwrap();
        let lock = fs::File::open(&path).unwrap();
        lock.try_lock().unwrap();
        let release = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(500));
            drop(lock);
        });
        let mut server = Server::start_in(folder, &[]).await;
        release.join().unwrap();
        assert_eq!(server.stop().await, Some(0));
    }
}

/// Whoever owns the server for a moment must not stop it under a command that has just come.
#[tokio::test]
async fn commands_that_come_and_go_do_not_stop_the_server_under_each_other() {
    let folder = Folder::new();
    run_json(&folder.data(), &["user", "add", "one"]);
    let data = folder.data();
    let faults: Vec<String> = std::thread::scope(|scope| {
        let series: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let outputs = (0..6).map(|_| run(&data, &["user", "list"]));
                    let failed = outputs.filter(|output| !output.status.success());
                    failed
                        .map(|output| String::from_utf8_lossy(&output.stderr).into_owned())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        series.into_iter().flat_map(|series| series.join().unwrap()).collect()
    });
    assert!(faults.is_empty(), "{faults:?}");
}

#[tokio::test]
async fn a_refusal_that_waiting_does_not_mend_is_told() {
    let folder = Folder::new();
    run_json(&folder.data(), &["user", "add", "first"]);
    fs::write(folder.data().join("postgres/pg_hba.conf"), "local all all reject\n").unwrap();
    let mut child = command(&folder.data())
        .args(["user", "list"])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + DEADLINE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let text = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    assert_eq!(status.code(), Some(69), "{text}");
    assert!(text.contains("pg_hba.conf rejects"), "{text}");
}

#[tokio::test]
async fn the_words_of_a_failed_start_are_of_that_start() {
    let folder = Folder::new();
    run_json(&folder.data(), &["user", "add", "first"]);
    let log = folder.data().join("postgres.log");
    fs::write(&log, "an old story\n".repeat(10)).unwrap();
    let settings = folder.data().join("postgres/postgresql.auto.conf");
    fs::write(&settings, "no_such_setting = 1\n").unwrap();
    let output = run(&folder.data(), &["user", "list"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "no restart mends it: {text}");
    assert!(text.contains("no_such_setting") && !text.contains("an old story"), "{text}");
}

/// Only root makes folders for another user, so there is nothing to see for anybody else.
#[tokio::test]
async fn a_strict_umask_of_root_does_not_close_the_way() {
    let folder = Folder::new();
    let data = folder.path().join("a/b/data");
    let output = Command::new("sh")
        .args(["-c", "umask 077; exec \"$0\" --data-dir \"$1\" user add x"])
        .args([Path::new(BINARY), &data])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A folder that was copied without its modes or its empty folders, or whose pid file names a process that
/// another program has got meanwhile, is mended; what no restart mends ends with the status on which systemd
/// does not restart.
#[tokio::test]
async fn a_damaged_folder_is_mended_or_told_for_good() {
    use std::os::unix::process::CommandExt as _;
    let folder = Folder::new();
    run_json(&folder.data(), &["user", "add", "survivor"]);
    let cluster = folder.data().join("postgres");
    let owner = fs::metadata(&cluster).unwrap();
    let mut other =
        Command::new("sleep").arg("600").uid(owner.uid()).gid(owner.gid()).spawn().unwrap();
    let spoil = || {
        fs::set_permissions(&cluster, PermissionsExt::from_mode(0o755)).unwrap();
        fs::set_permissions(folder.data(), PermissionsExt::from_mode(0o777)).unwrap();
        for empty in ["pg_notify", "pg_twophase", "pg_logical/mappings", "pg_tblspc"] {
            fs::remove_dir(cluster.join(empty)).unwrap();
        }
        let text =
            format!("{}\n{}\n1764466000\n5432\n/run\n\n  1  2\n", other.id(), cluster.display());
        for file in [cluster.join("postmaster.pid"), folder.data().join("run/.s.PGSQL.5432.lock")] {
            fs::write(&file, &text).unwrap();
            std::os::unix::fs::chown(&file, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
    };
    let checks = || {
        let output = run(&folder.data(), &["doctor", "-o", "json"]);
        let checks: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = checks.as_array().unwrap().iter();
        let of_it = checks.filter(|check| check["check"] == "database folder");
        of_it.map(|c| format!("{} {}", c["state"], c["found"])).collect::<Vec<_>>()
    };
    spoil();
    let told = checks();
    assert_eq!(told.len(), 6, "{told:?}");
    for part in ["0755", "pg_notify", "pg_logical/mappings", "another program"] {
        assert!(
            told.iter().any(|one| one.contains("warn") && one.contains(part)),
            "{part}: {told:?}"
        );
    }
    assert!(checks().is_empty(), "opening it mends it");
    spoil();
    assert_eq!(run_json(&folder.data(), &["user", "list"])[0]["name"], "survivor");
    for path in [&folder.data(), &cluster] {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o700, "{}", path.display());
    }
    spoil();
    let mut server = Server::start_in(folder, &[]).await;
    assert!(server.log().contains("names the process"), "{}", server.log());
    assert_eq!(server.stop().await, Some(0));
    let _ = other.kill();
    let _ = other.wait();

    let data = server.data();
    let cluster = data.join("postgres");
    let refused = |what: &str| {
        for arguments in [&["user", "list"][..], &["serve", "--listen", "127.0.0.1:0"]] {
            let output = command(&data).args(arguments).output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(78), "{what}: {text}");
            assert!(text.contains(what), "{text}");
        }
    };
    let (control, away) = (cluster.join("global/pg_control"), data.join("away"));
    fs::rename(&control, &away).unwrap();
    refused("global/pg_control");
    let output = run(&data, &["doctor", "-o", "json"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("database folder") && text.contains("is missing"), "{text}");
    fs::rename(&away, &control).unwrap();
    let settings = fs::read_to_string(cluster.join("postgresql.conf")).unwrap();
    fs::write(cluster.join("postgresql.conf"), format!("{settings}\nno_such_setting = 1\n"))
        .unwrap();
    refused("contains errors");
    fs::write(cluster.join("postgresql.conf"), settings).unwrap();
    assert_eq!(run_json(&data, &["user", "list"])[0]["name"], "survivor");
}
