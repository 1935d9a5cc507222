//! Sends, connects, acknowledgements, deaths, time and requeues in any order, over the real store.
//!
//! The use cases and the store are the appliance's own; the devices are simulated around the same
//! feed that the hub's connections have, so that time can pass without waiting for it.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use esh3ar::{
    app::{
        App, Caller, Clock, Settings,
        delivery::dead_letters::DeadLetterAction,
        delivery::receipts::ReceiptKind,
        identity::access::Identity,
        messages::{SendRequest, Sent},
    },
    domain::{
        ContentType, Message, MessageId, Party, Permission, Permissions, Phone, Priority, Status,
        TokenId, UserId,
        feed::{
            Deliverable, DeliveryAttempt, Feed, FeedBatch, LiveDecision, MAX_REORDERING, PAGE_SIZE,
        },
        limits::Limits,
        message::MessageDraft,
        retry::RetryPolicy,
    },
    presence::{Outbound, Registration},
    queue::Queue,
    store::{Store, dead_letters::DeadLetterFilter, messages},
};
use proptest::{prelude::*, test_runner::Config};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use tokio::runtime::Runtime;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::support::{Server, operator, settings};

const PHONES: usize = 3;
/// Fewer than usual, so that a case of some steps gets as far as giving up.
const RETRIES: u16 = 2;

#[derive(Clone, Debug)]
enum Step {
    Send {
        to: usize,
        priority: Priority,
    },
    /// Some at once, so that they wait for the worker together.
    Burst {
        to: usize,
        priorities: Vec<Priority>,
    },
    Connect(usize),
    Die(usize),
    /// Acknowledges what was shown: all of it, or only the oldest.
    Acknowledge {
        by: usize,
        all: bool,
    },
    /// Says again what was said before.
    Repeat(usize),
    Pass(Duration),
    Requeue,
}

/// What a step needs to know to make sense.
#[derive(Clone, Debug, Default)]
struct World {
    online: [bool; PHONES],
}

impl ReferenceStateMachine for World {
    type State = World;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<World> {
        Just(World::default()).boxed()
    }

    fn transitions(_: &World) -> BoxedStrategy<Step> {
        let who = 0..PHONES;
        let priority = (0i16..3).prop_map(|number| Priority::from_number(number).unwrap());
        let several = prop::collection::vec(priority.clone(), 2..6);
        prop_oneof![
            6 => (who.clone(), priority).prop_map(|(to, priority)| Step::Send { to, priority }),
            2 => (who.clone(), several).prop_map(|(to, priorities)| Step::Burst { to, priorities }),
            3 => who.clone().prop_map(Step::Connect),
            2 => who.clone().prop_map(Step::Die),
            4 => (who.clone(), any::<bool>()).prop_map(|(by, all)| Step::Acknowledge { by, all }),
            1 => who.prop_map(Step::Repeat),
            3 => (1u64..40_000).prop_map(|millis| Step::Pass(Duration::from_millis(millis))),
            1 => Just(Step::Requeue),
        ]
        .boxed()
    }

    fn preconditions(world: &World, step: &Step) -> bool {
        match step {
            Step::Connect(who) => !world.online[*who],
            Step::Die(who) => world.online[*who],
            _ => true,
        }
    }

    fn apply(mut world: World, step: &Step) -> World {
        match step {
            Step::Connect(who) => world.online[*who] = true,
            Step::Die(who) => world.online[*who] = false,
            _ => {}
        }
        world
    }
}

/// A server whose Postgres holds the database of this test, and a runtime for its work.
struct Ground {
    runtime: Runtime,
    server: Server,
}

static GROUND: LazyLock<Mutex<Ground>> = LazyLock::new(|| {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(async {
        let server = Server::start().await;
        server.database().await.batch_execute("CREATE DATABASE machine").await.unwrap();
        server
    });
    Mutex::new(Ground { runtime, server })
});

/// Each case has phones of its own.
static CASES: AtomicUsize = AtomicUsize::new(0);

/// How often the rare things happened, over all cases: what never happens proves nothing.
#[derive(Default)]
struct Rare {
    retried: AtomicUsize,
    given_up: AtomicUsize,
    put_back: AtomicUsize,
    late: AtomicUsize,
    mixed_lanes: AtomicUsize,
}

static RARE: LazyLock<Rare> = LazyLock::new(Rare::default);

fn happened(what: &AtomicUsize) {
    what.fetch_add(1, Ordering::Relaxed);
}

