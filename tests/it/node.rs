//! The official client, unmodified, in Node.

use std::{path::Path, process::Command};

use crate::support::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_javascript_client() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node");
    if !folder.join("node_modules/@microsoft/signalr").exists() {
        let text = "SKIPPED: the official client is not installed; run: make test";
        assert!(std::env::var_os("ESH3AR_TEST_REQUIRE").is_none(), "{text}");
        eprintln!("{text}");
        return;
    }
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone("+967771234567");
    let base = server.base.clone();
    let data = server.data();
    let pid = server.pid();
    let output = tokio::task::spawn_blocking(move || {
        Command::new("node")
            .args(["--test", "--test-reporter=spec", "hub.test.mjs"])
            .current_dir(folder)
            .env("BASE", base)
            .env("SHOP", shop)
            .env("PHONE", phone)
            .env("NUMBER", "+967771234567")
            .env("DATA", data)
            .env("SERVER_PID", pid.to_string())
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    // A runner that finds no test succeeds too.
    assert!(text.contains("tests 9"), "{text}");
}
