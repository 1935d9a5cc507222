//! Measures an installation's machine: how fast it starts, how long a message takes, how many pass,
//! and how much memory it needs. `make figures` runs it against the release build.
//!
//! The load is made on the same machine, so the figures are what is left for the server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use esh3ar::{
    app::{App, Settings, tokens::Lifetime},
    client::{ApiClient, Event, HubClient},
    domain::{Party, Permission, Permissions, Phone},
    store::{Store, accounts::MobileStatus},
};
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const RECIPIENTS: usize = 1000;
const SENDERS: usize = 64;
const LONE: usize = 1000;
const LOAD: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    child: Child,
    base: String,
    data: PathBuf,
}

impl Server {
    /// Starts it and gives the time to the first answer.
    async fn start(binary: &Path, data: &Path) -> (Server, Duration) {
        let whereabouts = data.join("serve.json");
        let _ = fs::remove_file(&whereabouts);
        let begun = Instant::now();
        let child = Command::new(binary)
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            .env("ESH3AR__METRICS__LISTEN", "127.0.0.1:0")
            .env("ESH3AR__LIMITS__MESSAGES_PER_MINUTE", "0")
            .env("ESH3AR__LIMITS__MESSAGES_PER_HOUR", "0")
            .env("ESH3AR__LIMITS__MESSAGES_PER_SECOND", "0")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let base = loop {
            if let Ok(text) = fs::read_to_string(&whereabouts) {
                let found: Value = serde_json::from_str(&text).unwrap();
                break format!("http://{}", found["http"].as_str().unwrap());
            }
            assert!(begun.elapsed() < PATIENCE, "it did not start");
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        let answer = reqwest::get(format!("{base}/health")).await.unwrap();
        assert_eq!(answer.status(), 200);
        (Server { child, base, data: data.to_owned() }, begun.elapsed())
    }

    fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.child.wait().unwrap();
    }

    /// Resident memory in KiB, without Postgres.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// CPU time of esh3ar and its Postgres, with all of Postgres' processes that ended included.
    fn cpu(&self) -> (Duration, Duration) {
        let of = |pid: &str| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields: Vec<u64> = stat
                .rsplit(") ")
                .next()
                .unwrap_or_default()
                .split(' ')
                .map(|field| field.parse().unwrap_or(0))
                .collect();
            // utime, stime, cutime, cstime in hundredths of a second (proc(5), fields 14 to 17).
            let hundredths: u64 = fields.iter().skip(11).take(4).sum();
            Duration::from_millis(hundredths * 10)
        };
        let own = of(&self.child.id().to_string());
        let postmaster = fs::read_to_string(self.data.join("postgres/postmaster.pid")).unwrap();
        let postmaster = postmaster.lines().next().unwrap();
        let children = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"))
            .unwrap_or_default();
        let postgres = children.split_whitespace().map(of).sum::<Duration>() + of(postmaster);
        (own, postgres)
    }
}

fn number(n: usize) -> String {
    format!("+96777{n:07}")
}

/// A sender's token and one for each recipient, made over the server's own database.
async fn people(data: &Path) -> (String, Vec<String>) {
    let mut config = tokio_postgres::Config::new();
    config.host_path(data.join("run")).user("esh3ar").dbname("esh3ar");
    let store = Store::new(config, 8).unwrap();
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let settings = Settings { delivers: false, ..Settings::default() };
    let app = App::start(settings, store, &tracker, &stop);
    let may = Permissions::NONE.with(Permission::SendMessages);
    let shop = app.add_user("figures", may, None).await.unwrap();
    let shop = app.issue_token(&Party::Business(shop.id), Lifetime::Endless).await.unwrap().token;
    let phones: Vec<Phone> =
        (0..RECIPIENTS).map(|n| Phone::parse(&number(n), None).unwrap()).collect();
    app.put_mobiles(&phones, MobileStatus::Verified).await.unwrap();
    let mut tokens = Vec::new();
    for phone in phones {
        let token = app.issue_token(&Party::Mobile(phone), Lifetime::Endless).await.unwrap();
        tokens.push(token.token);
    }
    stop.cancel();
    (shop, tokens)
}

fn percentile(sorted: &[Duration], share: f64) -> f64 {
    let at = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[at].as_secs_f64() * 1e3
}

fn ids(event: Event) -> Vec<Value> {
    match event {
        Event::Invocation { target, arguments } if target == "ReceiveMessage" => {
            arguments.into_iter().map(|message| message["id"].clone()).collect()
        }
        Event::Invocation { target, arguments } if target == "ReceivePendingMessages" => {
            arguments[0].as_array().unwrap().iter().map(|message| message["id"].clone()).collect()
        }
        _ => Vec::new(),
    }
}

