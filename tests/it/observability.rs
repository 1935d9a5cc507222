//! What a running appliance says of itself: metrics, alerts and the dashboard that go by them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use esh3ar::telemetry::metrics::{METRICS, MetricKind};

use crate::support::{
    DEADLINE, Folder, Server,
    cluster::{Breaks, Cluster, Mq},
    guard::is_there,
};

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name)
}

/// Every name that begins as ours do, in a text.
fn names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("esh3ar_") || word.starts_with("process_"))
        .map(ToOwned::to_owned)
        .collect()
}

/// As Prometheus knows it: histograms are several.
fn exists(name: &str) -> bool {
    METRICS.iter().any(|(known, kind, _)| match kind {
        MetricKind::Counter | MetricKind::Gauge => name == *known,
        MetricKind::Seconds | MetricKind::Size => ["_bucket", "_sum", "_count"]
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
    for (name, _, meaning) in METRICS {
        assert!(page.contains(&format!("| `{name}` |")), "docs/METRICS.md lacks {name}");
        assert!(page.contains(meaning), "docs/METRICS.md says something else of {name}");
    }
    for name in names(&page) {
        assert!(
            METRICS.iter().any(|(known, _, _)| *known == name),
            "docs/METRICS.md tells of {name}"
        );
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
    let operations = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations/alerts.md");
    let operations = fs::read_to_string(operations).unwrap();
    let rules = fs::read_to_string(packaging("prometheus/esh3ar.rules.yml")).unwrap();
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(operations.contains(&format!("`{alert}`")), "alerts.md lacks {alert}");
    }
}

/// What the design asks to be watched, each by the panels that show it.
#[test]
fn the_dashboard_shows_all_that_is_to_be_watched() {
    let text = fs::read_to_string(packaging("grafana/esh3ar.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    let mut asked = String::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two have the id of {panel}");
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{panel}");
        for (x, y) in (0..place("w")).flat_map(|x| (0..place("h")).map(move |y| (x, y))) {
            assert!(places.insert((place("x") + x, place("y") + y)), "one covers {panel}");
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            asked += target["expr"].as_str().unwrap();
            asked.push('\n');
        }
    }
    for name in [
        "esh3ar_messages_accepted_total",
        "esh3ar_messages_failed_total",
        "esh3ar_delivery_seconds_bucket",
        "esh3ar_conversations_opened_total",
        "esh3ar_conversations_active",
        "esh3ar_queue_depth",
        "esh3ar_deliveries_handed_total",
        "esh3ar_cache_hits_total",
        "esh3ar_database_statement_seconds_bucket",
        "esh3ar_database_pool_wait_seconds_bucket",
        "esh3ar_connections",
        "esh3ar_http_request_seconds_bucket",
        "esh3ar_errors_total",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_network_receive_bytes_total",
        "process_network_transmit_bytes_total",
        "process_disk_read_bytes_total",
        "process_disk_written_bytes_total",
        "esh3ar_redis_memory_bytes",
        "esh3ar_broker_queue_depth",
    ] {
        assert!(names(&asked).contains(name), "no panel shows {name}");
    }
    if !is_there(Path::new("/usr/bin/promtool").is_file(), "promtool") {
        return;
    }
    // Prometheus can read each question, once Grafana has filled it in.
    let filled = asked.replace("$__rate_interval", "5m").replace("$instance", ".*");
    let rules: Vec<String> = filled
        .lines()
        .enumerate()
        .map(|(n, expr)| {
            let expr = serde_json::Value::from(expr);
            format!("{{\"record\": \"panel:n{n}\", \"expr\": {expr}}}")
        })
        .collect();
    let folder = Folder::new();
    let file = folder.path().join("panels.yml");
    let rules = rules.join(",");
    fs::write(&file, format!("{{\"groups\": [{{\"name\": \"panels\", \"rules\": [{rules}]}}]}}"))
        .unwrap();
    let output =
        Command::new("/usr/bin/promtool").args(["check", "rules"]).arg(&file).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Every alert of ours reaches whom the example says, and nothing is said of alerts that there are not.
#[test]
fn the_example_for_alertmanager_pages_for_what_is_critical() {
    let rules = fs::read_to_string(packaging("prometheus/esh3ar.rules.yml")).unwrap();
    let example = packaging("alertmanager/alertmanager.yml");
    let text = fs::read_to_string(&example).unwrap();
    let lines = || rules.lines().map(str::trim);
    let alerts: Vec<&str> = lines().filter_map(|line| line.strip_prefix("- alert: ")).collect();
    let severities: Vec<&str> =
        lines().filter_map(|line| line.strip_prefix("severity: ")).collect();
    assert!(alerts.len() == severities.len() && alerts.len() > 15);
    for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '+' && c != '.') {
        let named = word.starts_with("Esh3ar");
        let begins = word.strip_suffix(".+");
        let known =
            alerts.iter().any(|alert| begins.map_or(*alert == word, |b| alert.starts_with(b)));
        assert!(!named || known, "{word} is no alert of ours");
    }
    if !is_there(Path::new("/usr/bin/amtool").is_file(), "amtool") {
        return;
    }
    let amtool = |arguments: &[&str]| {
        let output = Command::new("/usr/bin/amtool").args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let file = example.display().to_string();
    amtool(&["check-config", &file]);
    let with = format!("--config.file={file}");
    let told: BTreeSet<(&str, String)> = alerts
        .iter()
        .zip(&severities)
        .map(|(alert, severity)| {
            let labels = [format!("alertname={alert}"), format!("severity={severity}")];
            (*severity, amtool(&["config", "routes", "test", &with, &labels[0], &labels[1]]))
        })
        .collect();
    let wanted = [("critical", "pager"), ("scaling", "chat"), ("warning", "mail and chat")];
    assert_eq!(told, wanted.map(|(severity, whom)| (severity, whom.to_owned())).into());
    // One that says nothing of its weight.
    assert_eq!(amtool(&["config", "routes", "test", &with, "alertname=Mine"]), "mail and chat");
}

#[tokio::test]
async fn what_a_server_counts_can_be_read_by_prometheus() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let body = serde_json::json!({ "to": "+967771234567", "content": "x" });
    let answer = server.api(&shop).post("/api/v1/messages", &body).await.unwrap();
    assert_eq!(answer.status, 202);
    let body = serde_json::json!({ "to": "nobody", "content": "x" });
    assert!(server.api(&shop).post("/api/v1/messages", &body).await.is_err());
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
    for (group, least) in [("sends", 1.0), ("access", 1.0), ("upkeep", 3.0), ("nodes", 2.0)] {
        for metric in ["esh3ar_database_statement_seconds", "esh3ar_database_pool_wait_seconds"] {
            let (labels, found) = (format!("{{group=\"{group}\"}}"), metric);
            let count = server.metric(&format!("{found}_count{labels}")).await;
            assert!(count >= 1.0, "{found}{labels} {count}");
        }
        let name = format!("esh3ar_database_statement_seconds_count{{group=\"{group}\"}}");
        assert!(server.metric(&name).await >= least, "{group}");
    }
    // What the process uses, beside what the system says of it.
    let resident = server.metric("process_resident_memory_bytes").await / 1024.0;
    let known = server.memory() as f64;
    assert!((resident - known).abs() < known / 4.0, "{resident} and {known}");
    let busy = server.metric("process_cpu_seconds_total").await;
    assert!(busy > 0.0 && busy < 600.0, "{busy}");
    let cores = std::thread::available_parallelism().unwrap().get() as f64;
    assert!((server.metric("esh3ar_cpu_cores").await - cores).abs() < 0.5);
    let role = if crate::support::in_cluster() { "gateway" } else { "serve" };
    assert!(server.metric(&format!("esh3ar_role{{role=\"{role}\"}}")).await > 0.5);
    let sent = server.metric("process_network_transmit_bytes_total").await;
    let mut read = 0;
    while read < 1 << 20 {
        let page = crate::support::get(format!("{}/openapi.json", server.base)).await.unwrap();
        read += page.bytes().await.unwrap().len();
    }
    let now = server.metric("process_network_transmit_bytes_total").await;
    assert!(now - sent >= read as f64, "{read} bytes were read, and {} are counted", now - sent);
    let page = crate::support::get(format!("{}/metrics", server.metrics)).await.unwrap();
    let page = page.text().await.unwrap();
    for name in names(&page) {
        assert!(
            exists(&name) || METRICS.iter().any(|(known, _, _)| *known == name),
            "{name} is new"
        );
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

/// Waits until a worker's metric has a value.
async fn until(cluster: &Cluster, name: &str, wanted: impl Fn(f64) -> bool) -> f64 {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let value = cluster.workers[0].metric(name).await;
        if wanted(value) {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "{name} stays {value}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_engines_hold_is_counted() {
    let breaks = Breaks { postgres: true, redis: true, ..Breaks::default() };
    let Some(mut cluster) = Cluster::breakable(breaks, 1, 1).await else { return };
    cluster.settled().await;
    let gateway = &cluster.gateways[0];
    let shop = gateway.user("desk", "Chat");
    // Two that talk, one that is archived, one that is closed, one in which nobody said anything.
    for n in 0..5 {
        let number = crate::support::number(n);
        gateway.run_json(&["mobile", "add", &number, "--verified"]);
        let body = serde_json::json!({ "phone": number });
        let api = gateway.api(&shop);
        let made = api.post("/api/v1/conversations", &body).await.unwrap();
        let path = format!("/api/v1/conversations/{}", made.body["id"].as_str().unwrap());
        if n < 4 {
            let said = serde_json::json!({ "content": "hello" });
            api.post(&format!("{path}/messages"), &said).await.unwrap();
        }
        if let Some(what) = [None, None, Some("archive"), Some("close"), None][n] {
            let changed =
                api.post(&format!("{path}/{what}"), &serde_json::json!({})).await.unwrap();
            assert_eq!(changed.body["status"], format!("{what}d"), "{}", changed.body);
        }
    }
    until(&cluster, "esh3ar_conversations_active", |active| (active - 2.0).abs() < 0.1).await;
    let told = cluster.engines.redis.server().ask("INFO memory").unwrap();
    let line = told.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    let used: f64 = line.trim().parse().unwrap();
    let near = |value: f64| value > used / 2.0 && value < used * 2.0;
    until(&cluster, "esh3ar_redis_memory_bytes", near).await;
    // While Postgres stands still nothing that a worker has taken is done, and the rest waits.
    let lane = |lane: &str| format!("esh3ar_broker_queue_depth{{lane=\"{lane}\"}}");
    until(&cluster, "esh3ar_broker_queue_depth", |all| all.abs() < 0.1).await;
    cluster.engines.postgres.server().freeze(true);
    let Mq::Shared(host) = &cluster.engines.mq else { unreachable!("it is shared") };
    for n in 0..130 {
        let frame = format!("{{\"v\":1,\"messages\":[[\"{}\",0]]}}", uuid::Uuid::from_u128(n));
        host.publish("Esh3arTech.Messaging", "esh3ar.v1.low.3", &frame);
    }
    let waits = until(&cluster, &lane("low"), |waits| waits > 0.5).await;
    assert!((waits - f64::from(host.waiting().await)).abs() < 0.5, "{waits}");
    assert!(waits > 20.0 && waits < 130.0, "{waits}");
    assert!(cluster.workers[0].metric(&lane("normal")).await.abs() < 0.1);
    cluster.engines.postgres.server().freeze(false);
    until(&cluster, &lane("low"), |waits| waits.abs() < 0.1).await;
}
