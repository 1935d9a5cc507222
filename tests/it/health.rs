//! Whether the process can do its work, now and lately; and what the log tells of a message.

use std::time::Duration;

use esh3ar::client::HubClient;
use serde_json::{Value, json};

use crate::support::{DEADLINE, Folder, Server, next_messages, run};

const PHONE: &str = "+967771234567";

async fn page(base: &str, path: &str, token: Option<&str>) -> (u16, Value) {
    let mut request = crate::support::http().get(format!("{base}{path}"));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn realtime_is_what_a_client_would_find_and_each_dependency_has_a_history() {
    let server = Server::start().await;
    let root = server.user("root", "Admin");
    let shop = server.user("Shop", "SendMessages");
    let (status, health) = page(&server.metrics, "/health", None).await;
    let realtime = &health["dependencies"]["realtime"];
    assert_eq!((status, &realtime["status"]), (200, &json!("up")), "{health}");
    assert!(realtime["latencyMs"].as_f64().unwrap() > 0.0, "it was measured: {health}");
    assert!(health.get("history").is_none());
    assert_eq!(server.metric("esh3ar_realtime_up").await, 1.0);

    // The look comes from outside and is nobody's connection afterwards.
    let (status, stats) = page(&server.base, "/api/v1/admin/stats", Some(&root)).await;
    assert_eq!((status, &stats["connections"]), (200, &json!(0)), "{stats}");

    let deadline = tokio::time::Instant::now() + DEADLINE;
    let history = loop {
        let (status, health) = page(&server.base, "/health?history=true", Some(&root)).await;
        assert_eq!(status, 200);
        if health["history"]["realtime"].is_array() {
            break health["history"].clone();
        }
        assert!(tokio::time::Instant::now() < deadline, "{health}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    for name in ["database", "disk", "realtime"] {
        let of_it = history[name].as_array().unwrap();
        assert!(!of_it.is_empty() && of_it.len() <= 50, "{history}");
        assert_eq!(of_it[0]["status"], "up", "{history}");
        assert!(
            of_it[0]["at"].as_str().unwrap().ends_with('Z') && of_it[0]["latencyMs"].is_number()
        );
    }
    for (token, path) in [(None, "/health?history=true"), (Some(&shop), "/health?history=true")] {
        let (status, health) = page(&server.base, path, token.map(String::as_str)).await;
        assert_eq!((status, &health), (200, &json!({ "status": "healthy" })), "not for everybody");
    }
    let (status, problem) = page(&server.base, "/health?history=maybe", Some(&root)).await;
    assert_eq!((status, &problem["errors"]["history"][0]["code"]), (400, &json!("unknown")));
    assert!(page(&server.metrics, "/health?history=true", None).await.1["history"].is_object());

    // For the dashboard and the doctor as well.
    let parts = loop {
        let stats = server.run_json(&["top", "--once"]);
        let parts = stats["nodes"][0]["parts"].as_array().unwrap().clone();
        if parts.iter().any(|part| part["name"] == "realtime") {
            break parts;
        }
        assert!(tokio::time::Instant::now() < deadline, "{stats}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let realtime = parts.iter().find(|part| part["name"] == "realtime").unwrap();
    assert!(realtime["up"] == true && realtime["past"][0].as_i64().unwrap() >= 0, "{realtime}");
    let output = run(&server.data(), &["doctor", "-o", "json"]);
    let checks: Value = serde_json::from_slice(&output.stdout).unwrap();
    let health = checks.as_array().unwrap().iter().find(|check| check["check"] == "health");
    assert_eq!(health.unwrap()["state"], "ok", "{checks}");
}

/// With one place in the hub, and that taken, no client gets in: neither does the look.
#[tokio::test]
async fn a_hub_that_takes_nobody_is_down() {
    let server = Server::start_with(&[("ESH3AR__HTTP__MAX_CONNECTIONS", "1")]).await;
    server.expect_error("clients cannot connect");
    assert_eq!(page(&server.metrics, "/health/ready", None).await.0, 200);
    let token = server.phone("+967771234567");
    let deadline = tokio::time::Instant::now() + 2 * DEADLINE;
    let held = loop {
        // Not while the process looks itself.
        match HubClient::connect(&server.base, &token).await {
            Ok(hub) => break hub,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    loop {
        let (status, health) = page(&server.metrics, "/health", None).await;
        let realtime = &health["dependencies"]["realtime"];
        if realtime["status"] == "down" {
            assert_eq!(status, 503);
            assert!(realtime["fault"].as_str().unwrap().contains("503"), "{health}");
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{health}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(page(&server.metrics, "/health/ready", None).await.0, 503);
    assert!(server.log().contains("clients cannot connect"), "{}", server.log());
    drop(held);
    loop {
        let (status, health) = page(&server.metrics, "/health/ready", None).await;
        if status == 200 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{health}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// With TLS the look goes through it, whatever the certificate says.
#[tokio::test]
async fn the_look_goes_through_the_gateways_own_tls() {
    let folder = Folder::new();
    let made = rcgen::generate_simple_self_signed(vec!["chat.example.org".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    for file in [&cert, &key] {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(file, open).unwrap();
    }
    let environment = [
        ("ESH3AR__HTTP__TLS_CERT", cert.to_str().unwrap().to_owned()),
        ("ESH3AR__HTTP__TLS_KEY", key.to_str().unwrap().to_owned()),
    ];
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let server = Server::start_in(folder, &environment).await;
    let (status, health) = page(&server.metrics, "/health", None).await;
    assert_eq!(
        (status, &health["dependencies"]["realtime"]["status"]),
        (200, &json!("up")),
        "{health}"
    );
}

#[tokio::test]
async fn a_search_for_its_id_tells_a_messages_life() {
    let retries = [
        ("ESH3AR__LOG__SAMPLE", "1"),
        ("ESH3AR__LOG__FORMAT", "json"),
        ("ESH3AR__RETRY__ACKNOWLEDGE_TIMEOUT", "300ms"),
        ("ESH3AR__RETRY__BASE", "50ms"),
        ("ESH3AR__RETRY__ATTEMPTS", "2"),
    ];
    let server = Server::start_with(&retries).await;
    let shop = server.user("Shop", "SendMessages,Chat");
    let phone = server.phone(PHONE);
    let life = |id: &str| -> Vec<(String, String)> {
        let log = server.log();
        let lines = log.lines().filter(|line| line.contains(id));
        lines
            .map(|line| {
                let line: Value = serde_json::from_str(line).unwrap();
                let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
                (text("level"), text("message"))
            })
            .collect()
    };
    let told = |level: &str, text: &str| (level.to_owned(), text.to_owned());
    let mut hub = server.hub(&phone).await;
    let good = server.send(&shop, PHONE, "good").await;
    next_messages(&mut hub).await;
    crate::support::acknowledge(&mut hub, std::slice::from_ref(&good)).await;
    server.wait_status(&shop, &good, "delivered").await;
    let bad = server.send(&shop, PHONE, "bad").await;
    server.wait_status(&shop, &bad, "failed").await;
    let body = json!({ "phone": PHONE });
    let talk = server.api(&shop).post("/api/v1/conversations", &body).await.unwrap().body;
    server.api(&shop).post("/api/v1/conversations", &body).await.unwrap();
    let talk = talk["id"].as_str().unwrap();

    let accepted = told("INFO", "message accepted");
    let deadline = tokio::time::Instant::now() + DEADLINE;
    // A line is written a moment after what it tells of can be seen.
    for (id, wanted) in [
        (&*good, vec![accepted.clone(), told("INFO", "message delivered")]),
        (
            &*bad,
            vec![
                accepted,
                told("WARN", "message not acknowledged in time: retry 1 of 2"),
                told("WARN", "message not acknowledged in time: retry 2 of 2"),
                told("ERROR", "message given up"),
            ],
        ),
        (talk, vec![told("INFO", "conversation opened")]),
    ] {
        while life(id) != wanted {
            assert!(tokio::time::Instant::now() < deadline, "{id}: {:?}", life(id));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let log = server.log();
    assert!(log.contains("\"retry\":2") && log.contains("\"of\":2"), "{log}");
    assert!(!log.contains("771234567"), "no phone number in the log");
}

#[tokio::test]
async fn only_a_share_is_told_of_what_goes_well_and_all_of_what_does_not() {
    let retries = [
        ("ESH3AR__LOG__SAMPLE", "0"),
        ("ESH3AR__RETRY__ACKNOWLEDGE_TIMEOUT", "300ms"),
        ("ESH3AR__RETRY__ATTEMPTS", "0"),
    ];
    let server = Server::start_with(&retries).await;
    let shop = server.user("Shop", "SendMessages");
    let phone = server.phone(PHONE);
    let _hub = server.hub(&phone).await;
    let bad = server.send(&shop, PHONE, "bad").await;
    server.wait_status(&shop, &bad, "failed").await;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !server.log().contains("message given up") {
        assert!(tokio::time::Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!server.log().contains("message accepted"), "{}", server.log());
}