/// One at a time: from the beginning of the request to the arrival on the phone.
async fn lone(server: &Server, shop: &str, phone: &str) {
    let api = ApiClient::new(&server.base, shop).unwrap();
    let mut hub = HubClient::connect(&server.base, phone).await.unwrap();
    let body = json!({ "to": number(0), "content": "x".repeat(200) });
    let mut took = Vec::new();
    for n in 0..LONE + 100 {
        let begun = Instant::now();
        let post = api.post("/api/v1/messages", &body);
        let arrive = async {
            loop {
                let found = ids(hub.next().await.unwrap());
                if !found.is_empty() {
                    return (begun.elapsed(), found);
                }
            }
        };
        let (answer, (arrived, found)) = tokio::join!(post, arrive);
        answer.unwrap();
        hub.call("Acknowledge", vec![Value::Array(found)], PATIENCE).await.unwrap();
        if n >= 100 {
            took.push(arrived);
        }
    }
    took.sort();
    println!(
        "send to receive, one at a time   p50 {:.2} ms, p95 {:.2} ms, p99 {:.2} ms",
        percentile(&took, 0.5),
        percentile(&took, 0.95),
        percentile(&took, 0.99)
    );
    hub.close().await;
}

async fn load(server: &Server, shop: &str, tokens: &[String], per_post: usize) {
    let acknowledged = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let idle = server.memory();
    let mut hubs = Vec::new();
    for token in tokens {
        hubs.push(HubClient::connect(&server.base, token).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let connected = server.memory();
    if per_post == 1 {
        println!(
            "memory                           {:.1} MiB idle, {:.1} MiB with {} connections ({:.1} KiB each)",
            idle as f64 / 1024.0,
            connected as f64 / 1024.0,
            hubs.len(),
            (connected.saturating_sub(idle)) as f64 / hubs.len() as f64
        );
    }
    let receivers: Vec<_> = hubs
        .into_iter()
        .map(|mut hub| {
            let acknowledged = Arc::clone(&acknowledged);
            tokio::spawn(async move {
                while let Ok(event) = hub.next().await {
                    let found = ids(event);
                    let count = found.len() as u64;
                    if count > 0 {
                        let said = hub.call("Acknowledge", vec![Value::Array(found)], PATIENCE);
                        if said.await.is_err() {
                            return;
                        }
                        acknowledged.fetch_add(count, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    let before = server.cpu();
    let begun = Instant::now();
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let api = ApiClient::new(&server.base, shop).unwrap();
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let (mut sent, mut n) = (0u64, sender * 37);
                while !stop.load(Ordering::Relaxed) {
                    let mut message = || {
                        n += 1;
                        json!({ "to": number(n % RECIPIENTS), "content": "x".repeat(200) })
                    };
                    let (path, body) = if per_post == 1 {
                        ("/api/v1/messages", message())
                    } else {
                        let all: Vec<Value> = (0..per_post).map(|_| message()).collect();
                        ("/api/v1/messages/batch", json!({ "messages": all }))
                    };
                    api.post(path, &body).await.unwrap();
                    sent += per_post as u64;
                }
                sent
            })
        })
        .collect();
    tokio::time::sleep(LOAD).await;
    stop.store(true, Ordering::Relaxed);
    let mut sent = 0;
    for sender in senders {
        sent += sender.await.unwrap();
    }
    while acknowledged.load(Ordering::Relaxed) < sent && begun.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = begun.elapsed().as_secs_f64();
    let after = server.cpu();
    let done = acknowledged.load(Ordering::Relaxed);
    let each = |a: Duration, b: Duration| (a.saturating_sub(b)).as_secs_f64() * 1e6 / done as f64;
    println!(
        "{per_post:3} a POST, {SENDERS} senders, {} online   {:.0} messages/s delivered, server CPU {:.0} µs each \
         ({:.0} esh3ar, {:.0} Postgres); {sent} sent, {done} acknowledged",
        tokens.len(),
        done as f64 / took,
        each(after.0, before.0) + each(after.1, before.1),
        each(after.0, before.0),
        each(after.1, before.1),
    );
    receivers.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::main]
async fn main() {
    esh3ar::client::prepare();
    let binary = std::env::args().nth(1).unwrap_or_else(|| "target/release/esh3ar".to_owned());
    let binary = fs::canonicalize(binary).expect("the path of an esh3ar binary");
    let folder = tempfile::Builder::new().prefix("esh3ar-figures-").tempdir().unwrap();
    let data = folder.path().join("data");
    let (server, first) = Server::start(&binary, &data).await;
    server.stop();
    let (server, again) = Server::start(&binary, &data).await;
    println!(
        "start to first answer            {:.2} s the first time, {:.2} s after",
        first.as_secs_f64(),
        again.as_secs_f64()
    );
    let (shop, tokens) = people(&data).await;
    lone(&server, &shop, &tokens[0]).await;
    load(&server, &shop, &tokens, 1).await;
    load(&server, &shop, &tokens, 100).await;
    server.stop();
}
