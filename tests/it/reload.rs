//! `esh3ar reload`: what can change while it runs does, what cannot is named, a mistake changes nothing.

use std::{fs, path::PathBuf, process::Output, time::Instant};

use serde_json::{Value, json};

use crate::support::{
    DEADLINE, Folder, Server,
    cluster::{Engines, Worker},
    command, number, run,
    smtp::{Mood, SmtpSink},
};

/// What every process of a test is told by its environment, and these are to read from a file.
const LIMITS: [&str; 3] = [
    "ESH3AR__LIMITS__MESSAGES_PER_MINUTE",
    "ESH3AR__LIMITS__MESSAGES_PER_HOUR",
    "ESH3AR__LIMITS__MESSAGES_PER_SECOND",
];

/// A server that reads its limits from a file.
struct Ground {
    server: Server,
    file: PathBuf,
}

impl Ground {
    async fn start(text: &str) -> Ground {
        let folder = Folder::seeded();
        let file = folder.path().join("esh3ar.toml");
        fs::write(&file, text).unwrap();
        let path = file.display().to_string();
        let told = [LIMITS.map(|name| (name, "")).as_slice(), &[("ESH3AR_CONFIG", &path)]].concat();
        Ground { server: Server::start_in(folder, &told).await, file }
    }

    fn write(&self, text: &str) {
        fs::write(&self.file, text).unwrap();
    }

    fn reload(&self) -> Output {
        self.server.command().args(["reload", "-o", "json"]).output().unwrap()
    }

    /// What the one process says that took its configuration up.
    fn reloaded(&self) -> Value {
        let output = self.reload();
        assert!(output.status.success(), "{output:?}");
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(said.as_array().unwrap().len(), 1, "{said}");
        said[0].clone()
    }

    /// How many of these are let through.
    async fn passed(&self, token: &str, wanted: usize) -> usize {
        let mut passed = 0;
        for n in 0..wanted {
            let body = json!({ "to": number(n), "content": "x" }).to_string();
            let (status, _) =
                self.server.request("POST", "/api/v1/messages", Some(token), Some(&body)).await;
            assert!(status == 202 || status == 429, "{status}");
            passed += usize::from(status == 202);
        }
        passed
    }
}

