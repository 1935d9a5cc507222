//! What processes share by way of Redis: who is connected where, what is said to them, rates, entries.
//! The rooms of the library themselves, on real servers that are flushed, frozen and killed.

mod kinds;
mod rates;
mod sealed;

use std::time::{Duration, Instant};

use esh3ar::{
    cache::{Cache, CacheKey, CacheKind},
    domain::{ContentType, Message, MessageId, Party, Phone, Priority, Status, TokenId, UserId},
    presence::{Delivery, Outbound, Presence, Registration, Registry, Relay, RouteOutcome},
    redis::{Redis, RedisSealer, RedisSettings, RedisTarget},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::support::{self, DEADLINE, number};

/// A process of an installation, as far as Redis is concerned.
pub struct Node {
    pub redis: Redis,
    presence: Presence,
    stop: CancellationToken,
}

impl Node {
    pub async fn start(name: u8, url: &str) -> Node {
        let target: RedisTarget = url.parse().unwrap();
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let node = [name; 8].into();
        let sealer = Some(RedisSealer::new(b"of the installation", node).unwrap());
        let settings = RedisSettings { target, node, sealer };
        let (redis, heard) = Redis::start(settings, &tracker, &stop);
        let registry = Registry::new(8);
        let relay = Relay::start(redis.clone(), heard, &registry, &tracker, &stop);
        if redis.ready(DEADLINE).await.is_err() {
            panic!("no way to Redis: {}", redis.why_down());
        }
        Node { redis, presence: Presence::Shared(registry, relay), stop }
    }

    /// A connection, announced.
    pub async fn connect(&self, party: &Party) -> Registration {
        let registration = self.presence.register(party.clone(), TokenId(Uuid::from_u128(1)));
        registration.announcement().await;
        registration
    }

    pub async fn route(&self, parties: &[Party]) -> Vec<RouteOutcome> {
        let told =
            |party: &Party| (party.clone(), Outbound::Deliver(Delivery::new(message(party))));
        self.presence.route(parties.iter().map(told).collect()).await
    }

    pub async fn route_one(&self, party: &Party) -> RouteOutcome {
        self.route(std::slice::from_ref(party)).await[0]
    }

    /// Until a message to this party has this fate.
    pub async fn routes_as(&self, party: &Party, wanted: RouteOutcome) {
        until(&format!("{wanted:?}"), async || {
            (self.route_one(party).await == wanted).then_some(())
        })
        .await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub fn party(n: usize) -> Party {
    Party::Mobile(Phone::from_stored(&number(n)))
}

fn message(to: &Party) -> Message {
    let at = time::OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
    Message {
        id: MessageId(Uuid::from_u128(7)),
        position: None,
        sender: Party::Business(UserId(Uuid::from_u128(9))),
        from: "Shop".into(),
        recipient: to.clone(),
        subject: None,
        content: "hello".to_owned(),
        content_type: ContentType::Text,
        priority: Priority::High,
        status: Status::Pending,
        generation: 1,
        retry_count: 0,
        failure_reason: None,
        created_at: at,
        sent_at: None,
        delivered_at: None,
        read_at: None,
        flags: Vec::new(),
    }
}

/// Polls until there is something, or fails after the deadline.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The next thing of a kind that a registration is told.
async fn told(registration: &mut Registration, what: &str, wanted: impl Fn(&Outbound) -> bool) {
    let next = async { while !wanted(&registration.next().await.unwrap()) {} };
    tokio::time::timeout(DEADLINE, next).await.unwrap_or_else(|_| panic!("{what} in time"));
}

pub async fn nudged(registration: &mut Registration) {
    told(registration, "a nudge", |outbound| matches!(outbound, Outbound::Resync(_))).await;
}

pub async fn delivered(registration: &mut Registration) {
    told(registration, "a message", |outbound| {
        matches!(outbound, Outbound::Deliver(delivery) if delivery.message.content == "hello")
    })
    .await;
}

/// Until it was told all that it is told when Redis comes.
async fn settled(node: &Node) {
    let mut registration = node.connect(&party(999)).await;
    // Said twice at the beginning of each life of a connection; the rest is for a while to come.
    while tokio::time::timeout(Duration::from_millis(300), registration.next()).await.is_ok() {}
}

fn drain(registration: &mut Registration) {
    while registration.try_next().is_some() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seat_elsewhere_is_found_told_and_missed_when_it_is_left() {
    let Some(server) = support::redis::Redis::start().await else { return };
    let (a, b) = (Node::start(0xA, &server.url()).await, Node::start(0xB, &server.url()).await);
    let (there, nobody) = (party(1), party(2));
    assert_eq!(a.presence.are_online(&[&there, &nobody]).await, [false, false]);
    assert_eq!(a.route_one(&there).await, RouteOutcome::Offline);
    let mut registration = b.connect(&there).await;
    // At once, because whoever stores something from now on looks from now on.
    assert_eq!(a.presence.are_online(&[&there, &nobody]).await, [true, false]);
    let reached = a.route(&[nobody.clone(), there.clone()]).await;
    assert_eq!(reached, [RouteOutcome::Offline, RouteOutcome::Delivered]);
    delivered(&mut registration).await;
    // What needs no answer comes too, once to each connection.
    let mut second = b.connect(&there).await;
    a.presence.send(&there, &Outbound::Acknowledged([MessageId(Uuid::from_u128(5))].into()));
    for registration in [&mut registration, &mut second] {
        told(registration, "an acknowledgement", |o| matches!(o, Outbound::Acknowledged(_))).await;
    }
    drop(second);
    a.routes_as(&there, RouteOutcome::Delivered).await;
    drop(registration);
    a.routes_as(&there, RouteOutcome::Offline).await;
    assert_eq!(a.presence.are_online(&[&there]).await, [false]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_died_is_forgotten() {
    let Some(server) = support::redis::Redis::start().await else { return };
    let (a, b) = (Node::start(0xA, &server.url()).await, Node::start(0xB, &server.url()).await);
    let alive = "EXISTS esh3ar:v2:alive:0b0b0b0b0b0b0b0b";
    until("a sign of life", async || (server.ask(alive)? == ":1\r\n").then_some(())).await;
    let phone = party(1);
    let registration = b.connect(&phone).await;
    a.routes_as(&phone, RouteOutcome::Delivered).await;
    b.stop.cancel();
    until("its end", async || (!b.redis.state().up).then_some(())).await;
    // It still counts as alive: it may have lost its connection only, and come back.
    server.ask("SET esh3ar:v2:alive:0b0b0b0b0b0b0b0b 1");
    assert_eq!(a.route_one(&phone).await, RouteOutcome::Delivered);
    server.ask("DEL esh3ar:v2:alive:0b0b0b0b0b0b0b0b");
    let members = format!("SCARD esh3ar:v2:seats:{}", phone.key());
    assert_eq!(server.ask(&members).as_deref(), Some(":1\r\n"));
    a.routes_as(&phone, RouteOutcome::Offline).await;
    assert_eq!(server.ask(&members).as_deref(), Some(":0\r\n"));
    assert_eq!(a.presence.are_online(&[&phone]).await, [false]);
    drop(registration);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_was_emptied_is_filled_again_and_every_seat_looks() {
    let Some(server) = support::redis::Redis::start().await else { return };
    let (a, b) = (Node::start(0xA, &server.url()).await, Node::start(0xB, &server.url()).await);
    let mut registrations =
        [b.connect(&party(1)).await, b.connect(&party(2)).await, b.connect(&party(2)).await];
    settled(&b).await;
    // Only who was seen there once can be missed.
    let alive = "EXISTS esh3ar:v2:alive:0b0b0b0b0b0b0b0b";
    until("a sign of life", async || (server.ask(alive)? == ":1\r\n").then_some(())).await;
    registrations.iter_mut().for_each(drain);
    server.flush();
    let began = Instant::now();
    for registration in &mut registrations {
        nudged(registration).await;
    }
    // Before everything is put down again by itself, which is every minute.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    a.routes_as(&party(1), RouteOutcome::Delivered).await;
    a.routes_as(&party(2), RouteOutcome::Delivered).await;
    registrations.iter_mut().for_each(drain);
    assert_eq!(server.ask(&format!("SCARD esh3ar:v2:seats:{}", party(2).key())).unwrap(), ":2\r\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_did_not_hear_for_a_while_looks_whether_there_was_something() {
    let Some(server) = support::redis::Redis::start().await else { return };
    let (a, b) = (Node::start(0xA, &server.url()).await, Node::start(0xB, &server.url()).await);
    let mut registrations = [b.connect(&party(1)).await, b.connect(&party(2)).await];
    settled(&b).await;
    for _ in 0..3 {
        registrations.iter_mut().for_each(drain);
        // While something is on the way.
        let sending = async {
            for _ in 0..50 {
                a.route_one(&party(1)).await;
            }
        };
        let cutting = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            server.disconnect("pubsub");
        };
        tokio::join!(sending, cutting);
        for registration in &mut registrations {
            nudged(registration).await;
        }
        // And not before it hears again: what is said after the nudge is heard.
        a.redis.ready(DEADLINE).await.unwrap();
        drain(&mut registrations[0]);
        assert_eq!(a.route_one(&party(1)).await, RouteOutcome::Delivered);
        delivered(&mut registrations[0]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_nobody_waits_and_with_it_all_works_again() {
    let Some(mut server) = support::redis::Redis::start().await else { return };
    let (a, b) = (Node::start(0xA, &server.url()).await, Node::start(0xB, &server.url()).await);
    let phone = party(1);
    let mut registration = b.connect(&phone).await;
    a.routes_as(&phone, RouteOutcome::Delivered).await;
    settled(&b).await;
    server.kill();
    let began = Instant::now();
    until("it to be known", async || (!a.redis.state().up).then_some(())).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(a.route_one(&phone).await, RouteOutcome::Unknown);
        assert_eq!(a.presence.are_online(&[&phone]).await, [true], "nobody can say no");
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // Who comes meanwhile is put down later.
    let mut late = b.connect(&party(2)).await;
    drain(&mut registration);
    server.launch();
    let began = Instant::now();
    nudged(&mut registration).await;
    nudged(&mut late).await;
    a.routes_as(&phone, RouteOutcome::Delivered).await;
    a.routes_as(&party(2), RouteOutcome::Delivered).await;
    delivered(&mut registration).await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_left_while_redis_did_not_answer_is_gone_when_it_does() {
    let Some(server) = support::redis::Redis::start().await else { return };
    let (a, b) = (Node::start(0xA, &server.url()).await, Node::start(0xB, &server.url()).await);
    let (phone, other) = (party(1), party(2));
    let (registration, _stays) = (b.connect(&phone).await, b.connect(&other).await);
    a.routes_as(&phone, RouteOutcome::Delivered).await;
    server.freeze();
    until("it to be known", async || {
        let _ = b.redis.ping().await;
        (!b.redis.state().up).then_some(())
    })
    .await;
    drop(registration);
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.go_on();
    let began = Instant::now();
    a.routes_as(&other, RouteOutcome::Delivered).await;
    a.routes_as(&phone, RouteOutcome::Offline).await;
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_is_kept_for_all_and_its_loss_is_no_failure() {
    let Some(mut server) = support::redis::Redis::start().await else { return };
    let (a, b) = (Node::start(0xA, &server.url()).await, Node::start(0xB, &server.url()).await);
    let (here, there) = (Cache::Redis(a.redis.clone()), Cache::Redis(b.redis.clone()));
    let key = |version: u32| CacheKey::new(CacheKind::History, "somebody", version);
    let hour = Duration::from_secs(3600);
    assert_eq!(here.get(&key(1)).await, None);
    here.put(key(1), "one".into(), hour).await;
    assert_eq!(there.get(&key(1)).await.as_deref(), Some(&b"one"[..]));
    assert_eq!(there.get(&key(2)).await, None);
    there.put(key(2), "two".into(), Duration::from_millis(200)).await;
    until("its time to be over", async || here.get(&key(2)).await.is_none().then_some(())).await;
    server.kill();
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(here.get(&key(1)).await, None);
        here.put(key(1), "one".into(), hour).await;
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    server.launch();
    until("it to be kept again", async || {
        here.put(key(1), "again".into(), hour).await;
        there.get(&key(1)).await
    })
    .await;
}
