//! Conversations begun, written in, read, put away, given up and put back in any order, over the real
//! store, by two processes that share one cache; after every step each page that is kept is held against
//! the rows themselves.

use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use esh3ar::{
    app::{
        App, Caller, Clock, Error, Settings,
        chat::conversations::ChatRequest,
        delivery::dead_letters::DeadLetterAction,
        delivery::receipts::ReceiptKind,
        identity::access::Identity,
        messages::{SendRequest, Sent},
    },
    cache::Cache,
    domain::{
        Conversation, ConversationId, ConversationStatus, Message, MessageId, Party, Permission,
        Permissions, Phone, Status, TokenId, feed::DeliveryAttempt, limits::Limits,
        message::MessageDraft,
    },
    store::{ListPage, Store, conversations::ConversationFilter, dead_letters},
};
use proptest::{prelude::*, test_runner::Config};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use tokio::runtime::Runtime;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::support::{Server, operator, settings};

/// Business users and phones: each may talk with each.
const SIDES: usize = 2;
const RETRIES: usize = 6;

/// One of the two of a pair.
type Pair = (usize, usize);

#[derive(Clone, Debug)]
enum Step {
    /// By so many hands at once, from either side.
    Open {
        pair: Pair,
        hands: usize,
    },
    /// So many at once, from one side or both; with a name that may have been used before.
    Say {
        pair: Pair,
        by_phone: bool,
        both: bool,
        count: usize,
        name: Option<u8>,
    },
    Read {
        pair: Pair,
        by_phone: bool,
        up_to: Option<i64>,
    },
    /// The same by ids.
    Opened {
        pair: Pair,
        by_phone: bool,
        last: usize,
    },
    Acknowledge {
        pair: Pair,
        by_phone: bool,
        last: usize,
    },
    Status {
        pair: Pair,
        status: ConversationStatus,
    },
    /// The last message is not acknowledged so often.
    Miss {
        pair: Pair,
        times: usize,
    },
    Requeue,
    /// The phone answers a one-way message.
    Answer {
        pair: Pair,
    },
}

#[derive(Clone, Debug, Default)]
struct AnyOrder;

impl ReferenceStateMachine for AnyOrder {
    type State = AnyOrder;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<AnyOrder> {
        Just(AnyOrder).boxed()
    }

    fn transitions(_: &AnyOrder) -> BoxedStrategy<Step> {
        let pair = || (0..SIDES, 0..SIDES);
        let last = 1usize..4;
        prop_oneof![
            2 => (pair(), 1usize..4).prop_map(|(pair, hands)| Step::Open { pair, hands }),
            8 => (pair(), any::<bool>(), any::<bool>(), 1usize..4, prop::option::weighted(0.2, 0u8..3))
                .prop_map(|(pair, by_phone, both, count, name)| {
                    Step::Say { pair, by_phone, both, count, name }
                }),
            3 => (pair(), any::<bool>(), prop::option::of(0i64..12))
                .prop_map(|(pair, by_phone, up_to)| Step::Read { pair, by_phone, up_to }),
            2 => (pair(), any::<bool>(), last.clone())
                .prop_map(|(pair, by_phone, last)| Step::Opened { pair, by_phone, last }),
            4 => (pair(), any::<bool>(), last)
                .prop_map(|(pair, by_phone, last)| Step::Acknowledge { pair, by_phone, last }),
            2 => (pair(), 0i16..3).prop_map(|(pair, status)| Step::Status {
                pair,
                status: ConversationStatus::from_number(status).unwrap(),
            }),
            2 => (pair(), 1..=RETRIES + 1).prop_map(|(pair, times)| Step::Miss { pair, times }),
            1 => Just(Step::Requeue),
            1 => pair().prop_map(|pair| Step::Answer { pair }),
        ]
        .boxed()
    }

    fn apply(world: AnyOrder, _: &Step) -> AnyOrder {
        world
    }
}

struct Ground {
    runtime: Runtime,
    server: Server,
}

static GROUND: LazyLock<Mutex<Ground>> = LazyLock::new(|| {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(async {
        let server = Server::start().await;
        server.database().await.batch_execute("CREATE DATABASE chat_machine").await.unwrap();
        server
    });
    Mutex::new(Ground { runtime, server })
});

/// Each case has users of its own.
static CASES: AtomicUsize = AtomicUsize::new(0);

/// What should be there.
#[derive(Clone, Debug)]
struct Line {
    id: MessageId,
    by_phone: bool,
    status: Status,
}

