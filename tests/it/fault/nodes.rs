//! Engines of several nodes, or behind TLS, while nodes of them break.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::cluster::{assert_kept, under_load};
use crate::support::{
    DEADLINE,
    cluster::{Breaks, Cluster},
    guard::wait_until,
    redis::Redis,
};

/// Of each queue of ours, and of nobody else's; once all are declared.
fn kinds(cluster: &mut Cluster, node: usize) -> BTreeSet<String> {
    let broker = &cluster.brokers()[node];
    let queues = wait_until("all queues", || {
        let queues = broker.list("queues");
        (queues.len() == 3 * 16 + 1).then_some(queues)
    });
    queues.iter().map(|queue| queue["type"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_of_three_nodes_loses_one_and_then_another() {
    let Some(mut cluster) = Cluster::breakable(Breaks::MQ_OF_THREE, 2, 2).await else { return };
    cluster.settled().await;
    let quorum = BTreeSet::from(["quorum".to_owned()]);
    assert_eq!(kinds(&mut cluster, 0), quorum);
    let (mut cluster, figures) = under_load(cluster, |mut cluster| async {
        cluster.brokers()[1].kill();
        tokio::time::sleep(Duration::from_secs(5)).await;
        cluster.brokers()[1].launch().await;
        cluster.brokers()[0].stop().await;
        cluster.brokers()[0].launch().await;
        cluster
    })
    .await;
    assert_kept(&cluster, &figures).await;
    assert!(figures.refused.is_empty(), "{:?}", figures.refused);
    cluster.settled().await;
    for node in 0..3 {
        assert_eq!(kinds(&mut cluster, node), quorum);
    }
}

/// Load on a cluster with this Redis, while something happens to it.
async fn with_redis(more: &[(&str, &str)], fault: impl Future<Output = ()>) {
    let Some(cluster) = Cluster::start_with(2, 2, more).await else { return };
    let (cluster, figures) = under_load(cluster, |cluster| async {
        fault.await;
        cluster
    })
    .await;
    assert_kept(&cluster, &figures).await;
    // Sending goes on without it.
    assert!(figures.refused.is_empty(), "{:?}", figures.refused);
    cluster.settled().await;
}

async fn until(what: &str, mut look: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !look() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_of_a_redis_cluster_is_killed_and_its_replica_goes_on() {
    let Some(mut servers) = Redis::cluster(1).await else { return };
    let hosts: Vec<_> = servers.iter().map(|one| format!("127.0.0.1:{}", one.port())).collect();
    let url = format!("redis+cluster://{}", hosts.join(","));
    with_redis(&[("ESH3AR__CACHE__URL", &url)], async {
        let masters = |servers: &[Redis]| -> Vec<usize> {
            (0..servers.len()).filter(|n| servers[*n].is_master()).collect()
        };
        assert_eq!(masters(&servers).len(), 3);
        for _ in 0..2 {
            let first = masters(&servers)[0];
            servers[first].kill();
            until("a new master", || masters(&servers).len() == 3).await;
            servers[first].launch();
            until("the old one to follow", || !servers[first].is_master()).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_sentinels_a_killed_master_is_followed_by_its_replica() {
    let Some(mut master) = Redis::start().await else { return };
    let port = master.port().to_string();
    let quick = ["--repl-diskless-sync-delay", "0", "--replicaof", "127.0.0.1", &port];
    let replica = Redis::start_with(&quick).await.unwrap();
    wait_until("a replica", || {
        replica.ask("INFO replication")?.contains("master_link_status:up").then_some(())
    });
    let sentinel = Redis::sentinel_of(&master, "main").await.unwrap();
    wait_until("the Sentinel to know the replica", || {
        sentinel.ask("SENTINEL MASTER main")?.contains("num-slaves\r\n$1\r\n1").then_some(())
    });
    let url = format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port());
    with_redis(&[("ESH3AR__CACHE__URL", &url)], async {
        master.kill();
        until("the new master", || replica.is_master()).await;
        // The old one comes back and believes for a moment that it is the master still. A Sentinel that was
        // too slow to see the promotion gives the failover up: then the other one follows.
        master.launch();
        until("one to follow the other", || {
            master.ask("PING").is_some() && master.is_master() != replica.is_master()
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_behind_tls_is_killed_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let Some((mut server, url)) = Redis::by_tls(folder.path()).await else { return };
    let certificate = folder.path().join("cert.pem");
    let certificate = certificate.to_str().unwrap();
    with_redis(&[("ESH3AR__CACHE__URL", &url), ("SSL_CERT_FILE", certificate)], async {
        server.kill();
        tokio::time::sleep(Duration::from_secs(4)).await;
        server.launch();
    })
    .await;
}
