//! The official client, unmodified, in Node.

use std::{path::Path, process::Command};

use crate::support::Server;

/// Runs a file of tests against a server. `tests` is how many it has: a runner that finds none
/// succeeds too.
async fn run(server: &Server, file: &'static str, tests: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node");
    if !folder.join("node_modules/@microsoft/signalr").exists() {
        let text = "SKIPPED: the official client is not installed; run: make test";
        assert!(std::env::var_os("ESH3AR_TEST_REQUIRE").is_none(), "{text}");
        eprintln!("{text}");
        return;
    }
    let mut command = Command::new("node");
    command
        .args(["--test", "--test-force-exit", "--test-timeout=60000", "--test-reporter=spec", file])
        .current_dir(folder)
        .env("BASE", &server.base)
        .env("SHOP", server.user("shop", "SendMessages"))
        .env("PHONE", server.phone("+967771234567"))
        .env("NUMBER", "+967771234567")
        .env("DATA", server.data())
        .env("SERVER_PID", server.pid().to_string());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(&format!("tests {tests}\n")), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_javascript_client() {
    run(&Server::start().await, "hub.test.mjs", 9).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_client_over_every_transport_and_encoding() {
    let server = Server::start_with(&[("ESH3AR__HTTP__DIAGNOSTICS_HUB", "true")]).await;
    run(&server, "transports.test.mjs", 47).await;
}
