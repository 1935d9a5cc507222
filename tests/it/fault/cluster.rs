//! Three gateways and two workers under load while something of the cluster breaks.

use std::time::{Duration, Instant};

use esh3ar::{
    bench::load::{Plan, results::LoadResults},
    client::{HubClient, HubEvent},
};
use serde_json::json;

use super::{Load, over, plan};
use crate::support::{
    Server,
    cluster::{Breaks, Cluster, Wires},
    id, messages, next_messages, number,
    proxy::{Fault, Proxy},
    run_json,
};

const RECIPIENTS: usize = 12;
/// Messages a second: a cluster is five processes and three engines.
const RATE: f64 = 100.0;
/// Messages before something breaks, and again when it works again.
const ENOUGH: u64 = 100;

/// Load over all gateways, a fault when it has begun, and what came of it.
pub(super) async fn under_load<F: Future<Output = Cluster>>(
    mut cluster: Cluster,
    fault: impl FnOnce(Cluster) -> F,
) -> (Cluster, LoadResults) {
    cluster.settled().await;
    let (app, stop) = over(cluster.engines.postgres.config());
    let mut target = super::target(&cluster.gateways[0], &app, RECIPIENTS).await;
    stop.cancel();
    drop(app);
    let urls: Vec<&str> = cluster.gateways.iter().map(|gateway| gateway.base.as_str()).collect();
    target.url = urls.join(",");
    let recipients = target.recipients.clone();
    let load = Load::start(target, Plan { rate: Some(RATE), ..plan() });
    load.accepted(ENOUGH).await;
    cluster = fault(cluster).await;
    load.accepted(ENOUGH).await;
    let figures = load.end().await;
    println!(
        "{} sent, {} accepted, {} received, refused {:?}, p50 {} ms, p99 {} ms, max {} ms",
        figures.sent,
        figures.accepted,
        figures.received,
        figures.refused,
        figures.delivery.quantile_ms(0.5),
        figures.delivery.quantile_ms(0.99),
        figures.delivery.max_ms()
    );
    // The last words of the load may have been lost with its connections, and what was answered with an
    // error may have happened: each phone connects once more.
    for (n, (_, token)) in recipients.into_iter().enumerate() {
        let base = cluster.gateways[n % cluster.gateways.len()].base.clone();
        tokio::spawn(async move {
            let wait = crate::support::DEADLINE;
            while let Ok(mut hub) = HubClient::connect(&base, &token).await {
                while let Ok(event) = hub.next().await {
                    let Some((_, found)) = messages(&event) else { continue };
                    let ids: Vec<String> = found.iter().map(id).collect();
                    let _ = hub.call("Acknowledge", vec![json!(ids)], wait).await;
                }
            }
        });
    }
    (cluster, figures)
}

