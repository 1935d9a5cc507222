use std::collections::BTreeSet;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(5);

fn id(n: u64) -> MessageId {
    MessageId(Uuid::from_u64_pair(0, n))
}

fn attempt(n: u64) -> Attempt {
    Attempt { id: id(n), place: None, generation: 0, retry_count: 0 }
}

fn number(id: MessageId) -> u64 {
    id.0.as_u64_pair().1
}

/// A database of pending messages and a client, around one feed.
struct World {
    feed: Feed,
    pending: BTreeSet<u64>,
    /// What a read under way saw when it began.
    read: Option<Vec<Attempt>>,
    reads: usize,
    /// Messages that came during a read and were not held.
    deferred: Vec<u64>,
    shown: Vec<u64>,
    unacknowledged: BTreeSet<u64>,
    /// What the client has said and nobody has stored yet.
    said: BTreeSet<u64>,
    once_said: BTreeSet<u64>,
    next: u64,
    now: Instant,
    /// Where the messages stand, of those that are talk.
    places: std::collections::BTreeMap<u64, Place>,
}

impl World {
    fn new(backlog: u64) -> Self {
        let mut world = World {
            feed: Feed::new(TIMEOUT),
            pending: (1..=backlog).collect(),
            read: None,
            reads: 0,
            deferred: Vec::new(),
            shown: Vec::new(),
            unacknowledged: BTreeSet::new(),
            said: BTreeSet::new(),
            once_said: BTreeSet::new(),
            next: backlog + 1,
            now: Instant::now(),
            places: Default::default(),
        };
        world.pump();
        world
    }

    /// What a driver does after each event.
    fn pump(&mut self) {
        if self.feed.begin_read() {
            assert!(self.read.is_none(), "two reads at once");
            let window: BTreeSet<u64> = self.feed.in_window().into_iter().map(number).collect();
            let found = self.pending.iter().filter(|n| !window.contains(n)).take(PAGE);
            self.read = Some(found.map(|n| self.attempt(*n)).collect());
        }
        // A word that is lost is said again; its messages are not new to the client.
        let new = self.unacknowledged.difference(&self.once_said).count();
        assert!(new <= WINDOW, "the client has too much");
        assert!(self.feed.window.len() <= WINDOW + PAGE, "we remember too much");
        assert_eq!(self.feed.window.values().filter(|w| w.said).count(), self.feed.said);
        let due = self.feed.window.values().map(|written| self.feed.due_at(written)).min();
        let look = self.feed.next_deadline();
        assert_eq!(look.is_some(), due.is_some());
        assert!(look <= due, "what is due would be found too late");
    }

    fn attempt(&self, n: u64) -> Attempt {
        Attempt { place: self.places.get(&n).copied(), ..attempt(n) }
    }

    fn show(&mut self, n: u64) {
        self.shown.push(n);
        self.unacknowledged.insert(n);
    }

    fn accept(&mut self) {
        let n = self.next;
        self.next += 1;
        self.pending.insert(n);
        self.offer(n);
        self.pump();
    }

    fn offer(&mut self, n: u64) {
        let attempt = self.attempt(n);
        match self.feed.on_live(attempt, self.now) {
            Live::Send => self.show(n),
            Live::Defer => self.deferred.push(n),
            Live::Hold | Live::Drop => {}
        }
    }

    fn finish_read(&mut self, fails: bool) {
        let Some(found) = self.read.take() else { return };
        if fails {
            self.feed.on_read_failed();
        } else {
            // Every third page is of long messages, of which only some fit.
            self.reads += 1;
            let fit = if self.reads.is_multiple_of(3) { found.len().min(7) } else { found.len() };
            match self.feed.on_read(&found[..fit], fit < found.len(), self.now) {
                Batch::Page(ids) | Batch::Singly(ids) => {
                    ids.into_iter().for_each(|id| self.show(number(id)));
                }
                Batch::Nothing => {}
            }
        }
        for n in std::mem::take(&mut self.deferred) {
            self.offer(n);
        }
        self.pump();
    }

    fn acknowledge(&mut self, count: usize) {
        self.store(false);
        self.say(count);
        self.store(false);
    }

    /// One word at a time: the next is heard when the last is stored.
    fn say(&mut self, count: usize) {
        if self.said.is_empty() {
            self.said = self.unacknowledged.iter().copied().take(count).collect();
            self.unacknowledged.retain(|n| !self.said.contains(n));
            self.once_said.extend(&self.said);
            self.feed.on_said(&self.said.iter().copied().map(id).collect::<Vec<_>>());
            self.pump();
        }
    }

    fn store(&mut self, fails: bool) {
        let said = std::mem::take(&mut self.said);
        if fails {
            self.feed.on_word_lost();
            self.unacknowledged.extend(said);
        } else {
            self.pending.retain(|n| !said.contains(n));
            self.feed.on_acknowledged(&said.into_iter().map(id).collect::<Vec<_>>());
        }
        self.pump();
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.pending.is_empty() && self.read.is_none() {
                return;
            }
            self.finish_read(false);
            self.acknowledge(usize::MAX);
        }
        panic!("{} messages never came", self.pending.len());
    }
}