#[derive(Debug)]
struct Model {
    id: ConversationId,
    status: ConversationStatus,
    messages: Vec<Line>,
}

struct Machine {
    /// Two processes with one cache.
    apps: [App; 2],
    stop: CancellationToken,
    turn: usize,
    case: usize,
    shops: Vec<Caller>,
    shop_phones: Vec<Phone>,
    phones: Vec<Caller>,
    talks: HashMap<Pair, Model>,
    names: HashMap<(Pair, bool, u8), MessageId>,
    one_way: Vec<MessageId>,
}

fn mobile(phone: Phone) -> Caller {
    Caller {
        token: TokenId(uuid::Uuid::nil()),
        expires_at: None,
        identity: Identity::Mobile { phone },
    }
}

fn render(messages: &[Message]) -> Vec<u8> {
    format!("{messages:#?}").into_bytes()
}

fn render_list(found: &ListPage<Conversation>, limit: usize, of: &Party) -> Vec<u8> {
    let shown: Vec<_> = found
        .items
        .iter()
        .take(limit)
        .map(|c| (c.id, c.status, c.last_seq, c.last_at, c.side(of).map(|side| c.unread(side))))
        .collect();
    format!("{shown:?}").into_bytes()
}

fn say(content: String, name: Option<String>) -> ChatRequest {
    ChatRequest {
        draft: MessageDraft { content, ..MessageDraft::default() },
        client_message_id: name,
    }
}

impl Machine {
    /// The processes take turns.
    fn app(&mut self) -> App {
        self.turn += 1;
        self.apps[self.turn % 2].clone()
    }

    fn caller(&self, pair: Pair, phone: bool) -> Caller {
        if phone { self.phones[pair.1].clone() } else { self.shops[pair.0].clone() }
    }

    async fn open(&mut self, pair: Pair, hands: usize) -> ConversationId {
        let number = |caller: &Caller| match caller.party() {
            Party::Mobile(phone) => phone,
            Party::Business(_) => self.shop_phones[pair.0].clone(),
        };
        let opening = (0..hands).map(|hand| {
            let by_phone = hand % 2 == 1;
            let (caller, other) = (self.caller(pair, by_phone), self.caller(pair, !by_phone));
            let (app, to) = (self.apps[hand % 2].clone(), number(&other));
            async move { app.chat.open(&caller, to.as_str()).await.unwrap() }
        });
        let opened = futures_util::future::join_all(opening).await;
        // Property 2: one a pair, whoever begins it, under whatever race.
        let id = opened[0].0.id;
        assert!(opened.iter().all(|(conversation, _)| conversation.id == id), "{opened:?}");
        let begun = opened.iter().filter(|(_, begun)| *begun).count();
        assert_eq!(begun, usize::from(!self.talks.contains_key(&pair)));
        let new = Model { id, status: ConversationStatus::Active, messages: Vec::new() };
        assert_eq!(self.talks.entry(pair).or_insert(new).id, id);
        id
    }

    async fn say(
        &mut self,
        pair: Pair,
        by_phone: bool,
        both: bool,
        count: usize,
        name: Option<u8>,
    ) {
        let id = self.open(pair, 1).await;
        let sides: Vec<bool> = (0..count).map(|n| by_phone ^ (both && n % 2 == 1)).collect();
        let name_of = |n: usize, side: bool| {
            let name = name.filter(|_| n == 0)?;
            Some(format!("{}/{pair:?}/{side}/{name}", self.case))
        };
        let saying = sides.iter().enumerate().map(|(n, side)| {
            let app = self.apps[(self.turn + n) % 2].clone();
            let (caller, request) =
                (self.caller(pair, *side), say(format!("{n}"), name_of(n, *side)));
            async move { (*side, app.chat.send(&caller, id, request, 0).await) }
        });
        let said = futures_util::future::join_all(saying).await;
        let model = self.talks.get_mut(&pair).unwrap();
        let mut fresh = Vec::new();
        for (n, (side, result)) in said.into_iter().enumerate() {
            let known =
                name.filter(|_| n == 0).and_then(|name| self.names.get(&(pair, side, name)));
            match (known, result) {
                // A repeat is answered as before, whatever has become of the conversation.
                (Some(known), Ok((message, new))) => assert_eq!((message.id, new), (*known, false)),
                (None, Ok((message, true))) => {
                    if let Some(name) = name.filter(|_| n == 0) {
                        self.names.insert((pair, side, name), message.id);
                    }
                    fresh.push((message, side));
                }
                (None, Err(Error::Conflict(text))) => {
                    assert_eq!(model.status, ConversationStatus::Closed);
                    assert!(text.contains("closed"), "{text}");
                }
                (known, other) => panic!("{known:?}: {other:?}"),
            }
        }
        // Property 13: either side's are taken, and numbered without gaps.
        fresh.sort_by_key(|(message, _)| message.position.unwrap().seq);
        for (message, side) in fresh {
            assert_ne!(model.status, ConversationStatus::Closed);
            model.status = ConversationStatus::Active;
            assert_eq!(message.position.unwrap().seq, model.messages.len() as i64 + 1);
            assert!(model.messages.last().is_none_or(|last| last.id < message.id));
            let status = Status::Pending;
            model.messages.push(Line { id: message.id, by_phone: side, status });
        }
    }

