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

use std::{sync::Arc, time::Duration};

use esh3ar::{
    app::{App, Settings, tokens::Lifetime},
    domain::{Party, Permission, Permissions, Phone},
    load::{self, Plan, Progress, Target, figures::Figures},
    store::{Store, accounts::MobileStatus},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::support::{Server, number, operator, run_json};

/// Use cases over a server's own database, beside the server.
pub fn beside(server: &Server) -> (App, CancellationToken) {
    let config = server.database_config();
    over(config)
}

pub fn over(config: tokio_postgres::Config) -> (App, CancellationToken) {
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let settings = Settings { node: None, ..Settings::default() };
    let app = App::start(settings, Store::new(config, 4).unwrap(), &tracker, &stop);
    (app, stop)
}

/// A sender and recipients for load on a server.
pub async fn target(server: &Server, app: &App, recipients: usize) -> Target {
    let may = Permissions::NONE.with(Permission::SendMessages);
    let shop = app.add_user(&operator(), "load", may, None).await.unwrap();
    let sender = app
        .issue_token(&operator(), &Party::Business(shop.id), Lifetime::Endless)
        .await
        .unwrap()
        .token;
    let phones: Vec<Phone> =
        (0..recipients).map(|n| Phone::parse(&number(n), None).unwrap()).collect();
    app.put_mobiles(&operator(), &phones, MobileStatus::Verified).await.unwrap();
    let mut made = Vec::new();
    for phone in phones {
        let name = phone.as_str().to_owned();
        let token = app
            .issue_token(&operator(), &Party::Mobile(phone), Lifetime::Endless)
            .await
            .unwrap()
            .token;
        made.push((name, token));
    }
    Target { url: server.base.clone(), sender, recipients: made, pid: None }
}

/// A few hundred messages a second for a few seconds.
pub fn plan() -> Plan {
    Plan {
        senders: 8,
        rate: Some(300.0),
        batch: 1,
        payload: 64,
        duration: Duration::from_secs(4),
        warmup: Duration::from_millis(100),
        priority: "normal".to_owned(),
        acknowledge: 1.0,
    }
}

/// Load in the background.
pub fn start(target: Target, plan: Plan) -> tokio::task::JoinHandle<Figures> {
    start_watched(target, plan).0
}

/// The same, and how far it is.
pub fn start_watched(
    target: Target,
    plan: Plan,
) -> (tokio::task::JoinHandle<Figures>, Arc<Progress>) {
    let progress = Arc::new(Progress::default());
    let watched = Arc::clone(&progress);
    let load = tokio::spawn(async move {
        let stop = CancellationToken::new();
        load::run(&target, &plan, progress, &stop).await.unwrap()
    });
    (load, watched)
}

/// Everything accepted arrived, once, in order, where it should, and the run was worth it.
#[track_caller]
pub fn assert_kept(figures: &Figures) {
    assert!(figures.report.is_clean(), "{}", figures.report);
    assert!(figures.accepted > 100, "only {} were accepted", figures.accepted);
}

/// The code of the verdict about the message that took the longest.
pub async fn verdict_of_slowest(server: &Server, database: &tokio_postgres::Client) -> String {
    // The trail is written every few seconds, and the last words arrive a moment after the load ends.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
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
        if code != "delivered" && code != "delivered_on_connect"
            || std::time::Instant::now() > deadline
        {
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
