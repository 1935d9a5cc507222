//! Lists and histories from streaming replicas: never older than the primary, never an error for one that
//! lags, hangs or dies.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{DEADLINE, Folder, Server, command, postgres::Postgres};

const PHONE: &str = "+967771234567";
const LIST: &str = "/api/v1/messages?limit=1";

async fn gateway(primary: &Postgres, replicas: &[&Postgres]) -> Server {
    let urls: Vec<String> = replicas.iter().map(|replica| replica.url()).collect();
    let environment = [
        ("ESH3AR__DATABASE__URL", primary.url()),
        ("ESH3AR__DATABASE__REPLICA_URLS", urls.join(",")),
    ];
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Server::start_in(Folder::new(), &environment).await
}

async fn usable(server: &Server, replica: &Postgres) -> bool {
    let metric = format!("esh3ar_replica_usable{{replica=\"{}\"}}", replica.name());
    server.metric(&metric).await == 1.0
}

async fn wait_usable(server: &Server, replica: &Postgres, wanted: bool) -> Duration {
    let begun = Instant::now();
    while usable(server, replica).await != wanted {
        assert!(begun.elapsed() < DEADLINE, "usable is not {wanted}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    begun.elapsed()
}

async fn reads(server: &Server, replica: &Postgres) -> f64 {
    server.metric(&format!("esh3ar_replica_reads_total{{replica=\"{}\"}}", replica.name())).await
}

async fn get(server: &Server, token: &str, path: &str) -> Value {
    let answer = server.api(token).get(path).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

/// What the details of the health page say of a replica.
async fn told(server: &Server, replica: &Postgres) -> Value {
    let page = crate::support::get(format!("{}/health", server.metrics)).await.unwrap();
    assert_eq!(page.status(), 200, "a replica is vital to nothing");
    let page: Value = page.json().await.unwrap();
    let replicas = page["replicas"].as_array().unwrap();
    replicas.iter().find(|told| told["name"] == *replica.name()).unwrap().clone()
}

/// Sends and lists at once, through one gateway and another, and looks for what was sent.
async fn send_and_look(servers: [&Server; 2], shop: &str, times: usize) {
    for n in 0..times {
        let (by, through) = (servers[n % 2], servers[n / 2 % 2]);
        let id = by.send(shop, PHONE, &format!("number {n}")).await;
        let list = get(through, shop, LIST).await;
        assert_eq!(list["items"][0]["id"], *id, "send {n} is not in the list");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_gives_lists_that_show_what_was_just_written_through_any_gateway() {
    let primary = Postgres::primary().await;
    let replica = primary.replica().await;
    let (one, other) = (gateway(&primary, &[&replica]).await, gateway(&primary, &[&replica]).await);
    for server in [&one, &other] {
        wait_usable(server, &replica, true).await;
    }
    let shop = one.user("Shop", "SendMessages,Chat,Admin");
    let phone = one.phone(PHONE);
    let seen = replica.reads_of("messages").await;
    send_and_look([&one, &other], &shop, 60).await;
    // Chat: the history, and the list of conversations with its last message.
    let begun = json!({ "phone": PHONE });
    let conversation = one.api(&shop).post("/api/v1/conversations", &begun).await.unwrap();
    let id = conversation.body["id"].as_str().unwrap();
    let path = format!("/api/v1/conversations/{id}/messages");
    for n in 1..=20 {
        let said = json!({ "content": format!("word {n}") });
        assert_eq!(one.api(&phone).post(&path, &said).await.unwrap().status, 201);
        let history = get(&other, &shop, &format!("{path}?limit=1")).await;
        assert_eq!(history["items"][0]["seq"], n);
        let list = get(&other, &phone, "/api/v1/conversations").await;
        assert_eq!(list["items"][0]["lastSeq"], n, "{list}");
    }
    get(&one, &shop, "/api/v1/admin/dead-letters").await;
    // It was the replica that answered: it says so itself.
    assert!(reads(&one, &replica).await > 0.0 && reads(&other, &replica).await > 0.0);
    let deadline = Instant::now() + DEADLINE;
    while replica.reads_of("messages").await <= seen {
        assert!(Instant::now() < deadline, "nobody has read from the replica");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(told(&one, &replica).await["status"], "usable");
    let mut doctor = command(&one.data());
    let output = doctor.envs(one.environment()).arg("doctor").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(&format!("{} answers", replica.name())), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_stalls_never_shows_what_is_old_and_is_left_out() {
    let primary = Postgres::primary().await;
    let replica = primary.replica().await;
    let server = gateway(&primary, &[&replica]).await;
    let shop = server.user("Shop", "SendMessages");
    server.phone(PHONE);
    wait_usable(&server, &replica, true).await;
    replica.stall(true).await;
    let stalled = Instant::now();
    // The first of these finds it usable still, and does not believe it.
    send_and_look([&server, &server], &shop, 10).await;
    let took = wait_usable(&server, &replica, false).await;
    println!("left out {:?} after the stall", stalled.elapsed());
    assert!(took < Duration::from_secs(5), "{took:?}");
    let before = reads(&server, &replica).await;
    send_and_look([&server, &server], &shop, 10).await;
    assert_eq!(reads(&server, &replica).await, before, "it was asked while it was left out");
    let state = told(&server, &replica).await;
    assert_eq!(state["status"], "lagging");
    assert!(state["lagSeconds"].as_f64().unwrap() > 1.0, "{state}");
    // It comes back by itself.
    replica.stall(false).await;
    wait_usable(&server, &replica, true).await;
    send_and_look([&server, &server], &shop, 10).await;
    assert!(reads(&server, &replica).await > before);
}

/// Lists all the time, and what the slowest took in milliseconds.
struct Lister {
    stop: Arc<AtomicBool>,
    slowest: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<usize>>,
}

impl Lister {
    fn start(server: &Server, token: &str) -> Lister {
        let (stop, slowest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..4)
            .map(|_| {
                let (api, stop) = (server.api(token), Arc::clone(&stop));
                let slowest = Arc::clone(&slowest);
                tokio::spawn(async move {
                    let mut count = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let begun = Instant::now();
                        let answer = api.get(LIST).await.unwrap();
                        assert_eq!(answer.status, 200, "{}", answer.body);
                        assert_eq!(answer.body["items"].as_array().unwrap().len(), 1);
                        let took = begun.elapsed().as_millis() as usize;
                        slowest.fetch_max(took, Ordering::Relaxed);
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        Lister { stop, slowest, tasks }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let mut lists = 0;
        for task in self.tasks {
            lists += task.await.unwrap();
        }
        let slowest = self.slowest.load(Ordering::Relaxed);
        println!("{lists} lists, none refused, the slowest took {slowest} ms");
        assert!(slowest < 10_000, "a list took {slowest} ms");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_dies_or_hangs_is_nobodys_error() {
    let primary = Postgres::primary().await;
    let mut replica = primary.replica().await;
    let server = gateway(&primary, &[&replica]).await;
    let shop = server.user("Shop", "SendMessages");
    server.phone(PHONE);
    server.send(&shop, PHONE, "the only one").await;
    wait_usable(&server, &replica, true).await;
    let lister = Lister::start(&server, &shop);
    tokio::time::sleep(Duration::from_millis(300)).await;
    replica.kill();
    let took = wait_usable(&server, &replica, false).await;
    assert!(took < Duration::from_secs(5), "left out after {took:?}");
    assert_eq!(told(&server, &replica).await["status"], "down");
    replica.start().await;
    wait_usable(&server, &replica, true).await;
    let before = reads(&server, &replica).await;
    // Now it keeps its connections and says nothing.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(reads(&server, &replica).await > before, "it is back, and nobody asks it");
    replica.freeze(true);
    let took = wait_usable(&server, &replica, false).await;
    assert!(took < Duration::from_secs(5), "left out after {took:?}");
    replica.freeze(false);
    wait_usable(&server, &replica, true).await;
    lister.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_no_replica_of_this_database_is_not_read_from() {
    let (primary, stranger) = (Postgres::primary().await, Postgres::stranger().await);
    let (own, strange) = (primary.replica().await, stranger.replica().await);
    let server = gateway(&primary, &[&own, &strange, &stranger]).await;
    let shop = server.user("Shop", "SendMessages");
    server.phone(PHONE);
    wait_usable(&server, &own, true).await;
    for (other, fault) in [(&strange, "of another database"), (&stranger, "it is no replica")] {
        let state = told(&server, other).await;
        assert!(state["fault"].as_str().unwrap().contains(fault), "{state}");
        assert!(!usable(&server, other).await);
    }
    // One that has become a primary of its own goes its own way from here.
    own.connect().await.execute("SELECT pg_promote()", &[]).await.unwrap();
    send_and_look([&server, &server], &shop, 10).await;
    wait_usable(&server, &own, false).await;
    let state = told(&server, &own).await;
    assert_eq!(state["fault"], "it is no replica");
}