#[derive(Clone, Debug)]
enum Step {
    Accept(u8),
    FinishRead(bool),
    Acknowledge(u8),
    Say(u8),
    Store(bool),
    Nudge,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(
        prop_oneof![
            (1u8..200).prop_map(Step::Accept),
            any::<bool>().prop_map(Step::FinishRead),
            any::<u8>().prop_map(Step::Acknowledge),
            any::<u8>().prop_map(Step::Say),
            any::<bool>().prop_map(Step::Store),
            Just(Step::Nudge),
        ],
        0..60,
    )
}

// **Feature: enhanced-messaging-system, Property 14: Offline Message Queuing**
proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn everything_comes_once_and_in_order(backlog in 0u64..350, steps in steps()) {
        let mut world = World::new(backlog);
        for step in steps {
            match step {
                Step::Accept(n) => (0..n).for_each(|_| world.accept()),
                Step::FinishRead(fails) => world.finish_read(fails),
                Step::Acknowledge(n) => world.acknowledge(usize::from(n)),
                Step::Say(n) => world.say(usize::from(n)),
                Step::Store(fails) => world.store(fails),
                Step::Nudge => { world.feed.on_nudge(); world.pump(); }
            }
        }
        world.settle();
        let all: Vec<u64> = (1..world.next).collect();
        prop_assert_eq!(world.shown, all);
    }
}

#[test]
fn a_page_waits_for_the_acknowledgement_of_the_last() {
    let mut world = World::new(150);
    world.finish_read(false);
    assert_eq!(world.shown.len(), PAGE);
    world.acknowledge(PAGE - 1);
    assert!(world.read.is_none(), "one message of the page is still unacknowledged");
    world.acknowledge(1);
    world.finish_read(false);
    assert_eq!(world.shown.len(), 150);
}

#[test]
fn the_next_page_does_not_wait_for_the_word_to_be_stored() {
    let mut world = World::new(150);
    world.finish_read(false);
    world.say(PAGE);
    assert!(world.read.is_some(), "it is read while the word is stored");
    world.finish_read(false);
    assert_eq!(world.shown, (1..=150).collect::<Vec<u64>>());
    world.store(true);
    world.acknowledge(150);
    assert!(world.pending.is_empty());
}

#[test]
fn a_silent_client_is_told_no_more_than_the_window_holds() {
    let mut world = World::new(0);
    world.finish_read(false);
    (0..1000).for_each(|_| world.accept());
    assert_eq!(world.shown.len(), WINDOW);
}

#[test]
fn what_is_not_acknowledged_in_time_is_missed_once() {
    let mut world = World::new(0);
    world.finish_read(false);
    world.accept();
    world.accept();
    world.acknowledge(1);
    let second = attempt(2);
    assert_eq!(world.feed.next_deadline(), Some(world.now + SENT_AFTER));
    let later = world.now + Duration::from_secs(2);
    assert_eq!(world.feed.on_tick(later).sent, [(second, world.now)]);
    assert_eq!(world.feed.on_tick(later), Overdue::default());
    let overdue = world.feed.on_tick(world.now + TIMEOUT);
    assert_eq!((overdue.sent, overdue.missed), (vec![], vec![(second, world.now)]));
    assert_eq!(world.feed.on_tick(world.now + TIMEOUT * 2), Overdue::default());
    // Its retry comes as a live message again.
    assert_eq!(world.feed.on_live(Attempt { retry_count: 1, ..second }, later), Live::Send);
}

#[test]
fn a_look_too_early_is_followed_by_one_in_time() {
    let mut world = World::new(0);
    world.finish_read(false);
    world.accept();
    let half = world.now + SENT_AFTER / 2;
    assert_eq!(world.feed.on_live(attempt(9), half), Live::Send);
    world.feed.on_acknowledged(&[id(1)]);
    let early = world.feed.next_deadline().expect("something is written");
    assert_eq!(world.feed.on_tick(early), Overdue::default());
    assert_eq!(world.feed.next_deadline(), Some(half + SENT_AFTER));
}

#[test]
fn a_client_at_work_is_given_time_but_not_for_ever() {
    let mut world = World::new(0);
    world.finish_read(false);
    (0..3).for_each(|_| world.accept());
    let at = |timeouts: f64| world.now + TIMEOUT.mul_f64(timeouts);
    for step in 1..=9 {
        world.feed.on_heard(at(f64::from(step) * 0.6));
        assert!(world.feed.on_tick(at(f64::from(step) * 0.6)).missed.is_empty(), "{step}");
    }
    assert_eq!(world.feed.on_tick(at(6.0)).missed.len(), 3, "however busy it is");
}

#[test]
fn an_idle_feed_is_small() {
    let mut world = World::new(0);
    world.finish_read(false);
    world.accept();
    world.acknowledge(1);
    assert_eq!(world.feed.window.capacity(), 0);
    assert!(size_of::<Feed>() <= 120, "{}", size_of::<Feed>());
}

