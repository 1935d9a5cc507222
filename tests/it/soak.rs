//! What takes minutes by its nature: `make soak`. The figures go into `target/soak.md`.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    time::{Duration, Instant},
};

use esh3ar::bench::load::{Plan, results::LoadResults};

use crate::{
    fault::{Load, beside, over, plan, target},
    support::{
        Server,
        cluster::{Breaks, Cluster},
        run_json,
    },
};

/// How long an engine is away.
const OUTAGE: Duration = Duration::from_secs(150);
/// How often a process is killed.
const KILLS: usize = 60;
/// How long memory is watched under load, after it has warmed up for a fifth of that.
const GROWTH: Duration = Duration::from_secs(300);
/// What a server may have more at the end than after the warm-up, in KiB.
const GROWN: u64 = 64 * 1024;
const RECIPIENTS: usize = 24;
/// Messages that must pass again when something works again.
const ENOUGH: u64 = 200;

/// Adds a line to the report.
fn report(test: &str, text: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/target/soak.md");
    let mut file = File::options().create(true).append(true).open(path).unwrap();
    let now = time::OffsetDateTime::now_utc();
    writeln!(file, "- {} {test}: {text}", now.date()).unwrap();
    println!("{test}: {text}");
}

fn text_of(figures: &LoadResults) -> String {
    let mut text = format!(
        "{} sent, {} accepted, {} received, slowest {:.1} s",
        figures.sent,
        figures.accepted,
        figures.received,
        figures.delivery.max_ms() / 1000.0
    );
    for (status, count) in &figures.refused {
        write!(text, ", {count} answered {status}").unwrap();
    }
    text
}

async fn load_on(cluster: &Cluster, rate: f64) -> Load {
    cluster.settled().await;
    let (app, stop) = over(cluster.engines.postgres.config());
    let mut target = target(&cluster.gateways[0], &app, RECIPIENTS).await;
    stop.cancel();
    let urls: Vec<&str> = cluster.gateways.iter().map(|gateway| gateway.base.as_str()).collect();
    target.url = urls.join(",");
    let load = Load::start(target, Plan { rate: Some(rate), duration: 10 * OUTAGE, ..plan() });
    load.accepted(ENOUGH).await;
    load
}

fn assert_kept(cluster: &Cluster, figures: &LoadResults) {
    assert!(figures.report.is_clean(), "{}", figures.report);
    let ledger = run_json(&cluster.gateways[0].data(), &["audit", "delivery"]);
    assert_eq!(ledger["unaccounted"], 0, "{ledger}");
}

#[tokio::test(flavor = "multi_thread")]
async fn engines_that_are_away_for_minutes_cost_time_only() {
    let breaks = Breaks { postgres: true, mq: 1, redis: true };
    let Some(mut cluster) = Cluster::breakable(breaks, 2, 2).await else { return };
    let load = load_on(&cluster, 50.0).await;
    cluster.engines.redis.server().kill();
    tokio::time::sleep(OUTAGE).await;
    cluster.engines.redis.server().launch();
    load.accepted(ENOUGH).await;
    cluster.broker().kill();
    tokio::time::sleep(OUTAGE).await;
    cluster.broker().launch().await;
    load.accepted(ENOUGH).await;
    cluster.gateways.iter().for_each(|gateway| gateway.expect_error("could not be stored"));
    cluster.engines.postgres.server().kill();
    tokio::time::sleep(OUTAGE).await;
    cluster.engines.postgres.server().start().await;
    load.accepted(ENOUGH).await;
    let figures = load.end().await;
    report("engines away", &text_of(&figures));
    assert_kept(&cluster, &figures);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_every_few_seconds_costs_time_only() {
    let Some(mut cluster) = Cluster::start(3, 2).await else { return };
    let load = load_on(&cluster, 100.0).await;
    for kill in 0..KILLS {
        // Every process in turn, and now and then a gateway and a worker at once.
        let (gateway, worker) = (kill % 5, kill % 7);
        if let Some(gateway) = cluster.gateways.get_mut(gateway) {
            gateway.kill();
            gateway.launch().await;
        }
        if let Some(worker) = cluster.workers.get_mut(worker) {
            worker.kill();
            worker.launch().await;
        }
        load.accepted(ENOUGH / 2).await;
    }
    let figures = load.end().await;
    report("kills", &format!("{KILLS} rounds, {}", text_of(&figures)));
    assert_kept(&cluster, &figures);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_files_do_not_grow_under_load() {
    let server = Server::start().await;
    let (app, stop) = beside(&server);
    let target = target(&server, &app, RECIPIENTS).await;
    stop.cancel();
    let files = || fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    let load = Load::start(target, Plan { rate: Some(500.0), duration: 2 * GROWTH, ..plan() });
    load.accepted(ENOUGH).await;
    let begun = Instant::now();
    let mut warm = (0, 0);
    while begun.elapsed() < GROWTH {
        load.accepted(5 * ENOUGH).await;
        if begun.elapsed() < GROWTH / 5 {
            warm = (server.memory(), files());
        }
    }
    let (memory, files) = (server.memory(), files());
    let figures = load.end().await;
    let growth = format!("memory {} to {memory} KiB, files {} to {files}", warm.0, warm.1);
    report("growth", &format!("{growth}, {}", text_of(&figures)));
    assert!(figures.report.is_clean(), "{}", figures.report);
    assert!(memory < warm.0 + GROWN && files < warm.1 + 64, "{growth}");
}