/// Property 9: a higher lane first, apart from the one place that may be kept for the lowest.
fn assert_lanes(taken: &[i16]) {
    let Some((first, rest)) = taken.split_first() else { return };
    assert!(rest.is_sorted_by(|a, b| a >= b), "a lower lane came first: {taken:?}");
    let (highest, lowest) = (rest.first().unwrap_or(first), rest.last().unwrap_or(first));
    assert!(first >= highest || first <= lowest, "{taken:?}");
    if highest != lowest {
        happened(&RARE.mixed_lanes);
    }
}

struct Device {
    registration: Registration,
    feed: Feed,
    came: time::OffsetDateTime,
    /// What it shows on this connection, in order.
    shown: Vec<MessageId>,
}

struct Machine {
    app: App,
    clock: Clock,
    stop: CancellationToken,
    zero: Instant,
    passed: Duration,
    shop: Caller,
    phones: Vec<Phone>,
    devices: Vec<Option<Device>>,
    /// What was sent to each phone, in order.
    sent: Vec<Vec<(MessageId, Priority)>>,
    /// What each phone has ever seen, over all its connections.
    seen: Vec<HashSet<MessageId>>,
    acknowledged: Vec<Vec<MessageId>>,
    /// Generation, status and retries as they were last.
    last: HashMap<MessageId, (i32, i16, u16)>,
}

fn found(message: &Message) -> Deliverable {
    let attempt = DeliveryAttempt {
        id: message.id,
        position: message.position,
        generation: message.generation,
        retry_count: message.retry_count,
    };
    Deliverable {
        attempt,
        acknowledged: matches!(message.status, Status::Delivered | Status::Read),
    }
}

impl Machine {
    fn caller(&self, who: usize) -> Caller {
        Caller {
            token: TokenId(uuid::Uuid::nil()),
            expires_at: None,
            identity: Identity::Mobile { phone: self.phones[who].clone() },
        }
    }

    fn now(&self) -> Instant {
        self.zero + self.passed
    }

    /// Waits until everything noted so far is written: the ledger takes it in order.
    async fn written(&self) {
        let nobody = MessageId(uuid::Uuid::nil());
        self.app
            .delivery
            .acknowledge(&self.caller(0), ReceiptKind::Delivered, vec![(nobody, None)])
            .await
            .unwrap();
    }

    /// Lets everything happen that follows by itself.
    async fn settle(&mut self) {
        for _ in 0..2 {
            while self.app.delivery.sweep().await.unwrap() {}
            while self.app.process.queue_depths().iter().any(|(_, depth)| *depth > 0) {
                let Queue::Local(queue) = self.app.queue() else { unreachable!("embedded") };
                for share in 0..queue.shares() {
                    // What is there is there at once; an empty share is not waited for.
                    let next = queue.next(share, 100);
                    if let Some(taken) = futures_util::FutureExt::now_or_never(next) {
                        let lanes: Vec<i16> =
                            taken.iter().map(|d| d.message.priority as i16).collect();
                        assert_lanes(&lanes);
                        self.app.delivery.deliver(&taken).await;
                    }
                }
            }
            self.written().await;
            for who in 0..PHONES {
                self.run_device(who).await;
            }
            self.written().await;
        }
    }

    async fn run_device(&mut self, who: usize) {
        let (now, caller) = (self.now(), self.caller(who));
        let Some(device) = &mut self.devices[who] else { return };
        let mut fresh: Vec<MessageId> = Vec::new();
        let mut deferred = Vec::new();
        while let Some(outbound) = device.registration.try_next() {
            match outbound {
                Outbound::Deliver(delivery) => {
                    match device.feed.on_live(found(&delivery.message), now) {
                        LiveDecision::Send => fresh.push(delivery.message.id),
                        LiveDecision::Defer => deferred.push(delivery),
                        LiveDecision::Hold | LiveDecision::Drop => {}
                    }
                }
                Outbound::Resync(from) => device.feed.on_resync(from),
                Outbound::Acknowledged(ids) => {
                    device.feed.on_acknowledged_elsewhere(ids.iter().copied());
                }
                _ => {}
            }
        }
        if let Some(missed) = device.registration.take_missed() {
            missed.from.into_iter().for_each(|from| device.feed.on_passed_over(from));
            device.feed.on_resync(missed.about);
        }
        while let Some(reading) = device.feed.begin_read() {
            if device.feed.is_new() {
                let before = MessageId::first_of(device.came - MAX_REORDERING);
                let before = self.app.delivery.latest_acknowledged(&caller, before).await.unwrap();
                device.feed.on_opened(&before, now);
            }
            let since = device.came - MAX_REORDERING;
            let unsent =
                self.app.delivery.unsent(&caller, &reading, since, PAGE_SIZE).await.unwrap();
            let unsent: Vec<Deliverable> = unsent.iter().map(found).collect();
            match device.feed.on_read(&unsent, false, now) {
                FeedBatch::Page(ids) | FeedBatch::Singly(ids) => fresh.extend(ids),
                FeedBatch::Nothing => {}
            }
        }
        for delivery in deferred {
            if device.feed.on_live(found(&delivery.message), now) == LiveDecision::Send {
                fresh.push(delivery.message.id);
            }
        }
        self.show(who, &fresh);
    }