#[test]
fn what_came_with_a_read_is_not_written_again_when_it_comes_live() {
    let (mut feed, now) = (Feed::new(TIMEOUT), Instant::now());
    assert!(feed.begin_read());
    assert_eq!(feed.on_read(&[attempt(1)], false, now), Batch::Page(vec![id(1)]));
    assert_eq!(feed.on_live(attempt(1), now), Live::Drop);
    assert_eq!(feed.on_live(attempt(2), now), Live::Send);
    assert_eq!(feed.on_live(attempt(2), now), Live::Drop, "told twice");
}

#[test]
fn talk_comes_in_its_order_whatever_overtakes_what() {
    let conversation = ConversationId(Uuid::from_u128(9));
    let said = |n: u64| Attempt {
        place: Some(Place { conversation, seq: i64::try_from(n).unwrap() }),
        ..attempt(n)
    };
    let now = Instant::now();
    let mut feed = Feed::new(Duration::from_secs(5));
    assert!(feed.begin_read());
    assert_eq!(feed.on_read(&[], false, now), Batch::Nothing);
    // Nothing is known of this conversation: what came before may have been overtaken.
    assert_eq!(feed.on_live(said(2), now), Live::Hold);
    assert!(feed.begin_read());
    assert_eq!(feed.on_read(&[said(1), said(2)], false, now), Batch::Singly(vec![id(1), id(2)]));
    assert_eq!(feed.on_live(said(1), now), Live::Drop);
    assert_eq!(feed.on_live(said(3), now), Live::Send);
    // The fourth is the party's own, the sixth has overtaken the fifth.
    feed.on_own(Place { conversation, seq: 4 });
    assert_eq!(feed.on_live(said(6), now), Live::Hold);
    assert!(feed.begin_read());
    assert_eq!(feed.on_read(&[said(5), said(6)], false, now), Batch::Singly(vec![id(5), id(6)]));
    feed.on_acknowledged(&[id(3)]);
    assert_eq!(feed.on_live(said(3), now), Live::Drop, "a wake-up that comes twice");
    assert_eq!(feed.on_live(said(7), now), Live::Send);
}

/// Messages of one conversation come through one queue; while two versions run beside each other that know
/// different rules for which one, through two, in any order, and perhaps twice.
#[derive(Clone, Debug)]
enum WakeUp {
    /// The one of those under way that the number chooses.
    Comes(u16),
    /// The same, and it comes once more later.
    ComesTwice(u16),
    FinishRead,
    Acknowledge(u8),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn each_conversation_comes_once_and_in_order_however_its_wake_ups_overtake_each_other(
        conversations in prop::collection::vec(0u128..4, 1..120),
        steps in prop::collection::vec(
            prop_oneof![
                6 => any::<u16>().prop_map(WakeUp::Comes),
                2 => any::<u16>().prop_map(WakeUp::ComesTwice),
                2 => Just(WakeUp::FinishRead),
                1 => any::<u8>().prop_map(WakeUp::Acknowledge),
            ],
            0..300,
        ),
    ) {
        let mut world = World::new(0);
        world.finish_read(false);
        let mut seqs = [0i64; 4];
        let mut places = std::collections::BTreeMap::new();
        for (n, conversation) in (1u64..).zip(&conversations) {
            let seq = &mut seqs[usize::try_from(*conversation).unwrap()];
            *seq += 1;
            let conversation = ConversationId(Uuid::from_u128(*conversation));
            places.insert(n, Place { conversation, seq: *seq });
        }
        // All are stored before any is told of.
        world.pending.extend(places.keys());
        world.places = places.clone();
        world.next = conversations.len() as u64 + 1;
        let mut under_way: Vec<u64> = places.keys().copied().collect();
        for step in steps {
            match step {
                WakeUp::Comes(which) | WakeUp::ComesTwice(which) if !under_way.is_empty() => {
                    let at = usize::from(which) % under_way.len();
                    let n = match step {
                        WakeUp::Comes(_) => under_way.swap_remove(at),
                        _ => under_way[at],
                    };
                    // A worker reads what is named, and leaves out what was acknowledged.
                    if world.pending.contains(&n) {
                        world.offer(n);
                        world.pump();
                    }
                }
                WakeUp::Comes(_) | WakeUp::ComesTwice(_) => {}
                WakeUp::FinishRead => world.finish_read(false),
                WakeUp::Acknowledge(count) => world.acknowledge(usize::from(count)),
            }
        }
        // The position check finds what no wake-up brought.
        world.feed.on_nudge();
        world.pump();
        world.settle();
        let mut shown: std::collections::BTreeMap<ConversationId, Vec<i64>> = Default::default();
        for n in &world.shown {
            shown.entry(places[n].conversation).or_default().push(places[n].seq);
        }
        for (conversation, seqs) in shown {
            let all: Vec<i64> = (1..).take(seqs.len()).collect();
            prop_assert_eq!(seqs, all, "{}", conversation);
        }
        prop_assert_eq!(world.shown.len(), conversations.len());
    }
}