    /// The last messages to a side.
    fn last_to(&self, pair: Pair, phone: bool, last: usize) -> Vec<MessageId> {
        let Some(model) = self.talks.get(&pair) else { return Vec::new() };
        let mine = model.messages.iter().rev().filter(|said| said.by_phone != phone);
        mine.take(last).map(|said| said.id).collect()
    }

    async fn step(&mut self, step: &Step) {
        let app = self.app();
        match *step {
            Step::Open { pair, hands } => {
                self.open(pair, hands).await;
            }
            Step::Say { pair, by_phone, both, count, name } => {
                self.say(pair, by_phone, both, count, name).await;
            }
            Step::Read { pair, by_phone, up_to } => {
                let caller = self.caller(pair, by_phone);
                let Some(model) = self.talks.get_mut(&pair) else { return };
                let (changed, _) = app.chat.mark_read(&caller, model.id, up_to).await.unwrap();
                let mut expected = 0;
                for (n, said) in model.messages.iter_mut().enumerate() {
                    let reached = up_to.is_none_or(|seq| (n as i64) < seq);
                    if said.by_phone != by_phone && said.status != Status::Read && reached {
                        (said.status, expected) = (Status::Read, expected + 1);
                    }
                }
                assert_eq!(changed, expected);
            }
            Step::Opened { pair, by_phone, last } => {
                let ids = self.last_to(pair, by_phone, last);
                let caller = self.caller(pair, by_phone);
                let words = ids.iter().map(|id| (*id, None)).collect();
                app.delivery.acknowledge(&caller, ReceiptKind::Read, words).await.unwrap();
                self.set(&ids, |_| Status::Read);
            }
            Step::Acknowledge { pair, by_phone, last } => {
                let ids = self.last_to(pair, by_phone, last);
                let caller = self.caller(pair, by_phone);
                let words = ids.iter().map(|id| (*id, None)).collect();
                let changed =
                    app.delivery.acknowledge(&caller, ReceiptKind::Delivered, words).await.unwrap();
                let before = self.set(&ids, |status| match status {
                    Status::Read => Status::Read,
                    _ => Status::Delivered,
                });
                let open = |s: &Status| !matches!(s, Status::Read | Status::Delivered);
                assert_eq!(changed.len(), before.iter().filter(|status| open(status)).count());
            }
            Step::Status { pair, status } => {
                let caller = self.caller(pair, false);
                let Some(model) = self.talks.get_mut(&pair) else { return };
                app.chat.set_status(&caller, model.id, status).await.unwrap();
                model.status = status;
            }
            Step::Miss { pair, times } => self.miss(pair, times).await,
            Step::Requeue => self.requeue().await,
            Step::Answer { pair } => {
                let (shop, phone) = (self.caller(pair, false), self.caller(pair, true));
                let to = phone.mobile().unwrap().as_str().to_owned();
                let draft =
                    MessageDraft { content: "read only".to_owned(), ..MessageDraft::default() };
                let sent = app
                    .messages
                    .send(&shop, SendRequest { to, draft }, None, |_| (202, String::new()));
                let Ok(Sent::Now(message)) = sent.await else { panic!("not sent") };
                self.one_way.push(message.id);
                // Property 12: in no way, and the error says so.
                let place = ConversationId(message.id.0);
                let answer = app.chat.send(&phone, place, say("no".to_owned(), None), 0).await;
                let Err(error @ Error::ReadOnly) = answer else { panic!("{answer:?}") };
                assert!(error.to_string().contains("cannot be replied to"), "{error}");
                // To whoever may not see it, it is not even there.
                let stranger = self.phones[1 - pair.1].clone();
                let answer = app.chat.send(&stranger, place, say("no".to_owned(), None), 0).await;
                assert!(matches!(answer, Err(Error::NotFound(_))), "{answer:?}");
            }
        }
    }

