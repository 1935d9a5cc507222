//! `esh3ar bench`: its figures add up, and it says what went wrong.

use std::{path::Path, process::Command, time::Duration};

use serde_json::Value;

use crate::support::{BINARY, Server, command, wait_for};

/// Against a server of its own, in a folder that is nobody's.
fn alone(arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ESH3AR") {
            command.env_remove(name);
        }
    }
    command.arg("bench").args(arguments).args(["-o", "json"]).output().unwrap()
}

fn json(output: &std::process::Output) -> Value {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_closed_and_an_open_run_add_up() {
    let short = ["--duration", "2s", "--warmup", "300ms", "--recipients", "20"];
    let closed = json(&alone(&[&short[..], &["--senders", "8"]].concat()));
    let number = |value: &Value| value.as_f64().unwrap();
    assert!(number(&closed["accepted"]) > 100.0, "{closed}");
    assert_eq!(closed["received"], closed["acknowledged"]);
    assert!(number(&closed["received"]) >= number(&closed["accepted"]));
    assert_eq!(
        (&closed["clean"], &closed["history"]["lost"]),
        (&Value::Bool(true), &Value::from(0))
    );
    assert!(number(&closed["cpuMicrosPerMessage"]["esh3ar"]) > 0.0, "{closed}");
    assert!(number(&closed["cpuMicrosPerMessage"]["postgres"]) > 0.0, "{closed}");
    let p = &closed["deliveryMs"];
    assert!(number(&p["p50"]) <= number(&p["p99"]) && number(&p["p99"]) <= number(&p["max"]));
    let open = json(&alone(&[&short[..], &["--rate", "100", "--batch", "2"]].concat()));
    let rate = number(&open["messagesPerSecond"]);
    assert!((80.0..=120.0).contains(&rate), "{open}");
    // A rate that no machine reaches: what was due and came late says how late.
    let beyond = json(&alone(&[&short[..], &["--rate", "1000000"]].concat()));
    assert!(number(&beyond["deliveryMs"]["p50"]) > 500.0, "{beyond}");
    assert!(number(&beyond["answerMs"]["p50"]) > 500.0, "{beyond}");
}

#[test]
fn idle_connections_and_waiting_messages_are_measured() {
    let idle = json(&alone(&["--idle", "50"]));
    assert_eq!(idle["connections"], 50);
    assert!(idle["memoryAfterMiB"].as_f64().unwrap() > 1.0, "{idle}");
    let pending = json(&alone(&["--pending", "1500"]));
    assert_eq!(pending["messages"], 1500);
    assert!(pending["seconds"].as_f64().unwrap() > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_is_measured_where_it_runs_and_its_death_is_told() {
    let mut server = Server::start().await;
    let bench = |data: &Path, arguments: &[&str]| {
        let mut command = command(data);
        command.args(["bench", "-o", "json", "--recipients", "10", "--senders", "4"]);
        command.args(arguments);
        command
    };
    let output = bench(&server.data(), &["--duration", "1s"]).output().unwrap();
    let figures = json(&output);
    assert!(figures["serverMemoryMiB"].as_f64().unwrap() > 1.0, "{figures}");
    // What one run leaves unacknowledged is not held against the next.
    json(&bench(&server.data(), &["--pending", "150"]).output().unwrap());
    let figures = json(&bench(&server.data(), &["--duration", "1s"]).output().unwrap());
    assert_eq!(figures["clean"], true, "{figures}");
    let mut dying = bench(&server.data(), &["--duration", "60s"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    server.kill();
    wait_for("the run to end", || dying.try_wait().unwrap()).await;
    let output = dying.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(69), "{text}");
    assert!(text.contains("got no response") && !text.contains("panicked"), "{text}");
    let nowhere = bench(&server.data(), &["--url", "http://127.0.0.1:9"]).output().unwrap();
    assert_eq!(nowhere.status.code(), Some(69));
    let nonsense = bench(&server.data(), &["--url", "nonsense"]).output().unwrap();
    assert_eq!(nonsense.status.code(), Some(2));
}

#[test]
fn talk_and_a_long_history_are_measured() {
    let talk = ["--chat", "30", "--duration", "2s", "--warmup", "300ms", "--senders", "8"];
    let talk = json(&alone(&[&talk[..], &["--read", "0.3"]].concat()));
    assert!(talk["accepted"].as_u64().unwrap() > 20, "{talk}");
    assert_eq!((&talk["clean"], &talk["history"]["out_of_order"]), (&true.into(), &0.into()));
    assert_eq!(talk["unreadCounts"], 60, "both sides of each");
    let pages = json(&alone(&["--history", "3000", "--duration", "1s", "--senders", "2"]));
    assert_eq!(pages["messages"], 3000);
    let number = |value: &Value| value.as_f64().unwrap();
    assert!(number(&pages["latestMs"]["p50"]) <= number(&pages["latestMs"]["p99"]));
    assert!(number(&pages["anywhereMs"]["max"]) > 0.0 && number(&pages["pages"]) > 4.0, "{pages}");
}
