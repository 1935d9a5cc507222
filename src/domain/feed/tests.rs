use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::domain::ConversationId;

const TIMEOUT: Duration = Duration::from_secs(5);
/// The ids of these tests have no time.
const OPENED: MessageId = MessageId(Uuid::nil());

fn id(n: u64) -> MessageId {
    MessageId(Uuid::from_u64_pair(0, n))
}

fn attempt(n: u64) -> DeliveryAttempt {
    DeliveryAttempt { id: id(n), position: None, generation: 0, retry_count: 0 }
}

fn fresh(n: u64) -> Deliverable {
    Deliverable { attempt: attempt(n), acknowledged: false }
}

/// Notices and chat messages are stored side by side.
fn lane(n: u64) -> usize {
    usize::from(n.is_multiple_of(2))
}

fn number(id: MessageId) -> u64 {
    id.0.as_u64_pair().1
}

/// A database of messages, a client, and a sibling: another connection of the same recipient, which
/// acknowledges what it likes; around one feed.
struct World {
    feed: Feed,
    /// What has a lower id was accepted long before the connection came.
    opened: MessageId,
    pending: BTreeSet<u64>,
    /// Acknowledged since the connection came.
    acknowledged: BTreeSet<u64>,
    /// Acknowledged elsewhere before the first read succeeded: the connection was not open by then.
    excused: BTreeSet<u64>,
    /// What is to be read, and what a read under way saw.
    asked: Option<FeedRead>,
    read: Option<Vec<Deliverable>>,
    /// What was acknowledged by then.
    before: Vec<MessageId>,
    reads: usize,
    /// Stored, and not told yet.
    hints: VecDeque<u64>,
    /// Whether who tells leaves out what was acknowledged before.
    checks: bool,
    /// Messages that came during a read and were not held; whether they were acknowledged meanwhile.
    deferred: Vec<(u64, bool)>,
    shown: Vec<u64>,
    unacknowledged: BTreeSet<u64>,
    /// What the client has said and nobody has stored yet.
    said: BTreeSet<u64>,
    once_said: BTreeSet<u64>,
    next: u64,
    /// Have an id and are not stored yet: those of either lane. Each lane is stored in its order, whatever the
    /// other does, as it is with notices and chat messages.
    unstored: [VecDeque<u64>; 2],
    now: Instant,
    /// Something came later than anything should.
    late: bool,
    /// Where the messages stand, of those that are talk.
    places: std::collections::BTreeMap<u64, ConversationPosition>,
}

impl World {
    fn new(backlog: u64) -> Self {
        World::opened_at(OPENED, backlog, 0)
    }

    /// Of the backlog so many were acknowledged before the connection came, though only just.
    fn opened_at(opened: MessageId, backlog: u64, acknowledged: u64) -> Self {
        let acknowledged: BTreeSet<u64> = (1..=acknowledged.min(backlog)).collect();
        let mut world = World {
            feed: Feed::new(TIMEOUT, opened),
            opened,
            pending: (1..=backlog).filter(|n| !acknowledged.contains(n)).collect(),
            excused: acknowledged.clone(),
            acknowledged,
            asked: None,
            read: None,
            before: Vec::new(),
            reads: 0,
            hints: VecDeque::new(),
            checks: false,
            deferred: Vec::new(),
            shown: Vec::new(),
            unacknowledged: BTreeSet::new(),
            said: BTreeSet::new(),
            once_said: BTreeSet::new(),
            next: backlog + 1,
            unstored: Default::default(),
            now: Instant::now(),
            late: false,
            places: Default::default(),
        };
        world.pump();
        world
    }

