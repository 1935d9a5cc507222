//! Clients that nobody here wrote, unmodified: the official one in Node and in a browser, and both of Python's.

use std::{path::PathBuf, process::Command};

use crate::support::{
    Server,
    guard::{free_port, is_there},
};

const NUMBER: &str = "+967771234567";

fn folder(name: &str) -> PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// Runs a command against a server, and looks for the words that say how many tests it ran: a runner
/// that finds none succeeds too.
async fn run(server: &Server, mut command: Command, all: &str) {
    // What ran before on the same server may have made them.
    let _ = server.run(&["user", "add", "shop", "--permission", "SendMessages,Chat"]);
    let _ = server.run(&["mobile", "add", NUMBER, "--verified"]);
    command
        .env("BASE", &server.base)
        .env("SHOP", server.token(&["--user", "shop"]))
        .env("PHONE", server.token(&["--mobile", NUMBER]))
        .env("NUMBER", NUMBER)
        .env("DATA", server.data())
        .env("SERVER_PID", server.pid().to_string());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(all), "{text}");
}

/// A file of tests for Python, if its modules are there.
fn python(file: &str) -> Option<Command> {
    let folder = folder("python");
    let python = folder.join(".venv/bin/python");
    if !is_there(python.exists(), "the clients for Python") {
        return None;
    }
    let mut command = Command::new(python);
    command.arg(file).current_dir(folder);
    Some(command)
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
    run(&Server::start().await, command, "tests 2\n").await;
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
    let port = free_port().to_string();
    command.env("CHROMIUM", browser.unwrap()).env("PAGE_PORT", &port);
    let page = format!("http://127.0.0.1:{port}");
    let settings =
        [("ESH3AR__HTTP__DIAGNOSTICS_HUB", "true"), ("ESH3AR__HTTP__CORS_ORIGINS", page.as_str())];
    run(&Server::start_with(&settings).await, command, "tests 1\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_for_python() {
    let Some(command) = python("hub_test.py") else { return };
    run(&Server::start().await, command, "6 passed\n").await;
}

/// Phones may have so many connections where the examples are run.
const PHONE_LIMIT: &str = "3";

/// The examples of docs/HUB.md as they stand there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_examples_of_the_manual() {
    let (Some(node), Some(python)) = (node("example.test.mjs"), python("example_test.py")) else {
        return;
    };
    let server = Server::start_with(&[("ESH3AR__LIMITS__CONNECTIONS_PER_USER", PHONE_LIMIT)]).await;
    let admin = server.user("admin", "Admin");
    for (mut command, all) in [(node, "tests 4\n"), (python, "2 passed\n")] {
        command.env("ADMIN", &admin).env("PHONE_LIMIT", PHONE_LIMIT);
        run(&server, command, all).await;
    }
}

/// The example for Java compiles as it stands in the manual, against the declarations of what it uses.
#[test]
fn the_java_example_of_the_manual_compiles() {
    let compiler = Command::new("javac").arg("-version").output().is_ok();
    if !is_there(compiler, "a compiler for Java") {
        return;
    }
    let manual = std::fs::read_to_string(folder("../docs/HUB.md")).unwrap();
    let example = manual.split("```java\n").nth(1).unwrap().split("```").next().unwrap();
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("Messages.java");
    std::fs::write(&source, example).unwrap();
    let output = Command::new("javac")
        .args(["--release", "11", "-Xlint:all", "-Werror", "-proc:none", "-sourcepath"])
        .arg(folder("java"))
        .arg("-d")
        .arg(place.path())
        .arg(&source)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(place.path().join("Messages.class").exists());
}
