//! The harness: the built binary as a user would run it, in a folder of its own, on free ports.

pub mod accounts;
mod at_rest;
pub mod cluster;
pub mod collector;
mod folder;
pub mod guard;
pub mod logs;
pub mod postgres;
pub mod proxy;
pub mod rabbit;
pub mod redis;

mod server;
pub mod sms_gateway;
pub mod smtp;
pub mod test_run;

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use esh3ar::client::{HubClient, HubEvent};
use serde_json::{Value, json};

pub use self::{
    accounts::{operator, settings},
    folder::Folder,
    server::Server,
};

/// A client with connections of its own, for http:// only: reading the system's certificates takes longer than what it is
/// used for.
pub fn http() -> reqwest::Client {
    esh3ar::client::prepare();
    reqwest::Client::builder().tls_built_in_root_certs(false).build().unwrap()
}

/// `GET` over a connection of its own.
pub async fn get(url: impl reqwest::IntoUrl) -> reqwest::Result<reqwest::Response> {
    http().get(url).send().await
}

pub const BINARY: &str = env!("CARGO_BIN_EXE_esh3ar");
/// Names another build to be tried: `make attack` sets it to that for use.
const OTHER_BINARY: &str = "ESH3AR_TEST_BINARY";
/// Nothing that is waited for takes longer on a busy machine, unless it is broken.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// `esh3ar`, with an environment that nothing of this machine leaks into.
pub fn command(data_dir: &Path) -> Command {
    let mut command = Command::new(std::env::var_os(OTHER_BINARY).unwrap_or(BINARY.into()));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ESH3AR") {
            command.env_remove(name);
        }
    }
    command
        .arg("--data-dir")
        .arg(data_dir)
        .env("NO_COLOR", "1")
        .env("ESH3AR__METRICS__LISTEN", "127.0.0.1:0")
        // What tests send in a moment, a user sends in an hour; limits have tests of their own.
        .env("ESH3AR__LIMITS__MESSAGES_PER_MINUTE", "0")
        .env("ESH3AR__LIMITS__MESSAGES_PER_HOUR", "0")
        .env("ESH3AR__LIMITS__MESSAGES_PER_SECOND", "0")
        .env("ESH3AR__LIMITS__CONNECTS_PER_USER_PER_MINUTE", "0")
        .env("ESH3AR__LIMITS__CONNECTS_PER_BUSINESS_USER_PER_MINUTE", "0")
        .env("ESH3AR__LIMITS__CONVERSATIONS_PER_USER_PER_HOUR", "0")
        .env("ESH3AR__LIMITS__CONVERSATIONS_PER_BUSINESS_USER_PER_HOUR", "0")
        .env("ESH3AR__LIMITS__WRITES_PER_USER_PER_MINUTE", "0")
        .env("ESH3AR__LIMITS__WRITES_PER_BUSINESS_USER_PER_MINUTE", "0")
        .env("ESH3AR__LIMITS__ADMIN_REQUESTS_PER_MINUTE", "0")
        .stdin(Stdio::null());
    // What the processes of a cluster are told, its commands are told too.
    let of_cluster = data_dir.parent().map(|folder| folder.join(ENGINES));
    let engines = of_cluster.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    command.envs(engines.lines().filter_map(|line| line.split_once('=')));
    command
}

/// Where it is written, beside the data folder, which engines a server uses.
const ENGINES: &str = "engines";

/// Whether the tests that are for both are to run against a cluster.
pub fn in_cluster() -> bool {
    std::env::var("ESH3AR_TEST_MODE").is_ok_and(|mode| mode == "cluster")
}

/// Runs a command to its end.
pub fn run(data_dir: &Path, arguments: &[&str]) -> Output {
    command(data_dir).args(arguments).output().unwrap()
}

/// Runs a command that must succeed and gives its JSON.
pub fn run_json(data_dir: &Path, arguments: &[&str]) -> Value {
    json_of(&mut command(data_dir), arguments)
}

fn json_of(command: &mut Command, arguments: &[&str]) -> Value {
    let output = command.args(arguments).args(["-o", "json"]).output().unwrap();
    assert!(
        output.status.success(),
        "esh3ar {arguments:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The way to the private database of a folder.
pub fn private_database(data_dir: &Path) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host_path(data_dir.join("run")).user("esh3ar").dbname("esh3ar");
    config
}

/// A connection to a database.
pub async fn connect(config: &tokio_postgres::Config) -> tokio_postgres::Client {
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Polls until there is something, or fails after the deadline.
pub async fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The messages that an event brings, and whether they came as a page of the catch-up.
pub fn messages(event: &HubEvent) -> Option<(bool, Vec<Value>)> {
    match event {
        HubEvent::Invocation { target, arguments } if target == "ReceiveMessage" => {
            Some((false, arguments.clone()))
        }
        HubEvent::Invocation { target, arguments } if target == "ReceivePendingMessages" => {
            Some((true, arguments[0].as_array().unwrap().clone()))
        }
        _ => None,
    }
}

/// The next messages on a connection.
pub async fn next_messages(hub: &mut HubClient) -> (bool, Vec<Value>) {
    let next = async {
        loop {
            if let Some(found) = messages(&hub.next().await.unwrap()) {
                return found;
            }
        }
    };
    tokio::time::timeout(DEADLINE, next).await.expect("a message in time")
}

pub fn id(message: &Value) -> String {
    message["id"].as_str().unwrap().to_owned()
}

pub async fn acknowledge(hub: &mut HubClient, ids: &[String]) -> u64 {
    hub.call("Acknowledge", vec![json!(ids)], DEADLINE).await.unwrap().as_u64().unwrap()
}

/// A phone number of this country for each n.
pub fn number(n: usize) -> String {
    format!("+96777{n:07}")
}