    fn show(&mut self, who: usize, ids: &[MessageId]) {
        let place: HashMap<MessageId, (usize, Priority)> =
            self.sent[who].iter().enumerate().map(|(n, (id, p))| (*id, (n, *p))).collect();
        let device = self.devices[who].as_mut().unwrap();
        for id in ids {
            let (number, priority) = place.get(id).copied().expect("somebody else's message");
            if self.seen[who].insert(*id) {
                // Retries apart, one priority's messages come in the order they were accepted.
                let overtaken = device.shown.iter().find(|shown| {
                    let (other, of) = place[shown];
                    of == priority && other > number
                });
                assert_eq!(overtaken, None, "{number} came after a later one");
            }
            device.shown.push(*id);
        }
    }

    async fn acknowledge(&mut self, who: usize, ids: Vec<MessageId>) {
        let known: HashSet<MessageId> = self.acknowledged[who].iter().copied().collect();
        let different: HashSet<MessageId> = ids.iter().copied().collect();
        let expected = different.difference(&known).count();
        if different.iter().any(|id| self.last.get(id).is_some_and(|last| last.1 == 4)) {
            happened(&RARE.late);
        }
        let said = ids.iter().map(|id| (*id, None)).collect();
        let changed = self
            .app
            .delivery
            .acknowledge(&self.caller(who), ReceiptKind::Delivered, said)
            .await
            .unwrap()
            .len();
        // A word that was said before changes nothing, in whatever generation the message is.
        assert_eq!(changed, expected);
        self.acknowledged[who].extend(different.difference(&known));
        if let Some(device) = &mut self.devices[who] {
            device.feed.on_acknowledged(&ids);
            device.shown.retain(|id| !different.contains(id));
        }
    }