/// Everything that was accepted arrived, once, in order, and the books balance.
pub(super) async fn assert_kept(cluster: &Cluster, figures: &LoadResults) {
    assert!(figures.report.is_clean(), "{}", figures.report);
    assert!(figures.accepted >= 2 * ENOUGH, "only {} were accepted", figures.accepted);
    let database = cluster.engines.postgres.connect().await;
    let phones: Vec<String> = (0..RECIPIENTS).map(number).collect();
    let deadline = Instant::now() + crate::support::DEADLINE;
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
        assert!(Instant::now() < deadline, "{open} are not delivered");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let books = run_json(&cluster.gateways[0].data(), &["audit", "delivery"]);
    assert_eq!(books["unaccounted"], 0, "{books}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_broken_nothing_lost() {
    let Some(cluster) = Cluster::start(3, 2).await else { return };
    let (cluster, figures) = under_load(cluster, |cluster| async { cluster }).await;
    assert_kept(&cluster, &figures).await;
    // Wake-ups went through the broker, and not by way of the sweeper.
    assert!(figures.delivery.max_ms() < 5000.0, "{} ms", figures.delivery.max_ms());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_moves_its_users() {
    let Some(cluster) = Cluster::start(3, 2).await else { return };
    let (cluster, figures) = under_load(cluster, |mut cluster| async {
        cluster.gateways[1].kill();
        tokio::time::sleep(Duration::from_secs(3)).await;
        cluster.gateways[1].launch().await;
        cluster
    })
    .await;
    assert_kept(&cluster, &figures).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_s_queues_move() {
    let Some(cluster) = Cluster::start(3, 2).await else { return };
    let (cluster, figures) = under_load(cluster, |mut cluster| async {
        cluster.workers[0].kill();
        tokio::time::sleep(Duration::from_secs(3)).await;
        cluster.workers[0].launch().await;
        cluster
    })
    .await;
    assert_kept(&cluster, &figures).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_killed_at_once_comes_back_whole() {
    let Some(cluster) = Cluster::start(3, 2).await else { return };
    let (cluster, figures) = under_load(cluster, |mut cluster| async {
        cluster.gateways.iter_mut().for_each(Server::kill);
        cluster.workers.iter_mut().for_each(|worker| worker.kill());
        for worker in &mut cluster.workers {
            worker.launch().await;
        }
        for gateway in &mut cluster.gateways {
            gateway.launch().await;
        }
        cluster
    })
    .await;
    assert_kept(&cluster, &figures).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_flushed_stopped_and_replaced_costs_time_only() {
    let Some(cluster) = Cluster::breakable(Breaks::REDIS, 3, 2).await else { return };
    let (cluster, figures) = under_load(cluster, |mut cluster| async {
        cluster.engines.redis.server().flush();
        tokio::time::sleep(Duration::from_secs(3)).await;
        cluster.engines.redis.server().disconnect("pubsub");
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.engines.redis.server().kill();
        tokio::time::sleep(Duration::from_secs(5)).await;
        cluster.engines.redis.server().launch();
        tokio::time::sleep(Duration::from_secs(2)).await;
        cluster.engines.redis.server().replace();
        cluster
    })
    .await;
    assert_kept(&cluster, &figures).await;
    // Sending goes on without it.
    assert!(figures.refused.is_empty(), "{:?}", figures.refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_wiped_and_alarmed_costs_time_only() {
    let Some(cluster) = Cluster::breakable(Breaks::MQ, 3, 2).await else { return };
    let (cluster, figures) = under_load(cluster, |mut cluster| async {
        let broker = cluster.broker();
        broker.alarm(true).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        broker.alarm(false).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        broker.kill();
        broker.wipe();
        broker.launch().await;
        cluster
    })
    .await;
    assert_kept(&cluster, &figures).await;
    assert!(figures.refused.is_empty(), "{:?}", figures.refused);
    cluster.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_is_killed_costs_time_only() {
    let Some(cluster) = Cluster::breakable(Breaks::POSTGRES, 3, 2).await else { return };
    let (cluster, figures) = under_load(cluster, |mut cluster| async {
        cluster.engines.postgres.server().kill();
        tokio::time::sleep(Duration::from_secs(2)).await;
        cluster.engines.postgres.server().start().await;
        cluster
    })
    .await;
    assert_kept(&cluster, &figures).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_refuses_little_and_loses_nothing() {
    let Some(cluster) = Cluster::start(3, 2).await else { return };
    let (cluster, figures) = under_load(cluster, |mut cluster| async {
        for n in 0..3 {
            assert_eq!(cluster.gateways[n].stop().await, Some(0), "{}", cluster.gateways[n].log());
            cluster.gateways[n].launch().await;
        }
        for n in 0..2 {
            assert_eq!(cluster.workers[n].stop().await, Some(0), "{}", cluster.workers[n].log());
            cluster.workers[n].launch().await;
        }
        cluster
    })
    .await;
    assert_kept(&cluster, &figures).await;
    // What meets a closed port, where no balancer stands before it, was not answered at all.
    let answered = figures.refused.iter().filter(|(status, _)| *status != 0);
    let refused: u64 = answered.map(|(_, count)| count).sum();
    assert!(refused * 100 <= figures.sent, "{refused} of {} were refused", figures.sent);
}

/// Who is sent away comes back elsewhere within seconds; not all in one moment, and nobody is forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_moves_its_users_in_waves() {
    const USERS: usize = 160;
    let Some(mut cluster) = Cluster::start(2, 1).await else { return };
    cluster.settled().await;
    let stays = cluster.gateways[0].base.clone();
    let (app, stop) = over(cluster.engines.postgres.config());
    let target = super::target(&cluster.gateways[0], &app, USERS / 5).await;
    stop.cancel();
    drop(app);
    let mut users = Vec::new();
    for n in 0..USERS {
        let (_, token) = &target.recipients[n / 5];
        users.push((cluster.gateways[1].hub(token).await, token.clone()));
    }
    let begun = Instant::now();
    cluster.gateways[1].terminate();
    let moving = users.into_iter().map(|(mut hub, token)| {
        tokio::spawn(async move {
            loop {
                match hub.next().await {
                    Ok(HubEvent::Close { allow_reconnect, .. }) => break assert!(allow_reconnect),
                    Ok(_) => {}
                    Err(error) => panic!("no goodbye: {error}"),
                }
            }
            (begun.elapsed(), token)
        })
    });
    let moving: Vec<_> = moving.collect();
    let (mut told, mut hubs) = (Vec::new(), Vec::new());
    for moved in moving {
        let (at, token) = moved.await.unwrap();
        told.push(at);
        hubs.push(HubClient::connect(&stays, &token).await.unwrap());
    }
    assert_eq!(cluster.gateways[1].ended().await, Some(0));
    told.sort();
    let spread = told[USERS - 1] - told[0];
    println!("told within {spread:?}, all back after {:?}", begun.elapsed());
    assert!(spread > Duration::from_millis(200), "all at once: {spread:?}");
    assert!(spread < Duration::from_secs(5), "not within seconds: {spread:?}");
    assert_eq!(cluster.gateways[0].metric("esh3ar_connections").await, USERS as f64);
    let sent = cluster.gateways[0].send(&target.sender, &number(0), "they are here").await;
    let (_, found) = next_messages(&mut hubs[0]).await;
    assert_eq!(id(&found[0]), sent);
}

/// What a gateway has answered is not overtaken by what another is told next, though its own way to the
/// broker stands still and nobody has noticed yet.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_has_not_confirmed_in_time_is_not_overtaken() {
    let Some(mut cluster) = Cluster::start(1, 1).await else { return };
    let wires = Wires::to(&cluster.engines).await;
    cluster.add_gateway_with(&wires.environment).await;
    cluster.settled().await;
    let [quick, slow] = &cluster.gateways[..] else { panic!() };
    let shop = quick.user("shop", "SendMessages");
    let mut hub = quick.hub(&quick.phone(&number(1))).await;
    let first = quick.send(&shop, &number(1), "it works").await;
    let (_, found) = next_messages(&mut hub).await;
    assert_eq!(id(&found[0]), first);
    wires.mq.set(Fault::Stall);
    let mut sent = Vec::new();
    for n in 0..4 {
        sent.push(slow.send(&shop, &number(1), &format!("slow {n}")).await);
        sent.push(quick.send(&shop, &number(1), &format!("quick {n}")).await);
    }
    let mut came = Vec::new();
    while came.len() < sent.len() {
        let found: Vec<String> = next_messages(&mut hub).await.1.iter().map(id).collect();
        // What is not acknowledged comes again.
        came.extend(found.into_iter().filter(|id| !came.contains(id)).collect::<Vec<_>>());
    }
    wires.mq.set(Fault::None);
    assert_eq!(came, sent);
}

/// Two gateways and a worker beside a gateway and a worker whose wires can be cut: some of those are, for
/// twenty seconds, without anybody being told.
async fn with_silent_wires(wires: impl for<'a> FnOnce(&'a Wires, &'a Wires) -> Vec<&'a Proxy>) {
    let Some(mut cluster) = Cluster::start(2, 1).await else { return };
    let gateway = Wires::to(&cluster.engines).await;
    let worker = Wires::to(&cluster.engines).await;
    cluster.add_gateway_with(&gateway.environment).await;
    cluster.add_worker_with(&worker.environment).await;
    cluster.gateways[2].expect_error("could not be stored");
    let cut = wires(&gateway, &worker);
    let (cluster, figures) = under_load(cluster, |cluster| async {
        cut.iter().for_each(|wire| wire.set(Fault::Stall));
        tokio::time::sleep(Duration::from_secs(20)).await;
        cut.iter().for_each(|wire| wire.set(Fault::None));
        cluster
    })
    .await;
    assert_kept(&cluster, &figures).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_a_broker_and_a_worker_without_redis() {
    with_silent_wires(|gateway, worker| vec![&gateway.mq, &worker.redis]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_and_a_worker_without_a_database() {
    with_silent_wires(|gateway, worker| vec![&gateway.postgres, &worker.postgres]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_redis_and_a_worker_without_a_broker() {
    with_silent_wires(|gateway, worker| vec![&gateway.redis, &worker.mq]).await;
}