    /// Sets the statuses of messages; gives those before.
    fn set(&mut self, ids: &[MessageId], to: impl Fn(Status) -> Status) -> Vec<Status> {
        let all = self.talks.values_mut().flat_map(|model| &mut model.messages);
        all.filter(|said| ids.contains(&said.id))
            .map(|said| {
                let before = said.status;
                said.status = to(before);
                before
            })
            .collect()
    }

    async fn miss(&mut self, pair: Pair, times: usize) {
        let app = self.app();
        let last = self.talks.get(&pair).and_then(|model| model.messages.last());
        let Some(Line { id, .. }) = last.cloned() else { return };
        for _ in 0..times {
            let (message, _) = app.messages.show(&operator(), id).await.unwrap();
            let (generation, retry_count) = (message.generation, message.retry_count);
            let attempt = DeliveryAttempt { id, position: None, generation, retry_count };
            app.delivery.record_missed(vec![(attempt, app.clock().now())]);
            // The ledger takes everything in order.
            let nobody = vec![(MessageId(uuid::Uuid::nil()), None)];
            app.delivery
                .acknowledge(&self.phones[0].clone(), ReceiptKind::Delivered, nobody)
                .await
                .unwrap();
        }
        let (message, _) = app.messages.show(&operator(), id).await.unwrap();
        let given_up = message.status == Status::Failed;
        assert!(usize::from(message.retry_count) <= RETRIES && (!given_up || times > 0));
        self.set(&[id], |before| match before {
            Status::Delivered | Status::Read | Status::Failed => before,
            _ if given_up => Status::Failed,
            _ => Status::Sent,
        });
    }

    async fn requeue(&mut self) {
        let app = self.app();
        let letters = app
            .delivery
            .list_dead_letters(&operator(), &dead_letters::DeadLetterFilter::default(), 10_000)
            .await
            .unwrap();
        for letter in letters.items {
            let Some(id) = letter.message else { continue };
            let mine = self.set(&[id], |status| status);
            if mine.is_empty() {
                continue;
            }
            let filter = dead_letters::DeadLetterFilter {
                ids: vec![letter.id],
                ..dead_letters::DeadLetterFilter::default()
            };
            let done = app
                .delivery
                .change_dead_letters(DeadLetterAction::Requeue, &operator(), &filter, 1, |_| ())
                .await;
            done.unwrap();
            self.set(&[id], |status| match status {
                Status::Failed => Status::Pending,
                other => other,
            });
        }
    }

    async fn check(&mut self) {
        let pairs: Vec<Pair> = self.talks.keys().copied().collect();
        for pair in pairs {
            let app = self.app();
            let model = &self.talks[&pair];
            let mut rows = app.admin.show_history(&operator(), model.id, 0, 50).await.unwrap();
            let conversation =
                app.admin.show_conversation(&operator(), model.id, 0).await.unwrap().conversation;
            let shown: Vec<(MessageId, Status)> =
                rows.iter().map(|message| (message.id, message.status)).collect();
            let expected: Vec<(MessageId, Status)> =
                model.messages.iter().map(|said| (said.id, said.status)).collect();
            assert_eq!(shown, expected, "{pair:?}");
            // What is kept begins with the newest.
            rows.reverse();
            assert_eq!(conversation.status, model.status);
            for by_phone in [false, true] {
                let caller = self.caller(pair, by_phone);
                // Property 10: what is kept is what is there, in either process, and it is kept.
                let mut pages = Vec::new();
                for app in [&self.apps[0], &self.apps[1], &self.apps[0]] {
                    let page = app.chat.latest_page(&caller, model.id, 50, render).await.unwrap();
                    assert_eq!(page, render(&rows), "{pair:?}");
                    pages.push(page.as_ptr());
                }
                if !rows.is_empty() {
                    assert!(pages.windows(2).all(|two| two[0] == two[1]), "nothing was kept");
                }
                // Property 6: what one has not read is what the other wrote and is not read.
                let unread = model
                    .messages
                    .iter()
                    .filter(|said| said.by_phone != by_phone && said.status != Status::Read)
                    .count();
                let side = conversation.side(&caller.party()).unwrap();
                assert_eq!(conversation.unread(side), unread as i32, "{pair:?}");
            }
            let stranger = self.caller((1 - pair.0, 1 - pair.1), pair.0 == 0);
            let seen = app.chat.latest_page(&stranger, model.id, 50, render).await;
            assert!(matches!(seen, Err(Error::NotFound(_))), "{seen:?}");
        }
        for n in 0..SIDES {
            for caller in [self.shops[n].clone(), self.phones[n].clone()] {
                self.check_lists(&caller).await;
            }
        }
    }