    /// What a driver does after each event.
    fn pump(&mut self) {
        if let Some(reading) = self.feed.begin_read() {
            assert!(self.asked.is_none() && self.read.is_none(), "two reads at once");
            if self.feed.is_new() {
                // Two looks at the database, and anything may happen between them.
                let latest = self.acknowledged.iter().copied().map(id);
                self.before = latest.filter(|id| *id >= self.opened).collect();
                self.asked = Some(reading.first(self.opened, &self.before));
            } else {
                self.asked = Some(reading);
                self.look();
            }
        }
        // A word that is lost is said again; its messages are not new to the client.
        let open = self.unacknowledged.intersection(&self.pending);
        let new = open.filter(|n| !self.once_said.contains(n)).count();
        assert!(new <= WINDOW_SIZE, "the client has too much");
        assert!(self.feed.window.len() <= WINDOW_SIZE + PAGE_SIZE, "we remember too much");
        assert_eq!(
            self.feed.window.values().filter(|w| w.ack_received).count(),
            self.feed.acks_pending
        );
        let due = self.feed.window.values().map(|written| self.feed.due_at(written)).min();
        let look = self.feed.next_deadline();
        assert!(due.is_none_or(|due| look.is_some_and(|look| look <= due)), "found too late");
    }

    fn fresh(&self, n: u64) -> Deliverable {
        let attempt = DeliveryAttempt { position: self.places.get(&n).copied(), ..attempt(n) };
        Deliverable { attempt, acknowledged: false }
    }

    /// The database answers what it was asked.
    fn look(&mut self) {
        let Some(reading) = self.asked.take() else { return };
        let window: BTreeSet<u64> = reading.in_window.into_iter().map(number).collect();
        let waiting = self.pending.iter().filter(|n| !window.contains(n)).map(|n| self.fresh(*n));
        let wanted = reading.acknowledged.as_ref();
        let sent: BTreeSet<MessageId> = wanted.iter().flat_map(|w| &w.sent).copied().collect();
        let elsewhere = wanted.iter().flat_map(|wanted| {
            let later = self.acknowledged.range(number(wanted.from)..);
            later.filter(|n| !sent.contains(&id(**n)))
        });
        let elsewhere = elsewhere.map(|n| Deliverable { acknowledged: true, ..self.fresh(*n) });
        let mut found: Vec<Deliverable> = waiting.chain(elsewhere).collect();
        found.sort_by_key(|found| found.attempt.id);
        found.truncate(PAGE_SIZE);
        self.read = Some(found);
    }

    fn show(&mut self, n: u64) {
        self.shown.push(n);
        self.unacknowledged.insert(n);
    }

    /// A message gets its id.
    fn begin(&mut self) {
        self.unstored[lane(self.next)].push_back(self.next);
        self.next += 1;
    }

    /// So many of a lane are stored.
    fn commit(&mut self, lane: usize, count: usize) {
        for _ in 0..count {
            let Some(n) = self.unstored[lane].pop_front() else { return };
            self.pending.insert(n);
            self.hints.push_back(n);
        }
    }

    /// A message is stored, behind those of its lane.
    fn store_new(&mut self) {
        let lane = lane(self.next);
        self.begin();
        self.commit(lane, usize::MAX);
    }

    fn accept(&mut self) {
        self.store_new();
        self.hear(usize::MAX);
    }

    /// So many of the messages that were stored are told.
    fn hear(&mut self, count: usize) {
        for _ in 0..count {
            let Some(n) = self.hints.pop_front() else { return };
            if self.checks && !self.pending.contains(&n) {
                self.tell_acknowledged(&[n]);
            } else {
                self.offer(n, false);
            }
            self.pump();
        }
    }

    fn offer(&mut self, n: u64, acknowledged: bool) {
        let found = Deliverable { acknowledged, ..self.fresh(n) };
        match self.feed.on_live(found, self.now) {
            LiveDecision::Send => self.show(n),
            LiveDecision::Defer => self.deferred.push((n, acknowledged)),
            LiveDecision::Hold | LiveDecision::Drop => {}
        }
    }

    /// The sibling has these: so many of what waits, the first or the last.
    fn acknowledge_elsewhere(&mut self, count: usize, last: bool) {
        let all: Vec<u64> = self.pending.iter().copied().collect();
        let skip = if last { all.len().saturating_sub(count) } else { 0 };
        let some: Vec<u64> = all.into_iter().skip(skip).take(count).collect();
        if self.feed.is_new() {
            self.excused.extend(&some);
        }
        for n in &some {
            self.pending.remove(n);
            self.acknowledged.insert(*n);
        }
        self.tell_acknowledged(&some);
        self.pump();
    }

