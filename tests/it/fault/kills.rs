//! The process dies at every step of a message's way.

use std::time::{Duration, Instant};

use esh3ar::{app::failpoints::NAMES, bench::load::Plan};
use futures_util::StreamExt as _;

use super::{
    ENOUGH, Load, Waiting, assert_balanced, assert_kept, beside, plan, target, verdict_of_slowest,
};
use crate::support::{DEADLINE, Server};

const RECIPIENTS: usize = 8;
/// Three of four acknowledge; what the others are sent is retried and given up.
const ACKNOWLEDGE: f64 = 0.75;

#[tokio::test(flavor = "multi_thread")]
async fn a_death_at_any_step_loses_nothing_and_shows_nothing_twice() {
    // Some at once, because most of the time is spent waiting.
    futures_util::stream::iter(NAMES)
        .map(|name| tokio::spawn(die_at(name)))
        .buffer_unordered(4)
        .for_each(|done| async { done.unwrap() })
        .await;
}

async fn die_at(name: &'static str) {
    // Not the very first time: a message or two should be on every step.
    let nth = if name.starts_with("ledger_after_") && name != "ledger_after_commit"
        || name.starts_with("sweep")
        || name.starts_with("jobs")
        || name.starts_with("notices")
    {
        1
    } else {
        60
    };
    let point = format!("{name}@{nth}");
    // Stored as sent after a second; what is missed by then is not.
    let timeout = if name == "ledger_after_sent" { "3s" } else { "1s" };
    let mut server = Server::start_with(&[
        ("ESH3AR_FAILPOINT", point.as_str()),
        ("ESH3AR__RETRY__ACKNOWLEDGE_TIMEOUT", timeout),
        ("ESH3AR__RETRY__BASE", "100ms"),
        ("ESH3AR__RETRY__ATTEMPTS", "1"),
    ])
    .await;
    let (app, stop) = beside(&server);
    let target = target(&server, &app, RECIPIENTS).await;
    stop.cancel();
    drop(app);
    let load = Load::start(target, Plan { acknowledge: ACKNOWLEDGE, ..plan() });
    let deadline = Instant::now() + DEADLINE;
    while !server.has_died() {
        assert!(Instant::now() < deadline, "nothing passed {name}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.set("ESH3AR_FAILPOINT", None);
    server.launch().await;
    let figures = load.healed().await;
    assert!(figures.report.is_clean(), "{name}: {}", figures.report);
    // Whoever acknowledges got everything, and it is known.
    let database = server.database().await;
    let acknowledging = (RECIPIENTS as f64 * ACKNOWLEDGE) as usize;
    let phones: Vec<String> = (0..acknowledging).map(crate::support::number).collect();
    loop {
        let open: i64 = database
            .query_one(
                "SELECT count(*) FROM messages WHERE recipient_phone = ANY ($1) AND status < 2",
                &[&phones],
            )
            .await
            .unwrap()
            .get(0);
        if open == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "{name}: {open} are not delivered\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_balanced(&server);
    println!("{name}: {} accepted, {} received", figures.accepted, figures.received);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_is_named_as_the_cause() {
    // Between the answer and the delivery: what it was about to deliver is late.
    let mut server = Server::start_with(&[("ESH3AR_FAILPOINT", "intake_after_answer@200")]).await;
    let (app, stop) = beside(&server);
    let target = target(&server, &app, 8).await;
    stop.cancel();
    drop(app);
    let load = Load::start(target, plan());
    let deadline = Instant::now() + DEADLINE;
    while !server.has_died() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.set("ESH3AR_FAILPOINT", None);
    // Long enough that what waited is late.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    server.launch().await;
    let figures = load.healed().await;
    assert_kept(&figures);
    let database = server.database().await;
    assert_eq!(verdict_of_slowest(&server, &database).await, "delivered_after_crash");
}

/// SIGTERM with sockets open and sends in flight: what was answered is kept, sockets are told to come
/// back, and what waited meanwhile says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_order_under_load_loses_nothing_and_is_named_as_the_cause() {
    let mut server = Server::start().await;
    let (app, stop) = beside(&server);
    let target = target(&server, &app, 8).await;
    stop.cancel();
    drop(app);
    let load = Load::start(target, plan());
    load.accepted(ENOUGH).await;
    let waiting = Waiting::send(&server).await;
    assert_eq!(server.stop().await, Some(0), "{}", server.log());
    tokio::time::sleep(Duration::from_millis(2500)).await;
    server.launch().await;
    let figures = load.healed().await;
    assert_kept(&figures);
    waiting.comes(&server, "delivered_after_restart").await;
    assert_balanced(&server);
}