    async fn send(&mut self, to: usize, priority: Priority) {
        let request = SendRequest {
            to: self.phones[to].as_str().to_owned(),
            draft: MessageDraft {
                subject: None,
                content: "x".to_owned(),
                content_type: ContentType::default(),
                priority,
            },
        };
        let sent = self.app.messages.send(&self.shop, request, None, |_| (202, String::new()));
        let Ok(Sent::Now(message)) = sent.await else { panic!("not accepted") };
        self.sent[to].push((message.id, priority));
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Send { to, priority } => self.send(*to, *priority).await,
            Step::Burst { to, priorities } => {
                for priority in priorities {
                    self.send(*to, *priority).await;
                }
            }
            Step::Connect(who) => {
                let party = Party::Mobile(self.phones[*who].clone());
                let registration =
                    self.app.presence().local().register(party, TokenId(uuid::Uuid::nil()));
                let timeout = self.app.runtime_settings().retry.acknowledge_timeout;
                let came = self.clock.now();
                let feed = Feed::new(timeout, MessageId::first_of(came - MAX_REORDERING));
                self.devices[*who] = Some(Device { registration, feed, came, shown: Vec::new() });
            }
            Step::Die(who) => {
                let mut device = self.devices[*who].take().unwrap();
                let at = self.clock.now();
                let lost: Vec<_> =
                    device.feed.abandon().into_iter().map(|(attempt, _)| (attempt, at)).collect();
                drop(device.registration);
                self.app.delivery.record_written(lost, Some("socket_broken"));
            }
            Step::Acknowledge { by, all } => {
                let Some(device) = &self.devices[*by] else { return };
                let most = if *all { device.shown.len() } else { 1 };
                let ids: Vec<MessageId> = device.shown.iter().copied().take(most).collect();
                if !ids.is_empty() {
                    self.acknowledge(*by, ids).await;
                }
            }
            Step::Repeat(who) => {
                let ids: Vec<MessageId> =
                    self.acknowledged[*who].iter().copied().rev().take(5).collect();
                if !ids.is_empty() {
                    self.acknowledge(*who, ids).await;
                }
            }
            Step::Pass(time) => {
                self.clock.advance(*time);
                self.passed += *time;
                let now = self.now();
                let at = self.clock.now();
                for device in self.devices.iter_mut().flatten() {
                    let overdue = device.feed.on_tick(now);
                    let sent = overdue.sent.into_iter().map(|(attempt, _)| (attempt, at)).collect();
                    self.app.delivery.record_written(sent, None);
                    let missed = overdue.missed.into_iter().map(|(attempt, _)| (attempt, at));
                    self.app.delivery.record_missed(missed.collect());
                }
            }
            Step::Requeue => {
                let filter = DeadLetterFilter {
                    kind: Some("delivery".to_owned()),
                    ..DeadLetterFilter::default()
                };
                for letter in self
                    .app
                    .delivery
                    .list_dead_letters(&operator(), &filter, 10_000)
                    .await
                    .unwrap()
                    .items
                {
                    let mine = letter.to.is_some_and(|to| self.phones.contains(&to));
                    let filter =
                        DeadLetterFilter { ids: vec![letter.id], ..DeadLetterFilter::default() };
                    if mine {
                        happened(&RARE.put_back);
                        self.app
                            .delivery
                            .change_dead_letters(
                                DeadLetterAction::Requeue,
                                &operator(),
                                &filter,
                                1,
                                |_| (),
                            )
                            .await
                            .unwrap();
                    }
                }
            }
        }
    }

    async fn check(&mut self) {
        for who in 0..PHONES {
            let mut waiting = Vec::new();
            let filter = messages::MessageFilter {
                recipient: Some(self.phones[who].clone()),
                after: Some(MessageId(uuid::Uuid::nil())),
                ..messages::MessageFilter::default()
            };
            let stored =
                self.app.messages.list_all(&operator(), &filter, 10_000).await.unwrap().items;
            let ids = |all: &[Message]| all.iter().map(|m| m.id).collect::<Vec<_>>();
            let sent: Vec<MessageId> = self.sent[who].iter().map(|(id, _)| *id).collect();
            assert_eq!(ids(&stored), sent, "what was accepted is stored, and nothing else");
            for message in stored {
                let id = message.id;
                let now = (message.generation, message.status as i16, message.retry_count);
                let before = self.last.insert(id, now).unwrap_or_default();
                // Properties 3 and 4: inside a generation neither goes back.
                assert!(now.0 >= before.0, "{before:?} to {now:?}");
                if now.0 == before.0 {
                    assert!(now.1 >= before.1 && now.2 >= before.2, "{before:?} to {now:?}");
                }
                assert!(now.2 <= RETRIES);
                if now.2 > before.2 {
                    happened(&RARE.retried);
                }
                if now.1 == 4 && before.1 != 4 {
                    happened(&RARE.given_up);
                }
                let acknowledged = self.acknowledged[who].contains(&id);
                assert_eq!(message.status as i16 == 2, acknowledged, "{message:?}");
                if message.status.is_waiting() {
                    waiting.push(id);
                }
            }
            // Property 14: what waits is found, all of it, oldest first.
            let found =
                self.app.delivery.pending_after(&self.caller(who), None, 1000).await.unwrap();
            assert_eq!(ids(&found), waiting);
        }
    }
}

struct OverTheStore;

impl StateMachineTest for OverTheStore {
    type SystemUnderTest = Machine;
    type Reference = World;

    fn init_test(_: &World) -> Machine {
        let ground = GROUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut config = tokio_postgres::Config::new();
        config.host_path(ground.server.data().join("run")).user("esh3ar").dbname("machine");
        let clock = Clock::standing_at(time::OffsetDateTime::now_utc());
        let usual = settings();
        let limits = Limits {
            messages_per_minute: 0,
            messages_per_hour: 0,
            messages_per_second: 0,
            queue_depth: 0,
            connects_per_user_per_minute: 0,
            connects_per_business_user_per_minute: 0,
            conversations_per_user_per_hour: 0,
            conversations_per_business_user_per_hour: 0,
            writes_per_user_per_minute: 0,
            writes_per_business_user_per_minute: 0,
            admin_requests_per_minute: 0,
            ..usual.runtime.limits
        };
        let retry = RetryPolicy { attempts: RETRIES, ..usual.runtime.retry };
        let runtime = esh3ar::app::RuntimeSettings { limits, retry, ..usual.runtime };
        let settings = Settings { clock: clock.clone(), runtime, ..usual };
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let case = CASES.fetch_add(1, Ordering::Relaxed);
        let app = ground.runtime.block_on(async {
            let store = Store::new(config, 4).unwrap();
            let mut client = store.client().await.unwrap();
            esh3ar::store::migrate::run(&mut client, None).await.unwrap();
            drop(client);
            App::start(settings, store, &tracker, &stop)
        });
        let phones = (0..PHONES)
            .map(|n| Phone::parse(&crate::support::number(case * PHONES + n), None).unwrap())
            .collect();
        Machine {
            app,
            clock,
            stop,
            zero: Instant::now(),
            passed: Duration::ZERO,
            shop: Caller {
                token: TokenId(uuid::Uuid::nil()),
                expires_at: None,
                identity: Identity::Business {
                    id: UserId(uuid::Uuid::now_v7()),
                    name: "shop".into(),
                    permissions: Permissions::NONE.with(Permission::SendMessages),
                },
            },
            phones,
            devices: (0..PHONES).map(|_| None).collect(),
            sent: vec![Vec::new(); PHONES],
            seen: vec![HashSet::new(); PHONES],
            acknowledged: vec![Vec::new(); PHONES],
            last: HashMap::new(),
        }
    }