    async fn check_lists(&mut self, caller: &Caller) {
        let app = self.app();
        let mut filter = ConversationFilter::default();
        match caller.party() {
            Party::Business(id) => filter.business = Some(id),
            Party::Mobile(phone) => filter.phone = Some(phone),
        }
        let party = caller.party();
        let all = app.admin.list_conversations(&operator(), &filter, 50).await.unwrap().items;
        let unread = |c: &&Conversation| c.side(&party).is_some_and(|side| c.unread(side) > 0);
        for app in &self.apps {
            let page = app.chat.first_page(caller, None, 50, render_list).await.unwrap();
            let whole = |items: &[Conversation]| ListPage { items: items.to_vec(), cut: None };
            assert_eq!(page, render_list(&whole(&all), 50, &party));
            for status in ConversationStatus::ALL {
                let of: Vec<Conversation> =
                    all.iter().filter(|c| c.status == status).cloned().collect();
                let page = app.chat.first_page(caller, Some(status), 50, render_list).await;
                assert_eq!(page.unwrap(), render_list(&whole(&of), 50, &party));
            }
            let counted = all.iter().filter(unread).count() as i64;
            assert_eq!(app.chat.count_unread(caller).await.unwrap(), counted);
        }
    }
}

async fn two_apps(database: &str, server: &Server) -> ([App; 2], CancellationToken) {
    let mut config = tokio_postgres::Config::new();
    config.host_path(server.data().join("run")).user("esh3ar").dbname(database);
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
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let cache = Cache::default();
    let store = Store::new(config.clone(), 2).unwrap();
    let mut client = store.client().await.unwrap();
    esh3ar::store::migrate::run(&mut client, None).await.unwrap();
    drop(client);
    let apps = [0, 1].map(|_| {
        let settings = Settings {
            clock: Clock::standing_at(time::OffsetDateTime::now_utc()),
            cache: cache.clone(),
            runtime: esh3ar::app::RuntimeSettings { limits, ..usual.runtime.clone() },
            ..usual.clone()
        };
        App::start(settings, Store::new(config.clone(), 4).unwrap(), &tracker, &stop)
    });
    (apps, stop)
}

async fn shop(app: &App, name: &str, phone: Option<&Phone>) -> Caller {
    let may = Permissions::NONE.with(Permission::Chat).with(Permission::SendMessages);
    let made = app.identity.add_user(&operator(), name, may, phone.cloned()).await.unwrap();
    Caller {
        token: TokenId(uuid::Uuid::nil()),
        expires_at: None,
        identity: Identity::Business {
            id: made.id,
            name: made.name.as_str().into(),
            permissions: may,
        },
    }
}

struct OverTheStore;

impl StateMachineTest for OverTheStore {
    type SystemUnderTest = Machine;
    type Reference = AnyOrder;

    fn init_test(_: &AnyOrder) -> Machine {
        let ground = GROUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let case = CASES.fetch_add(1, Ordering::Relaxed);
        let number =
            |n: usize| Phone::parse(&crate::support::number(case * 2 * SIDES + n), None).unwrap();
        ground.runtime.block_on(async {
            let (apps, stop) = two_apps("chat_machine", &ground.server).await;
            let (mut shops, mut shop_phones) = (Vec::new(), Vec::new());
            for n in 0..SIDES {
                let phone = number(SIDES + n);
                shops.push(shop(&apps[0], &format!("shop {case}/{n}"), Some(&phone)).await);
                shop_phones.push(phone);
            }
            Machine {
                apps,
                stop,
                turn: 0,
                case,
                shops,
                shop_phones,
                phones: (0..SIDES).map(|n| mobile(number(n))).collect(),
                talks: HashMap::new(),
                names: HashMap::new(),
                one_way: Vec::new(),
            }
        })
    }

