//! Redis with TLS, behind Sentinels, and as a cluster.

use std::time::{Duration, Instant};

use esh3ar::{
    cache::{Cache, CacheKey, CacheKind},
    domain::rate::Rate,
    presence::RouteOutcome,
    redis::RateAdmission,
};

use super::{Node, delivered, nudged, party, until};
use crate::support::{self, guard::free_port, redis::Redis};

/// Everything that Redis does for two processes, once.
async fn everything_works(a: &Node, b: &Node) {
    // More than fit in one place of whatever divides keys among servers.
    let parties: Vec<_> = (0..40).map(party).collect();
    let mut registrations = Vec::new();
    for party in &parties[..30] {
        registrations.push(b.connect(party).await);
    }
    for party in &parties[..30] {
        a.routes_as(party, RouteOutcome::Delivered).await;
    }
    let reached = a.route(&parties).await;
    assert!(reached[..30].iter().all(|reach| *reach == RouteOutcome::Delivered), "{reached:?}");
    assert!(reached[30..].iter().all(|reach| *reach == RouteOutcome::Offline), "{reached:?}");
    for registration in &mut registrations {
        delivered(registration).await;
    }
    let asked: Vec<_> = parties.iter().collect();
    let online = a.presence.are_online(&asked).await;
    assert_eq!(online.iter().filter(|online| **online).count(), 30);
    drop(registrations);
    for party in &parties {
        a.routes_as(party, RouteOutcome::Offline).await;
    }
    for n in 0..10 {
        let (name, rates) = (format!("{n}"), [Rate { most: 5, window: Duration::from_secs(60) }]);
        assert_eq!(a.redis.admit(&name, 4, true, &rates).await.unwrap(), RateAdmission::Passed(4));
        assert_eq!(b.redis.admit(&name, 4, false, &rates).await.unwrap(), RateAdmission::Passed(1));
        a.redis.give_back(&name, 5, &rates).await.unwrap();
        let key = CacheKey::new(CacheKind::Unread, n, 1);
        Cache::Redis(a.redis.clone()).put(key.clone(), "3".into(), Duration::from_secs(9)).await;
        let found = Cache::Redis(b.redis.clone()).get(&key).await;
        assert_eq!(found.as_deref(), Some(&b"3"[..]));
    }
    // All that is kept can be forgotten, wherever it lies, and nothing else with it.
    let rates = [Rate { most: 5, window: Duration::from_secs(60) }];
    a.redis.admit("stays", 5, true, &rates).await.unwrap();
    for n in 0..2500 {
        let key = CacheKey::new(CacheKind::History, n, 1);
        Cache::Redis(a.redis.clone()).put(key, "page".into(), Duration::from_secs(60)).await;
    }
    assert!(b.redis.forget_entries().await.unwrap() >= 2500);
    assert_eq!(b.redis.forget_entries().await.unwrap(), 0);
    let key = CacheKey::new(CacheKind::History, 7, 1);
    assert!(Cache::Redis(a.redis.clone()).get(&key).await.is_none());
    let refused = b.redis.admit("stays", 1, true, &rates).await.unwrap();
    assert!(!matches!(refused, RateAdmission::Passed(_)), "{refused:?}");
}

/// Which the child is told to connect to: whom to trust is read from its environment.
const CHILD: &str = "ESH3AR_TEST_TLS_URL";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_tls() {
    if let Ok(url) = std::env::var(CHILD) {
        let (a, b) = (Node::start(0xA, &url).await, Node::start(0xB, &url).await);
        return everything_works(&a, &b).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some((_server, url)) = Redis::by_tls(folder.path()).await else { return };
    let certificate = folder.path().join("cert.pem");
    let certificate = certificate.to_str().unwrap();
    let child = |trusted: Option<&str>| {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["shared::kinds::by_tls", "--exact", "--nocapture"]).env(CHILD, &url);
        child.envs(trusted.map(|path| ("SSL_CERT_FILE", path)));
        child
    };
    let output = child(Some(certificate)).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{said}");
    // And to nobody else.
    let (redis, _heard) = esh3ar::redis::Redis::start(
        esh3ar::redis::RedisSettings {
            target: url.parse().unwrap(),
            node: [1; 8].into(),
            sealer: None,
        },
        &tokio_util::task::TaskTracker::new(),
        &tokio_util::sync::CancellationToken::new(),
    );
    until("a refusal", async || redis.why_down().contains("ertificate").then_some(())).await;
    assert!(!redis.state().up);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_sentinels_the_new_master_is_found() {
    let Some(mut master) = Redis::start().await else { return };
    let port = master.port().to_string();
    let quick = ["--repl-diskless-sync-delay", "0", "--replicaof", "127.0.0.1", &port];
    let replica = Redis::start_with(&quick).await.unwrap();
    support::guard::wait_until("a replica", || {
        replica.ask("INFO replication")?.contains("master_link_status:up").then_some(())
    });
    let sentinel = Redis::sentinel_of(&master, "main").await.unwrap();
    support::guard::wait_until("the Sentinel to know the replica", || {
        sentinel.ask("SENTINEL MASTER main")?.contains("num-slaves\r\n$1\r\n1").then_some(())
    });
    // One that is not there is passed over.
    let gone = free_port();
    let url = format!("redis+sentinel://127.0.0.1:{gone},127.0.0.1:{}/main", sentinel.port());
    let (a, b) = (Node::start(0xA, &url).await, Node::start(0xB, &url).await);
    everything_works(&a, &b).await;
    let phone = party(100);
    let mut registration = b.connect(&phone).await;
    a.routes_as(&phone, RouteOutcome::Delivered).await;
    master.kill();
    let began = Instant::now();
    until("the new master", async || {
        (replica.ask("ROLE")?.contains("master") && a.redis.state().up && b.redis.state().up)
            .then_some(())
    })
    .await;
    a.routes_as(&phone, RouteOutcome::Delivered).await;
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    nudged(&mut registration).await;
    delivered(&mut registration).await;
    drop(registration);
    everything_works(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster() {
    let Some(servers) = Redis::cluster(0).await else { return };
    let hosts: Vec<_> = servers.iter().map(|one| format!("127.0.0.1:{}", one.port())).collect();
    let url = format!("redis+cluster://{}", hosts.join(","));
    let (a, b) = (Node::start(0xA, &url).await, Node::start(0xB, &url).await);
    everything_works(&a, &b).await;
    // Whoever loses the way by which it hears finds another, and looks.
    let mut registration = b.connect(&party(100)).await;
    while tokio::time::timeout(Duration::from_millis(300), registration.next()).await.is_ok() {}
    servers.iter().for_each(|server| server.disconnect("pubsub"));
    nudged(&mut registration).await;
    until("it to hear again", async || {
        a.route_one(&party(100)).await;
        let heard = async { delivered(&mut registration).await };
        tokio::time::timeout(Duration::from_millis(300), heard).await.ok()
    })
    .await;
    everything_works(&a, &b).await;
}