    fn apply(mut machine: Machine, _: &World, step: Step) -> Machine {
        let ground = GROUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        ground.runtime.block_on(async {
            machine.step(&step).await;
            machine.settle().await;
            machine.check().await;
        });
        machine
    }

    /// In the end everybody comes back and gets everything that was not given up.
    fn teardown(mut machine: Machine, _: World) {
        let ground = GROUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        ground.runtime.block_on(async {
            for who in 0..PHONES {
                if machine.devices[who].is_none() {
                    machine.step(&Step::Connect(who)).await;
                }
            }
            machine.step(&Step::Requeue).await;
            // Retries wait for their time, and a window takes so many at once.
            for _ in 0..20 {
                let open =
                    |who: &usize| machine.acknowledged[*who].len() < machine.sent[*who].len();
                if !(0..PHONES).any(|who| open(&who)) {
                    break;
                }
                machine.settle().await;
                for by in 0..PHONES {
                    machine.step(&Step::Acknowledge { by, all: true }).await;
                }
                machine.step(&Step::Pass(Duration::from_secs(4))).await;
            }
            machine.settle().await;
            machine.check().await;
            for who in 0..PHONES {
                let got: HashSet<MessageId> = machine.acknowledged[who].iter().copied().collect();
                let sent: HashSet<MessageId> =
                    machine.sent[who].iter().map(|(id, _)| *id).collect();
                assert_eq!(got, sent, "everything that was accepted arrives");
            }
        });
        machine.stop.cancel();
    }
}

prop_state_machine! {
    #![proptest_config(Config { cases: 100, max_shrink_iters: 200, ..Config::default() })]
    fn random_histories(sequential 5..30 => OverTheStore);
}

/// Chance may pass by what is rare: this history has all of it.
fn a_history_of_rare_events() {
    let long = || Step::Pass(Duration::from_secs(39));
    let priorities = vec![Priority::Low, Priority::High, Priority::Normal];
    let mut script = vec![Step::Connect(0), Step::Burst { to: 0, priorities }];
    // On a busy machine a pass may find the last one's retries not handed over yet.
    for _ in 0..3 {
        script.extend((0..4).map(|_| long()));
        script.push(Step::Requeue);
    }
    script.extend((0..8).map(|_| long()));
    script.push(Step::Acknowledge { by: 0, all: true });
    let world = World::default();
    let mut machine = OverTheStore::init_test(&world);
    for step in script {
        machine = OverTheStore::apply(machine, &world, step);
    }
    OverTheStore::teardown(machine, world);
}

/// **Feature: enhanced-messaging-system, Property 3: Message Status Progression**
/// **Feature: enhanced-messaging-system, Property 4: Retry Count Monotonicity**
/// **Feature: enhanced-messaging-system, Property 8: Message Delivery Idempotency**
/// **Feature: enhanced-messaging-system, Property 9: Priority Queue Ordering**
/// **Feature: enhanced-messaging-system, Property 14: Offline Message Queuing**
#[test]
fn any_order_of_events_keeps_every_promise() {
    random_histories();
    a_history_of_rare_events();
    let Rare { retried, given_up, put_back, late, mixed_lanes } = &*RARE;
    for (name, count) in [
        ("retried", retried),
        ("given up", given_up),
        ("put back", put_back),
        ("acknowledged late", late),
        ("in several lanes", mixed_lanes),
    ] {
        let count = count.load(Ordering::Relaxed);
        println!("{count} times {name}");
        assert!(count > 0, "nothing was ever {name}");
    }
}