    fn tell_acknowledged(&mut self, some: &[u64]) {
        for (n, acknowledged) in &mut self.deferred {
            *acknowledged |= some.contains(n);
        }
        let deferred = &self.deferred;
        let unseen = some.iter().filter(|n| deferred.iter().all(|(waits, _)| waits != *n));
        self.feed.on_acknowledged_elsewhere(unseen.map(|n| id(*n)));
    }

    fn finish_read(&mut self, fails: bool) {
        self.look();
        let Some(found) = self.read.take() else { return };
        if fails {
            self.feed.on_read_failed();
        } else {
            if self.feed.is_new() {
                self.feed.on_opened(&self.before, self.now);
            }
            // Every third page is of long messages, of which only some fit.
            self.reads += 1;
            let fit = if self.reads.is_multiple_of(3) { found.len().min(7) } else { found.len() };
            match self.feed.on_read(&found[..fit], fit < found.len(), self.now) {
                FeedBatch::Page(ids) | FeedBatch::Singly(ids) => {
                    ids.into_iter().for_each(|id| self.show(number(id)));
                }
                FeedBatch::Nothing => {}
            }
        }
        for (n, acknowledged) in std::mem::take(&mut self.deferred) {
            self.offer(n, acknowledged);
        }
        self.pump();
    }

    /// Something was lost on the way and nobody knows what; or what waits to be told is to be read instead.
    fn nudge(&mut self, lost: bool) {
        if lost {
            self.feed.on_resync(None);
        } else {
            let unread = std::mem::take(&mut self.hints);
            unread.into_iter().for_each(|n| self.feed.on_resync(Some(id(n))));
        }
        self.pump();
    }

