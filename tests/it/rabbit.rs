//! The room `queue::rabbit` against a real broker.

mod moves;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use esh3ar::{
    domain::{MessageId, Priority},
    queue::rabbit::{
        BrokerSettings, BrokerState, Consumer, PublishCounts, QueueType, QueueTypeChoice, Rabbit,
        WakeUp,
    },
};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{
    DEADLINE,
    proxy::{Fault, Proxy, Upstream},
    rabbit::{Broker, VirtualHost},
    redis::Redis,
    wait_for,
};

const PARTITIONS: u16 = 4;

fn settings(url: &str) -> BrokerSettings {
    BrokerSettings::new(url, PARTITIONS, QueueTypeChoice::Auto).unwrap()
}

/// Work that ends with its owner: by `stop` in order, dropped at once.
struct Running {
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Running {
    fn spawn<F: Future<Output = ()> + Send + 'static>(
        work: impl FnOnce(CancellationToken) -> F,
    ) -> Running {
        let stop = CancellationToken::new();
        let task = Some(tokio::spawn(work(stop.clone())));
        Running { stop, task }
    }

    async fn stop(mut self) {
        self.stop.cancel();
        let task = self.task.take().unwrap();
        tokio::time::timeout(DEADLINE, task).await.expect("an end in time").unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn connected(mut state: watch::Receiver<BrokerState>) {
    let found = state.wait_for(BrokerState::is_connected);
    tokio::time::timeout(DEADLINE, found).await.expect("a connection in time").unwrap();
}

async fn publisher(settings: &BrokerSettings) -> (Rabbit, Running) {
    let (rabbit, work) = Rabbit::new(settings);
    let running = Running::spawn(|stop| work.run(stop));
    connected(rabbit.state()).await;
    (rabbit, running)
}

/// A worker of one share with these partitions.
struct Worker {
    consumer: Consumer,
    plan: watch::Sender<Vec<u16>>,
    running: Running,
}

async fn worker(settings: &BrokerSettings, partitions: &[u16]) -> Worker {
    let (plan, planned) = watch::channel(partitions.to_vec());
    let (consumer, work) = Consumer::new(settings, 1, planned);
    let running = Running::spawn(|stop| work.run(stop));
    connected(consumer.state()).await;
    Worker { consumer, plan, running }
}

impl Worker {
    /// So many wake-ups, in the order in which they come.
    async fn take(&self, count: usize) -> Vec<WakeUp> {
        let mut taken = Vec::new();
        while taken.len() < count {
            let next = tokio::time::timeout(DEADLINE, self.consumer.next(0)).await;
            let next = next.unwrap_or_else(|_| panic!("{} of {count} came", taken.len()));
            taken.extend(&next.wake_ups);
            next.ack();
        }
        taken
    }

    /// Until all of these have come, whatever else comes.
    async fn take_until(&self, wanted: &[WakeUp]) {
        let mut missing: BTreeSet<u128> = wanted.iter().map(number).collect();
        while !missing.is_empty() {
            for wake_up in self.take(1).await {
                missing.remove(&number(&wake_up));
            }
        }
    }
}

fn wake_ups(from: u128, count: u128) -> Vec<WakeUp> {
    (from..from + count).map(wake_up).collect()
}

fn wake_up(n: u128) -> WakeUp {
    WakeUp { id: MessageId(Uuid::from_u128(n)), generation: 1 }
}

fn number(wake_up: &WakeUp) -> u128 {
    wake_up.id.0.as_u128()
}

/// Offers again and again until the broker has all of it: a connection that is about to be left loses
/// what is offered meanwhile.
async fn offer_until_confirmed(rabbit: &Rabbit, lane: Priority, partition: i16, what: &[WakeUp]) {
    let wanted = u64::try_from(what.len()).unwrap();
    let begun = Instant::now();
    loop {
        let before = rabbit.counts();
        rabbit.offer(lane, partition, what.to_vec()).settled().await;
        // Each wake-up is counted once, whatever became of it.
        let counted = || (total(rabbit.counts()) == total(before) + wanted).then_some(());
        wait_for("an outcome", counted).await;
        if rabbit.counts().confirmed == before.confirmed + wanted {
            return;
        }
        assert!(begun.elapsed() < DEADLINE, "{:?}", rabbit.counts());
    }
}

fn total(counts: PublishCounts) -> u64 {
    let PublishCounts { confirmed, no_room, returned, refused, timed_out, cut_off } = counts;
    confirmed + no_room + returned + refused + timed_out + cut_off
}

/// Everything that was offered has been confirmed.
async fn confirmed(rabbit: &Rabbit, count: u64) {
    let wanted = PublishCounts { confirmed: count, ..PublishCounts::default() };
    wait_for("confirmations", || (rabbit.counts() == wanted).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_lane_and_partition_keeps_its_order() {
    const BATCHES: u128 = 300;
    const OF: u128 = 20;
    let Some(host) = VirtualHost::new().await else { return };
    let settings = settings(&host.url());
    let (rabbit, _publishing) = publisher(&settings).await;
    let worker = worker(&settings, &[0, 1, 2, 3]).await;
    let place = |batch: u128| {
        let lane = Priority::ALL[usize::try_from(batch % 3).unwrap()];
        (lane, i16::try_from(batch * 7 % 64).unwrap())
    };
    for batch in 0..BATCHES {
        let (lane, partition) = place(batch);
        rabbit.offer(lane, partition, wake_ups(batch * OF, OF));
        if batch % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let taken = worker.take(usize::try_from(BATCHES * OF).unwrap()).await;
    let mut last = BTreeMap::new();
    for wake_up in &taken {
        let (lane, partition) = place(number(wake_up) / OF);
        let before = last.insert((lane.name(), partition % 4), number(wake_up));
        assert!(before < Some(number(wake_up)), "{wake_up:?} came after {before:?}");
    }
    let distinct: BTreeSet<u128> = taken.iter().map(number).collect();
    assert_eq!(distinct.len(), taken.len());
    confirmed(&rabbit, u64::try_from(BATCHES * OF).unwrap()).await;
    // All of it is acknowledged: nothing comes when the worker is gone.
    worker.running.stop().await;
    assert_eq!(host.waiting().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn higher_lanes_come_first_and_the_low_one_does_not_starve() {
    let Some(host) = VirtualHost::new().await else { return };
    let settings = settings(&host.url());
    let (rabbit, _publishing) = publisher(&settings).await;
    for batch in 0..20 {
        rabbit.offer(Priority::Low, 0, wake_ups(batch * 100, 100));
    }
    for batch in 0..40 {
        rabbit.offer(Priority::High, 0, wake_ups(10_000 + batch * 100, 100));
    }
    confirmed(&rabbit, 6000).await;
    let worker = worker(&settings, &[0, 1, 2, 3]).await;
    let consumer = &worker.consumer;
    wait_for("all of it to be here", || {
        let depth = (consumer.depth(Priority::Low), consumer.depth(Priority::High));
        (depth == (2000, 4000)).then_some(())
    })
    .await;
    let taken = worker.take(4000).await;
    let low = taken.iter().filter(|wake_up| number(wake_up) < 10_000).count();
    assert!((1..=10).contains(&low), "{low} of the low lane among the first 4000");
}

fn has_queue(host: &VirtualHost, name: &str) -> bool {
    host.list("queues").iter().any(|queue| queue["name"] == name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_queue_is_noticed_and_mended() {
    let Some(host) = VirtualHost::new().await else { return };
    let settings = settings(&host.url());
    let (rabbit, _publishing) = publisher(&settings).await;
    // Its regular look at the depths may find out first, so a few tries may be needed.
    let begun = Instant::now();
    while rabbit.counts().returned == 0 {
        assert!(begun.elapsed() < DEADLINE, "nothing comes back: {:?}", rabbit.counts());
        connected(rabbit.state()).await;
        host.delete_queue("esh3ar.v1.high.1");
        let before = rabbit.counts();
        rabbit.offer(Priority::High, 1, wake_ups(0, 3));
        wait_for("an outcome", || (rabbit.counts() != before).then_some(())).await;
    }
    assert_eq!(rabbit.counts().returned, 3);
    wait_for("the queue to be back", || has_queue(&host, "esh3ar.v1.high.1").then_some(())).await;
    offer_until_confirmed(&rabbit, Priority::High, 1, &wake_ups(10, 2)).await;
    // A worker notices as well.
    let worker = worker(&settings, &[1]).await;
    worker.take_until(&wake_ups(10, 2)).await;
    host.delete_queue("esh3ar.v1.low.1");
    wait_for("the queue to be back", || has_queue(&host, "esh3ar.v1.low.1").then_some(())).await;
    offer_until_confirmed(&rabbit, Priority::Low, 1, &wake_ups(20, 2)).await;
    worker.take_until(&wake_ups(20, 2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_dropped_comes_again() {
    let Some(host) = VirtualHost::new().await else { return };
    let settings = settings(&host.url());
    let (rabbit, _publishing) = publisher(&settings).await;
    let first = worker(&settings, &[0]).await;
    rabbit.offer(Priority::Normal, 0, wake_ups(0, 5));
    for _ in 0..3 {
        let taken = first.consumer.next(0).await;
        assert_eq!(taken.wake_ups, wake_ups(0, 5));
        drop(taken);
    }
    // In hand when the worker dies: another one gets it.
    let in_hand = first.consumer.next(0).await;
    let second = worker(&settings, &[0]).await;
    drop(first.running);
    assert_eq!(second.take(5).await, wake_ups(0, 5));
    // What the dead one says is of no concern any more.
    in_hand.ack();
    rabbit.offer(Priority::Normal, 0, wake_ups(5, 5));
    assert_eq!(second.take(5).await, wake_ups(5, 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poison_frame_among_a_thousand_blocks_nobody() {
    let Some(host) = VirtualHost::new().await else { return };
    let settings = settings(&host.url());
    let (rabbit, _publishing) = publisher(&settings).await;
    for n in 0..1000 {
        rabbit.offer(Priority::Normal, 2, vec![wake_up(n)]);
        if n % 10 == 0 {
            confirmed(&rabbit, u64::try_from(n + 1).unwrap()).await;
        }
        if n == 500 {
            host.publish("Esh3arTech.Messaging", "esh3ar.v1.normal.2", r#"{"v":9,"a":"b"}"#);
            host.publish("amq.default", "messaging.deadletter", "put here by hand");
        }
    }
    let worker = worker(&settings, &[2]).await;
    assert_eq!(worker.take(1000).await, wake_ups(0, 1000));
    let mut dead = BTreeMap::new();
    while dead.len() < 2 {
        let next = tokio::time::timeout(DEADLINE, worker.consumer.next_dead()).await.unwrap();
        let body = String::from_utf8(next.body.clone()).unwrap();
        dead.insert(body, (next.queue.clone(), next.reason.clone()));
        next.ack();
    }
    let (queue, reason) = &dead[r#"{"v":9,"a":"b"}"#];
    assert_eq!(queue, "esh3ar.v1.normal.2");
    assert_eq!(reason, "its version is 9; this esh3ar reads 1");
    let (queue, reason) = &dead["put here by hand"];
    assert_eq!(queue, "messaging.deadletter");
    assert_eq!(reason, "it is no JSON object");
    worker.running.stop().await;
    assert_eq!(host.waiting().await, 0);
}

/// A dead frame that was not stored is not lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_frame_comes_until_it_is_done() {
    let Some(host) = VirtualHost::new().await else { return };
    let worker = worker(&settings(&host.url()), &[]).await;
    host.publish("amq.default", "messaging.deadletter", "x");
    for _ in 0..3 {
        let next = tokio::time::timeout(DEADLINE, worker.consumer.next_dead()).await.unwrap();
        assert_eq!(next.body, b"x");
        drop(next);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_go_where_the_plan_wants_them() {
    let Some(host) = VirtualHost::new().await else { return };
    let settings = settings(&host.url());
    let (rabbit, _publishing) = publisher(&settings).await;
    let one = worker(&settings, &[0, 1, 2, 3]).await;
    let two = worker(&settings, &[]).await;
    let three = worker(&settings, &[]).await;
    // Everybody stands in line everywhere.
    let begun = Instant::now();
    while host.queues().await.iter().any(|queue| queue.consumer_count() != 3) {
        assert!(begun.elapsed() < DEADLINE, "waited in vain for all consumers");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut round = Round { rabbit: &rabbit, next: 0 };
    assert_eq!(round.leaders(&[&one, &two, &three]).await, [0, 0, 0, 0]);

    // The plan moves half of them. Each arrives within a few seconds, though who stood in line first
    // may be somebody else.
    one.plan.send_replace(vec![0, 1]);
    two.plan.send_replace(vec![2]);
    three.plan.send_replace(vec![3]);
    round.until(&[&one, &two, &three], [0, 0, 1, 2]).await;

    // The plan knows nothing yet, but the broker does: the dead one's partitions go on.
    let died = Instant::now();
    drop(two);
    let leaders = round.leaders(&[&one, &three]).await;
    assert_eq!((leaders[0], leaders[1], leaders[3]), (0, 0, 1));
    assert!(died.elapsed() < Duration::from_secs(5), "{:?}", died.elapsed());
    one.plan.send_replace(vec![0, 1, 2]);
    round.until(&[&one, &three], [0, 0, 0, 1]).await;
}

struct Round<'a> {
    rabbit: &'a Rabbit,
    next: u128,
}

impl Round<'_> {
    /// Who gets what is published to each partition.
    async fn leaders(&mut self, workers: &[&Worker]) -> [usize; 4] {
        let mut leaders = [usize::MAX; 4];
        for (partition, leader) in (0..).zip(&mut leaders) {
            self.next += 1;
            self.rabbit.offer(Priority::Normal, partition, vec![wake_up(self.next)]);
            let takes = workers.iter().map(|worker| Box::pin(worker.consumer.next(0)));
            let first = futures_util::future::select_all(takes);
            let (taken, by, _) = tokio::time::timeout(DEADLINE, first).await.expect("a taker");
            assert_eq!(taken.wake_ups, [wake_up(self.next)]);
            taken.ack();
            *leader = by;
        }
        leaders
    }

    async fn until(&mut self, workers: &[&Worker], wanted: [usize; 4]) {
        let begun = Instant::now();
        loop {
            let leaders = self.leaders(workers).await;
            if leaders == wanted {
                break;
            }
            let waited = begun.elapsed();
            assert!(waited < Duration::from_secs(20), "{leaders:?} instead of {wanted:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        eprintln!("the plan was followed after {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_network_is_noticed_and_left() {
    let Some(host) = VirtualHost::new().await else { return };
    let proxy = Proxy::start(Upstream::Tcp(format!("127.0.0.1:{}", host.port()))).await;
    let url = host.url().replace(&format!(":{}/", host.port()), &format!(":{}/", proxy.port));
    let settings = settings(&format!("{url}?heartbeat=1"));
    let (rabbit, _publishing) = publisher(&settings).await;
    let worker = worker(&settings, &[0, 1, 2, 3]).await;
    proxy.set(Fault::Stall);
    let mut states = [rabbit.state(), worker.consumer.state()];
    for state in &mut states {
        let down = state.wait_for(|state| matches!(state, BrokerState::Down { .. }));
        tokio::time::timeout(DEADLINE, down).await.expect("a notice in time").unwrap();
    }
    rabbit.offer(Priority::High, 0, wake_ups(0, 3));
    proxy.set(Fault::None);
    assert_eq!(worker.take(3).await, wake_ups(0, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_confirmation_that_never_comes_is_waited_for_only_so_long() {
    let Some(host) = VirtualHost::new().await else { return };
    let proxy = Proxy::start(Upstream::Tcp(format!("127.0.0.1:{}", host.port()))).await;
    let url = host.url().replace(&format!(":{}/", host.port()), &format!(":{}/", proxy.port));
    let (rabbit, _publishing) = publisher(&settings(&format!("{url}?heartbeat=60"))).await;
    rabbit.offer(Priority::Normal, 0, wake_ups(0, 1));
    confirmed(&rabbit, 1).await;
    proxy.set(Fault::LoseAnswers);
    rabbit.offer(Priority::Normal, 0, wake_ups(1, 7));
    wait_for("the end of patience", || (rabbit.counts().timed_out == 7).then_some(())).await;
    proxy.set(Fault::None);
    connected(rabbit.state()).await;
    // It was not lost, but that nobody could know.
    let worker = worker(&settings(&host.url()), &[0]).await;
    rabbit.offer(Priority::Normal, 0, wake_ups(8, 2));
    assert_eq!(worker.take(10).await, wake_ups(0, 10));
}

/// The last belt: a queue at its limit refuses, and what is there already stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_what_is_new() {
    let Some(host) = VirtualHost::new().await else { return };
    let settings = settings(&host.url());
    let (rabbit, _publishing) = publisher(&settings).await;
    // The broker takes the smaller of a policy's limit and ours.
    host.limit_queues(5);
    for n in 0..9 {
        let before = rabbit.counts();
        rabbit.offer(Priority::High, 3, vec![wake_up(n)]);
        wait_for("an outcome", || (rabbit.counts() != before).then_some(())).await;
    }
    let counts = rabbit.counts();
    assert_eq!(counts, PublishCounts { confirmed: 5, refused: 4, ..PublishCounts::default() });
    let worker = worker(&settings, &[3]).await;
    assert_eq!(worker.take(5).await, wake_ups(0, 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kind_of_queue_that_is_there_is_kept() {
    let Some(host) = VirtualHost::new().await else { return };
    let fixed =
        |kind| BrokerSettings::new(&host.url(), PARTITIONS, QueueTypeChoice::Fixed(kind)).unwrap();
    let (quorum, _one) = publisher(&fixed(QueueType::Quorum)).await;
    let kinds: BTreeSet<String> = host
        .list("queues")
        .iter()
        .map(|queue| queue["type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kinds, BTreeSet::from(["quorum".to_owned()]));
    // One node is named, so a new broker would get classic queues.
    let worker = worker(&settings(&host.url()), &[0]).await;
    quorum.offer(Priority::Low, 0, wake_ups(0, 500));
    assert_eq!(worker.take(500).await, wake_ups(0, 500));
    // And who insists is told.
    let (classic, work) = Rabbit::new(&fixed(QueueType::Classic));
    let _two = Running::spawn(|stop| work.run(stop));
    let mut state = classic.state();
    let told = state.wait_for(
        |state| matches!(state, BrokerState::Down { why, .. } if why.contains("with other properties")),
    );
    tokio::time::timeout(DEADLINE, told).await.expect("a refusal in time").unwrap();
}

/// Certificates for a broker on this machine; the authority's own is `ca.pem`.
fn certificates(folder: &std::path::Path) {
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let certificate = authority.self_signed(&authority_key).unwrap();
    std::fs::write(folder.join("ca.pem"), certificate.pem()).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let server = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let server = server.signed_by(&key, &issuer).unwrap();
    std::fs::write(folder.join("server.pem"), server.pem()).unwrap();
    std::fs::write(folder.join("server.key"), key.serialize_pem()).unwrap();
}

/// One broker for all of this, because each start of one takes ten seconds. The worker comes by TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_wiped_and_alarmed() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let at = |name: &str| folder.path().join(name).display().to_string();
    let port = crate::support::guard::free_port();
    let tls = format!(
        "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {}\n\
         ssl_options.certfile = {}\nssl_options.keyfile = {}\n",
        at("ca.pem"),
        at("server.pem"),
        at("server.key"),
    );
    let Some(mut broker) = Broker::start(&tls).await else { return };
    let (rabbit, publishing) = publisher(&settings(&broker.url())).await;
    let url = format!("amqps://guest:guest@localhost:{port}/?cacertfile={}", at("ca.pem"));
    let worker = worker(&settings(&url), &[0, 1, 2, 3]).await;
    rabbit.offer(Priority::Normal, 0, wake_ups(0, 10));
    assert_eq!(worker.take(10).await, wake_ups(0, 10));

    // Killed: both sides come back by themselves.
    broker.kill();
    let mut state = rabbit.state();
    state.wait_for(|state| matches!(state, BrokerState::Down { .. })).await.unwrap();
    rabbit.offer(Priority::Normal, 0, wake_ups(10, 10));
    broker.launch().await;
    let up = Instant::now();
    // What was acknowledged just before may come once more.
    worker.take_until(&wake_ups(10, 10)).await;
    assert!(up.elapsed() < Duration::from_secs(20), "{:?}", up.elapsed());

    // Wiped: what is ours is declared again.
    broker.stop().await;
    broker.wipe();
    broker.launch().await;
    let up = Instant::now();
    rabbit.offer(Priority::High, 3, wake_ups(20, 10));
    assert_eq!(worker.take(10).await, wake_ups(20, 10));
    assert!(up.elapsed() < Duration::from_secs(20), "{:?}", up.elapsed());

    // Alarmed: the broker says so when something is published; then nothing goes out and nobody hangs.
    broker.alarm(true).await;
    rabbit.offer(Priority::High, 0, wake_ups(30, 10));
    let blocked = state.wait_for(|state| matches!(state, BrokerState::Blocked { .. }));
    tokio::time::timeout(DEADLINE, blocked).await.expect("a notice in time").unwrap();
    let before = rabbit.counts();
    let offering = Instant::now();
    for n in 0..1000 {
        rabbit.offer(Priority::Low, 1, wake_ups(1000 + n * 100, 100));
    }
    assert!(offering.elapsed() < Duration::from_secs(1));
    let counts = rabbit.counts();
    assert_eq!(counts.no_room - before.no_room, 50_000, "{counts:?}");
    assert_eq!(counts.confirmed, before.confirmed);
    broker.alarm(false).await;
    connected(rabbit.state()).await;
    rabbit.offer(Priority::High, 2, wake_ups(50, 10));
    let all: Vec<WakeUp> = [wake_ups(30, 10), wake_ups(50, 10), wake_ups(1000, 50_000)].concat();
    worker.take_until(&all).await;

    // Stopping publishes what was offered before.
    rabbit.offer(Priority::Low, 0, wake_ups(60, 10));
    publishing.stop().await;
    assert_eq!(worker.take(10).await, wake_ups(60, 10));
    let stopping = Instant::now();
    worker.running.stop().await;
    assert!(stopping.elapsed() < Duration::from_secs(4), "{:?}", stopping.elapsed());
}

/// The harness itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_redis_forgets_and_comes_back() {
    let Some(mut redis) = Redis::start().await else { return };
    assert_eq!(redis.ask("SET a 1").as_deref(), Some("+OK\r\n"));
    redis.flush();
    assert_eq!(redis.ask("EXISTS a").as_deref(), Some(":0\r\n"));
    redis.ask("SET a 1");
    redis.stop();
    assert_eq!(redis.ask("PING"), None);
    redis.launch();
    assert_eq!(redis.ask("EXISTS a").as_deref(), Some(":0\r\n"));
    redis.replace();
    redis.disconnect("normal");
    assert!(redis.url().ends_with(&redis.port().to_string()));
}

/// Not a test: `cargo test --test it figures_of_the_broker -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn figures_of_the_broker() {
    let Some(host) = VirtualHost::new().await else { return };
    let settings = settings(&host.url());
    let (rabbit, _publishing) = publisher(&settings).await;
    let worker = worker(&settings, &[0, 1, 2, 3]).await;
    for (frames, of) in [(20_000, 1), (5_000, 20), (3_000, 100)] {
        let begun = Instant::now();
        let offering = async {
            for n in 0..frames {
                // One message more in a queue would share its frame, so each waits for room.
                while rabbit.depth(Priority::Normal) > 20_000 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                rabbit.offer(
                    Priority::Normal,
                    i16::try_from(n % 64).unwrap(),
                    wake_ups(n * of, of),
                );
            }
        };
        let count = usize::try_from(frames * of).unwrap();
        let (taken, ()) = tokio::join!(worker.take(count), offering);
        let seconds = begun.elapsed().as_secs_f64();
        println!("{frames} offers of {of}: {:.0} wake-ups/s", taken.len() as f64 / seconds);
    }
    let mut waits = Vec::new();
    for n in 0..200 {
        let begun = Instant::now();
        let taking = worker.take(1);
        tokio::join!(rabbit.offer(Priority::High, 0, vec![wake_up(n)]).settled(), taking);
        waits.push(begun.elapsed());
    }
    waits.sort();
    println!("a lone one, confirmed and taken: p50 {:?}, p95 {:?}", waits[100], waits[190]);
}
