//! Clients that nobody here wrote, unmodified: the official one in Node and in a browser, and Python's.

use std::{path::PathBuf, process::Command};

use crate::support::{Server, guard::is_there};

fn folder(name: &str) -> PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// Runs a command against a server, and looks for the words that say how many tests it ran: a runner
/// that finds none succeeds too.
async fn run(server: &Server, mut command: Command, all: &str) {
    command
        .env("BASE", &server.base)
        .env("SHOP", server.user("shop", "SendMessages,Chat"))
        .env("PHONE", server.phone("+967771234567"))
        .env("NUMBER", "+967771234567")
        .env("DATA", server.data())
        .env("SERVER_PID", server.pid().to_string());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(all), "{text}");
}

/// A file of tests for Node, if its modules are there.
pub fn node(file: &str) -> Option<Command> {
    let folder = folder("node");
    if !is_there(folder.join("node_modules/@microsoft/signalr").exists(), "the official client") {
        return None;
    }
    let mut command = Command::new("node");
    command
        .args(["--test", "--test-force-exit", "--test-timeout=180000", "--test-reporter=spec"])
        .arg(file)
        .current_dir(folder);
    Some(command)
}

async fn with_diagnostics() -> Server {
    Server::start_with(&[("ESH3AR__HTTP__DIAGNOSTICS_HUB", "true")]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_javascript_client() {
    let Some(command) = node("hub.test.mjs") else { return };
    run(&Server::start().await, command, "tests 9\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_official_clients_talk_while_connections_are_cut() {
    let Some(command) = node("chat.test.mjs") else { return };
    run(&Server::start().await, command, "tests 1\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_client_over_every_transport_and_encoding() {
    let Some(command) = node("transports.test.mjs") else { return };
    run(&with_diagnostics().await, command, "tests 47\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_client_in_a_browser() {
    let browsers = ["chromium", "chromium-browser", "google-chrome"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let browser = std::env::split_paths(&path)
        .flat_map(|folder| browsers.map(|name| folder.join(name)))
        .find(|file| file.exists());
    if !is_there(browser.is_some(), "a browser") {
        return;
    }
    let Some(mut command) = node("browser.test.mjs") else { return };
    command.env("CHROMIUM", browser.unwrap());
    run(&with_diagnostics().await, command, "tests 1\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_for_python() {
    let folder = folder("python");
    let python = folder.join(".venv/bin/python");
    if !is_there(python.exists(), "the client for Python") {
        return;
    }
    let mut command = Command::new(python);
    command.arg("hub_test.py").current_dir(folder);
    run(&Server::start().await, command, "4 passed\n").await;
}