    fn apply(mut machine: Machine, _: &AnyOrder, step: Step) -> Machine {
        let ground = GROUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        ground.runtime.block_on(async {
            machine.step(&step).await;
            machine.check().await;
        });
        machine
    }

    fn teardown(machine: Machine, _: AnyOrder) {
        machine.stop.cancel();
    }
}

// **Feature: enhanced-messaging-system, Property 2: Conversation Participant Uniqueness**
// **Feature: enhanced-messaging-system, Property 6: Conversation Unread Count Accuracy**
// **Feature: enhanced-messaging-system, Property 10: Cache-Database Consistency**
// **Feature: enhanced-messaging-system, Property 12: One-Way Message Read-Only**
// **Feature: enhanced-messaging-system, Property 13: Chat Message Bidirectionality**
prop_state_machine! {
    #![proptest_config(Config { cases: 100, max_shrink_iters: 100, ..Config::default() })]
    #[test]
    fn any_order_of_talk_keeps_every_promise(sequential 4..16 => OverTheStore);
}

/// Property 10 in the middle of things: what was answered before a page is asked for is on it, while
/// writers of both processes go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_page_is_behind_a_write_that_was_answered() {
    const EACH: usize = 150;
    let server = Server::start().await;
    server.database().await.batch_execute("CREATE DATABASE race").await.unwrap();
    let (apps, stop) = two_apps("race", &server).await;
    let shop = shop(&apps[0], "shop", None).await;
    let phone = mobile(Phone::parse("+967771234567", None).unwrap());
    let (talk, _) = apps[0].chat.open(&shop, "+967771234567").await.unwrap();
    // The last `seq` and the last acknowledged one that were answered.
    let (said, had) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
    let writing: Vec<_> = (0..4)
        .map(|n| {
            let (app, said, had) = (apps[n % 2].clone(), Arc::clone(&said), Arc::clone(&had));
            let (from, to) =
                if n < 2 { (shop.clone(), phone.clone()) } else { (phone.clone(), shop.clone()) };
            tokio::spawn(async move {
                for m in 0..EACH {
                    let request = say(format!("{n}/{m}"), None);
                    let (message, _) = app.chat.send(&from, talk.id, request, 0).await.unwrap();
                    let seq = message.position.unwrap().seq;
                    said.fetch_max(seq, Ordering::SeqCst);
                    if m % 3 == 0 {
                        let words = vec![(message.id, None)];
                        app.delivery.acknowledge(&to, ReceiptKind::Delivered, words).await.unwrap();
                        had.fetch_max(seq, Ordering::SeqCst);
                    }
                    if m % 5 == 0 {
                        app.chat.mark_read(&to, talk.id, Some(seq)).await.unwrap();
                    }
                }
            })
        })
        .collect();
    fn newest(messages: &[Message]) -> Vec<u8> {
        let lines =
            messages.iter().map(|m| format!("{} {}\n", m.position.unwrap().seq, m.status as i16));
        lines.collect::<String>().into_bytes()
    }
    let mut looks = 0;
    while !writing.iter().all(tokio::task::JoinHandle::is_finished) {
        let (said, had) = (said.load(Ordering::SeqCst), had.load(Ordering::SeqCst));
        let app = &apps[looks % 2];
        let page = app.chat.latest_page(&phone, talk.id, 50, newest).await.unwrap();
        let lines: HashMap<i64, i16> = std::str::from_utf8(&page)
            .unwrap()
            .lines()
            .map(|line| line.split_once(' ').unwrap())
            .map(|(seq, status)| (seq.parse().unwrap(), status.parse().unwrap()))
            .collect();
        let newest = lines.keys().max().copied().unwrap_or(0);
        assert!(newest >= said, "the page ends at {newest}, {said} was answered before");
        if let Some(status) = lines.get(&had) {
            assert!(*status >= 2, "{had} was acknowledged before and is {status}");
        }
        let counted = app.chat.count_unread(&shop).await.unwrap();
        assert!((0..=1).contains(&counted));
        looks += 1;
    }
    for task in writing {
        task.await.unwrap();
    }
    assert!(looks > 50, "only {looks} looks");
    apps[1].chat.mark_read(&shop, talk.id, None).await.unwrap();
    assert_eq!(apps[0].chat.count_unread(&shop).await.unwrap(), 0);
    let all = apps[0].chat.get(&phone, talk.id).await.unwrap();
    assert_eq!(all.last_seq, 4 * EACH as i64);
    stop.cancel();
    tokio::time::sleep(Duration::from_millis(1)).await;
}
