//! What a running appliance says of itself: metrics, alerts and the dashboard that go by them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use esh3ar::telemetry::metrics::{ALL, Kind};

use crate::support::{DEADLINE, Folder, Server, guard::is_there};

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name)
}

/// Every name that begins as ours do, in a text.
fn names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("esh3ar_"))
        .map(ToOwned::to_owned)
        .collect()
}

/// As Prometheus knows it: histograms are several.
fn exists(name: &str) -> bool {
    ALL.iter().any(|(known, kind, _)| match kind {
        Kind::Counter | Kind::Gauge => name == *known,
        Kind::Seconds | Kind::Size => ["_bucket", "_sum", "_count"]
            .iter()
            .any(|suffix| name.strip_suffix(suffix) == Some(*known)),
    })
}

#[test]
fn alerts_and_the_dashboard_name_metrics_that_there_are() {
    for file in ["prometheus/esh3ar.rules.yml", "grafana/esh3ar.json"] {
        let found = names(&fs::read_to_string(packaging(file)).unwrap());
        assert!(found.len() > 10, "{file} names {found:?}");
        for name in found {
            assert!(exists(&name), "{file} goes by {name}, which nobody exports");
        }
    }
    let dashboard = fs::read_to_string(packaging("grafana/esh3ar.json")).unwrap();
    serde_json::from_str::<serde_json::Value>(&dashboard).unwrap();
}

#[test]
fn every_metric_is_documented() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/METRICS.md");
    let page = fs::read_to_string(page).unwrap();
    for (name, _, meaning) in ALL {
        assert!(page.contains(&format!("| `{name}` |")), "docs/METRICS.md lacks {name}");
        assert!(page.contains(meaning), "docs/METRICS.md says something else of {name}");
    }
    for name in names(&page) {
        assert!(ALL.iter().any(|(known, _, _)| *known == name), "docs/METRICS.md tells of {name}");
    }
}

#[test]
fn the_alerts_fire_when_they_should_and_only_then() {
    if !is_there(Path::new("/usr/bin/promtool").is_file(), "promtool") {
        return;
    }
    for arguments in
        [["check", "rules", "esh3ar.rules.yml"], ["test", "rules", "esh3ar.rules.test.yml"]]
    {
        let output = Command::new("/usr/bin/promtool")
            .current_dir(packaging("prometheus"))
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    // And what to do about each is written down.
    let operations = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/OPERATIONS.md");
    let operations = fs::read_to_string(operations).unwrap();
    let rules = fs::read_to_string(packaging("prometheus/esh3ar.rules.yml")).unwrap();
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(operations.contains(&format!("`{alert}`")), "docs/OPERATIONS.md lacks {alert}");
    }
}

#[tokio::test]
async fn what_a_server_counts_can_be_read_by_prometheus() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let body = serde_json::json!({ "to": "+967771234567", "content": "x" });
    let answer = server.api(&shop).post("/api/v1/messages", &body).await.unwrap();
    assert_eq!(answer.status, 202);
    let body = serde_json::json!({ "to": "nobody", "content": "x" });
    let refused = server.api(&shop).post("/api/v1/messages", &body).await.unwrap();
    assert_eq!(refused.status, 400);
    let refused = "esh3ar_errors_total{way=\"http\",code=\"validation_failed\"}";
    assert!(server.metric(refused).await >= 1.0);
    assert!(server.metric("esh3ar_messages_accepted_total").await >= 1.0);
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let late = ["esh3ar_database_up", "esh3ar_database_bytes", "esh3ar_messages_waiting"];
    for name in late {
        while server.metric(name).await == 0.0 {
            assert!(tokio::time::Instant::now() < deadline, "{name} stays 0");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
    assert!(server.metric("esh3ar_dead_letters{class=\"recipient\"}").await.abs() < 0.5);
    let page = reqwest::get(format!("{}/metrics", server.metrics)).await.unwrap();
    let page = page.text().await.unwrap();
    for name in names(&page) {
        assert!(exists(&name) || ALL.iter().any(|(known, _, _)| *known == name), "{name} is new");
    }
    if !is_there(Path::new("/usr/bin/promtool").is_file(), "promtool") {
        return;
    }
    let folder = Folder::new();
    let file = folder.path().join("page");
    fs::write(&file, page).unwrap();
    let output = Command::new("/usr/bin/promtool")
        .args(["check", "metrics"])
        .stdin(fs::File::open(&file).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}
