//! Queues that move between workers while they are at work. Some may come twice then; nothing may come
//! before what was published before it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use esh3ar::{domain::Priority, queue::rabbit::Rabbit};
use tokio::task::JoinHandle;

use super::{WakeUp, Worker, confirmed, number, publisher, settings, wake_up, wake_ups, worker};
use crate::support::{
    DEADLINE,
    proxy::{Fault, Proxy, Upstream},
    rabbit::VirtualHost,
    wait_for,
};

/// What several workers take, in the order in which they take it.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(usize, u128)>>>);

impl Log {
    /// Lets a worker work; it has each thing in hand for so long.
    fn work(&self, who: usize, worker: &Worker, each: Duration) -> Working {
        let (log, consumer) = (self.clone(), worker.consumer.clone());
        Working(tokio::spawn(async move {
            loop {
                let taken = consumer.next(0).await;
                log.0.lock().unwrap().extend(taken.wake_ups.iter().map(|w| (who, number(w))));
                tokio::time::sleep(each).await;
                taken.ack();
            }
        }))
    }

    fn count(&self, who: usize) -> usize {
        self.0.lock().unwrap().iter().filter(|(by, _)| *by == who).count()
    }

    /// Each thing where it came for the first time.
    fn first(&self) -> Vec<u128> {
        let mut seen = std::collections::BTreeSet::new();
        let log = self.0.lock().unwrap();
        log.iter().map(|(_, n)| *n).filter(|n| seen.insert(*n)).collect()
    }

    async fn has(&self, count: usize) {
        wait_for("everything to be taken", || (self.first().len() == count).then_some(())).await;
    }

    /// Nothing before what was published before it in its queue.
    fn assert_in_order(&self, queue: impl Fn(u128) -> u128) {
        let mut last = BTreeMap::new();
        for n in self.first() {
            let before = last.insert(queue(n), n);
            assert!(before < Some(n), "{n} came after {before:?}: {:?}", self.0.lock().unwrap());
        }
    }
}

struct Working(JoinHandle<()>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Two workers that both stand in every line, of which the first leads.
async fn two(host: &VirtualHost, first: &str) -> (Worker, Worker) {
    let one = worker(&settings(first), &[0, 1, 2, 3]).await;
    let two = worker(&settings(&host.url()), &[]).await;
    let begun = Instant::now();
    while host
        .queues()
        .await
        .iter()
        .any(|queue| queue.name().as_str() != "messaging.deadletter" && queue.consumer_count() != 2)
    {
        assert!(begun.elapsed() < DEADLINE, "waited in vain for all consumers");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    (one, two)
}

fn hand(from: &Worker, to: &Worker) {
    from.plan.send_replace(vec![]);
    to.plan.send_replace(vec![0, 1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_its_way_when_the_plan_changes_is_not_overtaken() {
    let Some(host) = VirtualHost::new().await else { return };
    let proxy = Proxy::start(Upstream::Tcp(format!("127.0.0.1:{}", host.port()))).await;
    let far = host.url().replace(&format!(":{}/", host.port()), &format!(":{}/", proxy.port));
    let (rabbit, _publishing) = publisher(&settings(&host.url())).await;
    let (one, two) = two(&host, &far).await;
    let log = Log::default();
    let _work = (log.work(1, &one, Duration::ZERO), log.work(2, &two, Duration::ZERO));
    rabbit.offer(Priority::Normal, 0, wake_ups(0, 1));
    log.has(1).await;
    assert_eq!(log.count(1), 1);
    // The first leaves at once, for it has nothing in hand; what the broker gave it comes later.
    proxy.set(Fault::Delay(Duration::from_millis(300)));
    rabbit.offer(Priority::Normal, 0, wake_ups(1, 1));
    confirmed(&rabbit, 2).await;
    hand(&one, &two);
    for n in 2..40 {
        rabbit.offer(Priority::Normal, 0, vec![wake_up(n)]);
        confirmed(&rabbit, u64::try_from(n + 1).unwrap()).await;
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    log.has(40).await;
    assert!(log.count(2) > 0, "it did not move");
    log.assert_in_order(|_| 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_cannot_finish_is_not_waited_for_and_overtakes_nobody() {
    let Some(host) = VirtualHost::new().await else { return };
    let (rabbit, _publishing) = publisher(&settings(&host.url())).await;
    let (one, two) = two(&host, &host.url()).await;
    let log = Log::default();
    let _work = (log.work(1, &one, Duration::from_secs(4)), log.work(2, &two, Duration::ZERO));
    rabbit.offer(Priority::Normal, 0, wake_ups(0, 3));
    wait_for("the first to have it in hand", || (log.count(1) == 3).then_some(())).await;
    rabbit.offer(Priority::Normal, 0, wake_ups(3, 3));
    hand(&one, &two);
    log.has(6).await;
    log.assert_in_order(|_| 0);
    // All of it, from what was not finished on.
    assert_eq!(log.count(2), 6);
    // The first finishes; that is of no concern any more, and it stands in line again.
    rabbit.offer(Priority::Normal, 0, wake_ups(6, 3));
    log.has(9).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    hand(&two, &one);
    rabbit.offer(Priority::Normal, 0, wake_ups(9, 1));
    log.has(10).await;
    log.assert_in_order(|_| 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_that_move_all_the_time_keep_their_order() {
    const MOVES: usize = 14;
    let Some(host) = VirtualHost::new().await else { return };
    let (rabbit, _publishing) = publisher(&settings(&host.url())).await;
    let (one, two) = two(&host, &host.url()).await;
    let log = Log::default();
    let _work =
        (log.work(1, &one, Duration::from_millis(2)), log.work(2, &two, Duration::from_millis(1)));
    let publishing = tokio::spawn(publish(rabbit.clone(), Duration::from_secs(8)));
    for n in 0..MOVES {
        tokio::time::sleep(Duration::from_millis(550)).await;
        let (from, to) = if n % 2 == 0 { (&one, &two) } else { (&two, &one) };
        hand(from, to);
    }
    let published = publishing.await.unwrap();
    log.has(usize::try_from(published).unwrap()).await;
    log.assert_in_order(|n| n % QUEUES);
    println!("{published} published, {} and {} taken", log.count(1), log.count(2));
    assert!(log.count(1) > 0 && log.count(2) > 0);
    // And all of it is acknowledged.
    drop(_work);
    one.running.stop().await;
    two.running.stop().await;
    assert_eq!(host.waiting().await, 0);
}

/// Three lanes of four partitions.
const QUEUES: u128 = 12;

/// One to each queue in turn, each after the one before it is confirmed.
async fn publish(rabbit: Rabbit, long: Duration) -> u128 {
    let begun = Instant::now();
    let mut n = 0;
    while begun.elapsed() < long {
        let offered: Vec<_> = (0..QUEUES)
            .map(|queue| {
                let lane = Priority::ALL[usize::try_from(queue % 3).unwrap()];
                let partition = i16::try_from(queue / 3).unwrap();
                let what: Vec<WakeUp> = vec![wake_up(n + queue)];
                rabbit.offer(lane, partition, what)
            })
            .collect();
        for offered in offered {
            assert!(offered.settled().await);
        }
        n += QUEUES;
    }
    n
}
