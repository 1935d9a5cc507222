//! What breaks, and what must hold all the same: load runs, something is killed, cut, stalled or
//! filled, and the history checker compares what was told to what arrived.

mod chat;
mod clients;
mod cluster;
mod database;
mod failover;
mod kills;
mod nodes;
mod poison;
mod spread;
mod versions;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use esh3ar::{
    app::{App, identity::tokens::Lifetime},
    bench::load::{self, LoadProgress, LoadTarget, Plan, results::LoadResults},
    domain::{Party, Permission, Permissions, Phone},
    store::accounts::MobileStatus,
};
use tokio_util::sync::CancellationToken;

use crate::support::{DEADLINE, Server, number, operator, run_json};

/// Use cases over a server's own database, beside the server.
pub fn beside(server: &Server) -> (App, CancellationToken) {
    over(server.database_config())
}

pub use crate::support::accounts::beside as over;

/// A sender and recipients for load on a server.
pub async fn target(server: &Server, app: &App, recipients: usize) -> LoadTarget {
    let may = Permissions::NONE.with(Permission::SendMessages);
    let shop = app.identity.add_user(&operator(), "load", may, None).await.unwrap();
    let sender = app
        .identity
        .issue_token(&operator(), &Party::Business(shop.id), Lifetime::Endless)
        .await
        .unwrap()
        .token;
    let phones: Vec<Phone> =
        (0..recipients).map(|n| Phone::parse(&number(n), None).unwrap()).collect();
    app.identity.put_mobiles(&operator(), &phones, MobileStatus::Verified).await.unwrap();
    let mut made = Vec::new();
    for phone in phones {
        let name = phone.as_str().to_owned();
        let token = app
            .identity
            .issue_token(&operator(), &Party::Mobile(phone), Lifetime::Endless)
            .await
            .unwrap()
            .token;
        made.push((name, token));
    }
    LoadTarget { url: server.base.clone(), sender, recipients: made, pid: None }
}

/// A few hundred messages a second, until the load is told to end.
pub fn plan() -> Plan {
    Plan {
        senders: 8,
        rate: Some(300.0),
        batch: 1,
        payload: 64,
        duration: 5 * DEADLINE,
        // Everything counts, from the first message on.
        warmup: Duration::ZERO,
        priority: "normal".to_owned(),
        acknowledge: 1.0,
    }
}

/// Messages that make a run worth it: before something breaks, and again when it works again.
pub const ENOUGH: u64 = 150;

/// Load in the background. It ends when it is told to, and not after a time: how much a machine does in a
/// second depends on what else it does.
pub struct Load {
    running: tokio::task::JoinHandle<LoadResults>,
    progress: Arc<LoadProgress>,
    stop: CancellationToken,
}

impl Load {
    pub fn start(target: LoadTarget, plan: Plan) -> Load {
        Load::run(async move |progress, stop| {
            load::run(&target, &plan, progress, &stop).await.unwrap()
        })
    }

    /// Load of this kind.
    pub fn run<F>(work: impl FnOnce(Arc<LoadProgress>, CancellationToken) -> F) -> Load
    where
        F: Future<Output = LoadResults> + Send + 'static,
    {
        let (progress, stop) = (Arc::new(LoadProgress::default()), CancellationToken::new());
        let running = tokio::spawn(work(Arc::clone(&progress), stop.clone()));
        Load { running, progress, stop }
    }

    /// Waits until so many more were accepted.
    pub async fn accepted(&self, more: u64) {
        self.grown("accepted", &self.progress.accepted, more).await;
    }

    /// Waits until so many more arrived.
    pub async fn received(&self, more: u64) {
        self.grown("received", &self.progress.received, more).await;
    }

    async fn grown(&self, what: &str, count: &AtomicU64, more: u64) {
        let found = || count.load(Ordering::Relaxed);
        let wanted = found() + more;
        let deadline = Instant::now() + 2 * DEADLINE;
        while found() < wanted {
            assert!(!self.running.is_finished(), "the load ended by itself");
            assert!(Instant::now() < deadline, "only {} of {wanted} were {what}", found());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends nothing more, waits for what is on its way, and checks the history.
    pub async fn end(self) -> LoadResults {
        self.stop.cancel();
        self.running.await.unwrap()
    }

    /// Once more as many as before the fault, and then the end.
    pub async fn healed(self) -> LoadResults {
        self.accepted(ENOUGH).await;
        self.end().await
    }
}

/// Everything accepted arrived, once, in order, where it should, and the run was worth it.
#[track_caller]
pub fn assert_kept(figures: &LoadResults) {
    assert!(figures.report.is_clean(), "{}", figures.report);
    assert!(figures.accepted > ENOUGH, "only {} were accepted", figures.accepted);
}

/// A message whose recipient is not there before a fault, and comes after it: it has waited for sure.
pub struct Waiting {
    id: String,
    shop: String,
    phone: String,
}

impl Waiting {
    pub async fn send(server: &Server) -> Waiting {
        let number = "+967771234567";
        let (shop, phone) = (server.user("patient", "SendMessages"), server.phone(number));
        let id = server.send(&shop, number, "across a fault").await;
        Waiting { id, shop, phone }
    }

    /// It comes now, and this is why it came so late.
    pub async fn comes(self, server: &Server, verdict: &str) {
        let mut hub = server.hub(&self.phone).await;
        let (_, found) = crate::support::next_messages(&mut hub).await;
        assert_eq!(crate::support::id(&found[0]), self.id);
        crate::support::acknowledge(&mut hub, std::slice::from_ref(&self.id)).await;
        server.wait_status(&self.shop, &self.id, "delivered").await;
        let explained = server.run_json(&["message", "explain", &self.id]);
        assert_eq!(explained["verdict"]["code"], verdict, "{explained}");
    }
}

/// The code of the verdict about the message that took the longest.
pub async fn verdict_of_slowest(server: &Server, database: &tokio_postgres::Client) -> String {
    // The trail is written every few seconds, and the last words arrive a moment after the load ends.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let row = database
            .query_one(
                "SELECT id FROM messages WHERE delivered_at IS NOT NULL
                 ORDER BY delivered_at - created_at DESC LIMIT 1",
                &[],
            )
            .await
            .unwrap();
        let id: uuid::Uuid = row.get(0);
        let mut command = crate::support::command(&server.data());
        command.args(["message", "explain", &id.to_string(), "-o", "json"]);
        command.envs(server.environment());
        let output = command.output().unwrap();
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let code = found["verdict"]["code"].as_str().unwrap().to_owned();
        // What is said while the trail has not been written.
        let early = ["delivered", "delivered_on_connect", "delivered_to_busy_device"];
        if !early.contains(&code.as_str()) || Instant::now() > deadline {
            println!("{}", found["verdict"]["sentence"]);
            return code;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[track_caller]
pub fn assert_balanced(server: &Server) {
    let books = run_json(&server.data(), &["audit", "delivery"]);
    assert_eq!(books["unaccounted"], 0, "{books}");
}