    fn rest(&mut self) {
        // What is unacknowledged for so long is another matter.
        if self.feed.window.is_empty() {
            self.now += MAX_REORDERING;
            self.feed.on_tick(self.now);
            self.pump();
        }
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
            self.feed.on_ack_received(&self.said.iter().copied().map(id).collect::<Vec<_>>());
            self.pump();
        }
    }

    fn store(&mut self, fails: bool) {
        let said = std::mem::take(&mut self.said);
        if fails {
            self.feed.on_ack_lost();
            self.unacknowledged.extend(said);
        } else {
            self.acknowledged.extend(said.iter().filter(|n| self.pending.contains(n)));
            self.pending.retain(|n| !said.contains(n));
            self.feed.on_acknowledged(&said.into_iter().map(id).collect::<Vec<_>>());
        }
        self.pump();
    }

    fn settle(&mut self) {
        (0..2).for_each(|lane| self.commit(lane, usize::MAX));
        for _ in 0..10_000 {
            self.hear(usize::MAX);
            let reads = self.asked.is_some() || self.read.is_some();
            if self.pending.is_empty() && !reads && !self.feed.behind {
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
    /// Stored, and told later.
    Store(u8),
    Hear(u8),
    /// Get their ids, and are stored later.
    Begin(u8),
    Commit(bool, u8),
    /// Nothing happens for so long that it is forgotten what was sent; also while something is under way, which
    /// nothing should be for so long.
    Rest(bool),
    Look,
    FinishRead(bool),
    Acknowledge(u8),
    AcknowledgeElsewhere(u8, bool),
    Say(u8),
    Stored(bool),
    /// Something was lost on the way; or what waits to be told.
    Resync(bool),
    /// Something of the last while was lost on the way.
    ResyncSince,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(
        prop_oneof![
            (1u8..200).prop_map(Step::Accept),
            (1u8..200).prop_map(Step::Store),
            (1u8..200).prop_map(Step::Hear),
            (1u8..20).prop_map(Step::Begin),
            any::<(bool, u8)>().prop_map(|(lane, n)| Step::Commit(lane, n)),
            any::<bool>().prop_map(Step::Rest),
            Just(Step::Look),
            any::<bool>().prop_map(Step::FinishRead),
            any::<u8>().prop_map(Step::Acknowledge),
            any::<(u8, bool)>().prop_map(|(n, last)| Step::AcknowledgeElsewhere(n, last)),
            any::<u8>().prop_map(Step::Say),
            any::<bool>().prop_map(Step::Stored),
            any::<bool>().prop_map(Step::Resync),
            Just(Step::ResyncSince),
        ],
        0..80,
    )
}

// **Feature: enhanced-messaging-system, Property 14: Offline Message Queuing**
proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn everything_comes_once_and_in_order_whoever_acknowledges_it(
        backlog in 0u64..350, opened in 0u64..400, acknowledged in 0u64..400, checks: bool, steps in steps()
    ) {
        let mut world = World::opened_at(id(opened.min(backlog)), backlog, acknowledged);
        world.checks = checks;
        for step in steps {
            match step {
                Step::Accept(n) => (0..n).for_each(|_| world.accept()),
                Step::Store(n) => (0..n).for_each(|_| world.store_new()),
                Step::Hear(n) => world.hear(usize::from(n)),
                Step::Begin(n) => (0..n).for_each(|_| world.begin()),
                Step::Commit(lane, n) => world.commit(usize::from(lane), usize::from(n)),
                Step::Rest(late) => {
                    if !late {
                        (0..2).for_each(|lane| world.commit(lane, usize::MAX));
                        world.hear(usize::MAX);
                    }
                    world.late |= !world.hints.is_empty() || world.unstored.iter().any(|lane| !lane.is_empty());
                    world.rest();
                }
                Step::Look => world.look(),
                Step::FinishRead(fails) => world.finish_read(fails),
                Step::Acknowledge(n) => world.acknowledge(usize::from(n)),
                Step::AcknowledgeElsewhere(n, last) => {
                    world.acknowledge_elsewhere(usize::from(n), last);
                }
                Step::Say(n) => world.say(usize::from(n)),
                Step::Stored(fails) => world.store(fails),
                Step::ResyncSince => {
                    world.feed.on_resync(Some(OPENED));
                    world.pump();
                }
                Step::Resync(lost) => {
                    world.nudge(lost);
                }
            }
        }
        world.settle();
        let came: BTreeSet<u64> = world.shown.iter().copied().collect();
        let lost = world.feed.take_lost().map_or(u64::MAX, number);
        prop_assert!(world.late || lost == u64::MAX, "nothing came late, and something is lost");
        let due = |n: &u64| came.contains(n) || !world.excused.contains(n) && *n < lost;
        for of in 0..2 {
            let all: Vec<u64> = (1..world.next).filter(|n| lane(*n) == of).filter(due).collect();
            let shown = world.shown.iter().copied().filter(|n| lane(*n) == of);
            prop_assert_eq!(shown.collect::<Vec<u64>>(), all);
        }
    }
}

#[test]
fn what_a_sibling_acknowledged_while_this_one_was_behind_still_comes() {
    let mut world = World::new(0);
    world.finish_read(false);
    (0..300).for_each(|_| world.accept());
    assert_eq!(world.shown.len(), WINDOW_SIZE);
    world.acknowledge_elsewhere(300, false);
    world.settle();
    assert_eq!(world.shown, (1..=300).collect::<Vec<u64>>());
    // Of what nobody waits for any more nothing is kept.
    assert!(world.feed.window.is_empty());
    assert_eq!(world.feed.take_lost(), None);
}

#[test]
fn what_a_sibling_acknowledged_while_nobody_knew_whether_it_was_sent_is_told_to_be_missed() {
    for told in [true, false] {
        let mut world = World::new(0);
        world.finish_read(false);
        world.begin();
        world.next = 20;
        world.accept();
        world.acknowledge(1);
        world.rest();
        // It became known late, and a sibling was faster.
        world.commit(lane(1), 1);
        world.offer(1, false);
        if told {
            world.acknowledge_elsewhere(1, false);
        } else {
            world.pending.remove(&1);
            world.acknowledged.insert(1);
            world.pump();
            world.finish_read(false);
        }
        assert_eq!(world.feed.take_lost(), Some(id(1)), "{told}");
    }
}

#[test]
fn what_was_acknowledged_before_the_connection_came_does_not_come_with_a_nudge() {
    let mut world = World::opened_at(id(3), 4, 4);
    world.finish_read(false);
    world.accept();
    world.feed.on_resync(Some(OPENED));
    world.pump();
    world.settle();
    assert_eq!((world.shown, world.feed.take_lost()), (vec![5], None));
}

#[test]
fn a_late_nudge_about_what_is_older_than_the_connection_tells_of_nothing_missed() {
    let mut world = World::opened_at(id(3), 3, 0);
    world.finish_read(false);
    world.acknowledge(3);
    world.rest();
    world.feed.on_resync(Some(id(2)));
    world.pump();
    world.settle();
    assert_eq!((world.shown, world.feed.take_lost()), (vec![1, 2, 3], None));
}

#[test]
fn what_was_acknowledged_before_a_late_nudge_about_it_is_told_to_be_missed() {
    let mut world = World::new(0);
    world.finish_read(false);
    (0..3).for_each(|_| world.begin());
    world.commit(lane(1), 2);
    world.hear(2);
    world.acknowledge(2);
    world.commit(lane(2), 1);
    world.rest();
    world.acknowledge_elsewhere(1, false);
    world.nudge(false);
    world.settle();
    assert_eq!((world.shown, world.feed.take_lost()), (vec![1, 3], Some(id(2))));
}

#[test]
fn what_came_late_and_was_acknowledged_elsewhere_is_told_to_be_missed() {
    let mut world = World::new(0);
    world.checks = true;
    world.finish_read(false);
    (0..3).for_each(|_| world.begin());
    world.commit(lane(1), 2);
    world.hear(2);
    world.acknowledge(2);
    world.rest();
    // Its wake-up comes after its acknowledgement, and says only that it is acknowledged.
    world.commit(lane(2), 1);
    world.acknowledge_elsewhere(1, false);
    world.settle();
    assert_eq!((world.shown, world.feed.take_lost()), (vec![1, 3], Some(id(2))));
}

#[test]
fn a_late_acknowledgement_by_the_client_itself_tells_of_nothing_missed() {
    let mut world = World::new(1);
    world.finish_read(false);
    // The attempt is missed, and what was sent is forgotten.
    world.now += 10 * TIMEOUT;
    assert_eq!(world.feed.on_tick(world.now).missed.len(), 1);
    world.rest();
    world.acknowledge(1);
    world.feed.on_acknowledged_elsewhere([id(1)].into_iter());
    assert_eq!(world.feed.take_lost(), None);
}

#[test]
fn what_is_deleted_while_a_read_is_under_way_does_not_come() {
    let mut feed = Feed::new(TIMEOUT, OPENED);
    feed.begin_read().unwrap();
    feed.on_deleted(id(1));
    let batch = feed.on_read(&[fresh(1), fresh(2)], false, Instant::now());
    assert_eq!(batch, FeedBatch::Page(vec![id(2)]));
}

#[test]
fn what_was_acknowledged_before_the_first_read_does_not_come() {
    let (mut feed, now) = (Feed::new(TIMEOUT, OPENED), Instant::now());
    assert_eq!(feed.begin_read(), Some(FeedRead { catch_up: true, ..FeedRead::default() }));
    feed.on_opened(&[id(3), id(1)], now);
    assert_eq!(feed.on_read(&[fresh(2)], false, now), FeedBatch::Page(vec![id(2)]));
    feed.on_resync(None);
    let wanted = AcknowledgedElsewhere { from: id(1), sent: vec![id(1), id(2), id(3)] };
    let reading = feed.begin_read().unwrap();
    assert_eq!((reading.in_window, reading.acknowledged), (vec![id(2)], Some(wanted)));
    // A wake-up that comes late.
    feed.on_read(&[], false, now);
    assert_eq!(feed.on_live(fresh(3), now), LiveDecision::Drop);
}

#[test]
fn a_wake_up_that_comes_very_late_is_looked_up() {
    let mut world = World::new(0);
    // Who tells looks first whether it was acknowledged.
    world.checks = true;
    world.finish_read(false);
    let many = MAX_REMEMBERED_IDS as u64 + 50;
    (0..many).for_each(|_| world.store_new());
    world.feed.on_resync(Some(id(1)));
    world.pump();
    while world.shown.len() < MAX_REMEMBERED_IDS + 50 {
        world.finish_read(false);
        world.acknowledge(usize::MAX);
    }
    world.settle();
    assert_eq!(world.shown, (1..=many).collect::<Vec<u64>>(), "not twice");
    assert_eq!(world.feed.take_lost(), None);
}

#[test]
fn what_cannot_be_told_any_more_is_told_to_be_missed() {
    let mut world = World::new(0);
    world.finish_read(false);
    for _ in 0..MAX_REMEMBERED_IDS + 50 {
        world.accept();
        world.acknowledge(1);
    }
    assert_eq!(world.feed.take_lost(), None);
    // Nobody knows what was lost on the way, and of the first fifty nobody knows whether they were sent.
    world.feed.on_resync(None);
    assert_eq!(world.feed.take_lost(), Some(OPENED));
    assert_eq!(world.feed.take_lost(), None);
    let reading = world.feed.begin_read().unwrap().acknowledged.unwrap();
    assert_eq!((reading.from, reading.sent.len()), (id(51), MAX_REMEMBERED_IDS));
    world.feed.on_read(&[], false, world.now);
    // One of them comes as if it had not been sent, and has to wait: the same.
    world.feed.on_passed_over(id(20));
    assert_eq!(world.feed.take_lost(), Some(id(20)));
}

#[test]
fn a_page_waits_for_the_acknowledgement_of_the_last() {
    let mut world = World::new(150);
    world.finish_read(false);
    assert_eq!(world.shown.len(), PAGE_SIZE);
    world.acknowledge(PAGE_SIZE - 1);
    assert!(world.read.is_none(), "one message of the page is still unacknowledged");
    world.acknowledge(1);
    world.finish_read(false);
    assert_eq!(world.shown.len(), 150);
}

#[test]
fn the_next_page_does_not_wait_for_the_word_to_be_stored() {
    let mut world = World::new(150);
    world.finish_read(false);
    world.say(PAGE_SIZE);
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
    assert_eq!(world.shown.len(), WINDOW_SIZE);
}

#[test]
fn what_is_not_acknowledged_in_time_is_missed_once() {
    let mut world = World::new(0);
    world.finish_read(false);
    world.accept();
    world.accept();
    world.acknowledge(1);
    let second = attempt(2);
    assert_eq!(world.feed.next_deadline(), Some(world.now + SENT_STATUS_DELAY));
    let later = world.now + Duration::from_secs(2);
    assert_eq!(world.feed.on_tick(later).sent, [(second, world.now)]);
    assert_eq!(world.feed.on_tick(later), Overdue::default());
    let overdue = world.feed.on_tick(world.now + TIMEOUT);
    assert_eq!((overdue.sent, overdue.missed), (vec![], vec![(second, world.now)]));
    assert_eq!(world.feed.on_tick(world.now + TIMEOUT * 2), Overdue::default());
    // Its retry comes as a live message again.
    let again = DeliveryAttempt { retry_count: 1, ..second };
    let again = Deliverable { attempt: again, acknowledged: false };
    assert_eq!(world.feed.on_live(again, later), LiveDecision::Send);
}

#[test]
fn a_look_too_early_is_followed_by_one_in_time() {
    let mut world = World::new(0);
    world.finish_read(false);
    world.accept();
    let half = world.now + SENT_STATUS_DELAY / 2;
    assert_eq!(world.feed.on_live(fresh(9), half), LiveDecision::Send);
    world.feed.on_acknowledged(&[id(1)]);
    let early = world.feed.next_deadline().expect("something is written");
    assert_eq!(world.feed.on_tick(early), Overdue::default());
    assert_eq!(world.feed.next_deadline(), Some(half + SENT_STATUS_DELAY));
}

#[test]
fn a_client_at_work_is_given_time_but_not_for_ever() {
    let mut world = World::new(0);
    world.finish_read(false);
    (0..3).for_each(|_| world.accept());
    let at = |timeouts: f64| world.now + TIMEOUT.mul_f64(timeouts);
    for step in 1..=9 {
        world.feed.on_client_active(at(f64::from(step) * 0.6));
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
    assert!(size_of::<Feed>() <= 240, "{}", size_of::<Feed>());
    // When nothing has come for a while, nothing of what came is remembered.
    let quiet = world.feed.next_deadline().expect("something to forget");
    assert_eq!(quiet, world.now + MAX_REORDERING);
    assert_eq!(world.feed.on_tick(quiet), Overdue::default());
    assert_eq!(world.feed.next_deadline(), None);
    assert!(!world.feed.position.has_had(id(1)));
    world.feed.on_resync(None);
    assert_eq!(world.feed.take_lost(), None, "nothing was crowded out");
    let reading = world.feed.begin_read().unwrap().acknowledged.unwrap();
    assert_eq!(reading, AcknowledgedElsewhere { from: id(2), sent: Vec::new() });
}

#[test]
fn what_came_with_a_read_is_not_written_again_when_it_comes_live() {
    let (mut feed, now) = (Feed::new(TIMEOUT, OPENED), Instant::now());
    assert!(feed.begin_read().is_some());
    assert_eq!(feed.on_read(&[fresh(1)], false, now), FeedBatch::Page(vec![id(1)]));
    assert_eq!(feed.on_live(fresh(1), now), LiveDecision::Drop);
    assert_eq!(feed.on_live(fresh(2), now), LiveDecision::Send);
    assert_eq!(feed.on_live(fresh(2), now), LiveDecision::Drop, "told twice");
}

#[test]
fn talk_comes_in_its_order_whatever_overtakes_what() {
    let conversation = ConversationId(Uuid::from_u128(9));
    let said = |n: u64| {
        let place = Some(ConversationPosition { conversation, seq: i64::try_from(n).unwrap() });
        Deliverable {
            attempt: DeliveryAttempt { position: place, ..attempt(n) },
            acknowledged: false,
        }
    };
    let now = Instant::now();
    let mut feed = Feed::new(Duration::from_secs(5), OPENED);
    assert!(feed.begin_read().is_some());
    assert_eq!(feed.on_read(&[], false, now), FeedBatch::Nothing);
    // Nothing is known of this conversation: what came before may have been overtaken.
    assert_eq!(feed.on_live(said(2), now), LiveDecision::Hold);
    assert!(feed.begin_read().is_some());
    assert_eq!(
        feed.on_read(&[said(1), said(2)], false, now),
        FeedBatch::Singly(vec![id(1), id(2)])
    );
    assert_eq!(feed.on_live(said(1), now), LiveDecision::Drop);
    assert_eq!(feed.on_live(said(3), now), LiveDecision::Send);
    // The fourth is the party's own, the sixth has overtaken the fifth.
    feed.on_own_message(ConversationPosition { conversation, seq: 4 });
    assert_eq!(feed.on_live(said(6), now), LiveDecision::Hold);
    assert!(feed.begin_read().is_some());
    assert_eq!(
        feed.on_read(&[said(5), said(6)], false, now),
        FeedBatch::Singly(vec![id(5), id(6)])
    );
    feed.on_acknowledged(&[id(3)]);
    assert_eq!(feed.on_live(said(3), now), LiveDecision::Drop, "a wake-up that comes twice");
    assert_eq!(feed.on_live(said(7), now), LiveDecision::Send);
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
            places.insert(n, ConversationPosition { conversation, seq: *seq });
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
                        world.offer(n, false);
                        world.pump();
                    }
                }
                WakeUp::Comes(_) | WakeUp::ComesTwice(_) => {}
                WakeUp::FinishRead => world.finish_read(false),
                WakeUp::Acknowledge(count) => world.acknowledge(usize::from(count)),
            }
        }
        // The position check finds what no wake-up brought.
        world.feed.on_resync(None);
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