#[tokio::test]
async fn a_raised_limit_lets_more_through_and_a_mistake_changes_nothing() {
    // Per hour: nothing becomes free while this runs.
    let ground = Ground::start("[limits]\nmessages_per_hour = 3\n").await;
    ground.server.expect_error("configuration not applied");
    let shop = ground.server.user("shop", "SendMessages");
    let since = "esh3ar_config_last_reload_success_timestamp_seconds";
    assert!(ground.server.metric(since).await > 1.0e9, "when it started is a time too");
    assert_eq!(ground.passed(&shop, 5).await, 3);

    let text = "[limits]\nmessages_per_hour = 7\nqueue_depth = 50\n[log]\nformat = \"json\"\n";
    ground.write(text);
    let said = ground.reloaded();
    assert_eq!((&said["process"], &said["state"]), (&json!("serve"), &json!("taken up")));
    assert_eq!(said["changed"], json!(["limits.messages_per_hour", "limits.queue_depth"]));
    assert_eq!(said["waiting"], json!(["log.format"]));
    assert_eq!(ground.passed(&shop, 6).await, 4, "three of seven had passed before");

    // Read again as it is: nothing is new, and what waits still waits.
    let said = ground.reloaded();
    assert_eq!((&said["changed"], &said["waiting"]), (&json!([]), &json!(["log.format"])));

    // A mistake: the command finds it and does not even ask.
    ground.write("[limits]\nmessages_per_hour = \"many\"\n");
    let output = ground.reload();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert_eq!(ground.passed(&shop, 1).await, 0);
    // Told by somebody else, the process refuses it itself.
    let pid = nix::unistd::Pid::from_raw(i32::try_from(ground.server.pid()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    let refused = "esh3ar_config_reloads_total{result=\"refused\"}";
    let deadline = Instant::now() + DEADLINE;
    while ground.server.metric(refused).await < 1.0 {
        assert!(Instant::now() < deadline, "{}", ground.server.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(ground.passed(&shop, 1).await, 0);
    let taken_up = "esh3ar_config_reloads_total{result=\"taken_up\"}";
    assert!((ground.server.metric(taken_up).await - 2.0).abs() < 0.1);

    // No limit at all, and back.
    ground.write("[limits]\nmessages_per_hour = 0\n");
    assert_eq!(ground.reloaded()["waiting"], json!([]));
    assert_eq!(ground.passed(&shop, 4).await, 4);
    ground.write("[limits]\nmessages_per_hour = 8\n");
    ground.reloaded();
    assert_eq!(ground.passed(&shop, 4).await, 1, "what passed without a limit was not counted");
}

/// What the process finds wrong where the command does not: it is told so, with the same exit status.
#[tokio::test]
async fn what_the_process_refuses_is_the_command_s_failure() {
    let ground = Ground::start("").await;
    ground.server.expect_error("configuration not applied");
    ground.write("[log]\nlevell = 1\n");
    let good = ground.server.folder.path().join("good.toml");
    fs::write(&good, "").unwrap();
    let output = ground
        .server
        .command()
        .env("ESH3AR_CONFIG", &good)
        .args(["reload", "-o", "json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said[0]["state"], "refused");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("did you mean log.level?") && errors.contains("hint:"), "{errors}");

    // Mail goes where the configuration says now, its password included.
    let sink = SmtpSink::start(Mood::Kind).await;
    ground.write(&format!(
        "[smtp]\nhost = \"127.0.0.1\"\nport = {}\ntls = \"none\"\nfrom = \"a@x.org\"\nto = \"b@x.org\"\n",
        sink.port
    ));
    let said = ground.reloaded();
    assert!(said["changed"].as_array().unwrap().contains(&json!("smtp.host")), "{said}");
    let page = crate::support::get(format!("{}/health", ground.server.metrics)).await.unwrap();
    let page = page.text().await.unwrap();
    assert!(page.contains("mail"), "{page}");
    assert!(sink.connections.load(std::sync::atomic::Ordering::SeqCst) > 0);
    let text = fs::read_to_string(&ground.file).unwrap();
    ground.write(&format!("{text}username = \"u\"\npassword = \"one\"\n"));
    ground.reloaded();
    ground.write(&format!("{text}username = \"u\"\npassword = \"two\"\n"));
    let said = ground.reloaded();
    assert_eq!(said["changed"], json!(["smtp.password"]));
    let whereabouts = fs::read_to_string(ground.server.data().join("serve.json")).unwrap();
    assert!(!whereabouts.contains("two"), "{whereabouts}");
}

#[tokio::test]
async fn a_worker_is_told_too_and_nobody_cannot_be() {
    let nobody = Folder::new();
    let output = run(&nobody.data(), &["reload"]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("hint:"));
    // A file that was left behind names a process that is another's by now.
    fs::create_dir_all(nobody.data()).unwrap();
    let left = json!({ "pid": std::process::id(), "metrics": null }).to_string();
    fs::write(nobody.data().join("worker.json"), left).unwrap();
    assert_eq!(run(&nobody.data(), &["reload"]).status.code(), Some(4), "and this test still runs");

    let Some(engines) = Engines::start().await else { return };
    let config = nobody.path().join("esh3ar.toml");
    fs::write(&config, "").unwrap();
    let mut told = engines.environment();
    told.push(("ESH3AR_CONFIG".to_owned(), config.display().to_string()));
    // The schema is brought up to date by whoever comes first.
    let worker = Worker::start(&told).await;
    fs::write(&config, "[smtp]\nalert_interval = \"1m\"\n[database]\npool_size = 7\n").unwrap();
    let output =
        command(&worker.data()).envs(told).args(["reload", "-o", "json"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said[0]["process"], "worker");
    assert_eq!(said[0]["changed"], json!(["smtp.alert_interval"]));
    assert_eq!(said[0]["waiting"], json!(["database.pool_size"]));
}
