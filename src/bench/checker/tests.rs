//! Correct histories pass, and each planted fault is found as what it is.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn id(n: u64) -> MessageId {
    MessageId(Uuid::from_u128(u128::from(n) + 1))
}

/// A correct history of `count` messages between a few senders and recipients, with a refused and an
/// unanswered send, repeats that are not shown, statuses, unread counts and balanced sums.
fn correct(count: u64, seed: u64) -> History {
    let mut history = History::new();
    for tag in 0..count {
        let sender = ((tag ^ seed) % 3) as u32;
        let recipient = (((tag / 2) ^ seed) % 4) as u32;
        let outcome = match tag % 11 {
            7 => SendOutcome::Refused,
            9 => SendOutcome::Unknown,
            _ => SendOutcome::Accepted(id(tag)),
        };
        let (began, ended) = (tag * 10, tag * 10 + 5);
        history.sent(SentMessage {
            tag,
            sender,
            recipient,
            lane: 1,
            began,
            ended,
            outcome,
            place: None,
        });
        if outcome == SendOutcome::Refused || tag % 22 == 9 {
            continue;
        }
        let receipt = ReceivedMessage {
            connection: recipient,
            recipient,
            tag,
            id: id(tag),
            place: None,
            shown: true,
            retry: false,
        };
        history.received(receipt);
        if tag % 5 == seed % 5 {
            history.received(ReceivedMessage { shown: false, ..receipt });
        }
        for (rank, retries) in [(0, 0), (1, 0), (1, 1), (2, 1)] {
            history.observed(sender, id(tag), StatusSnapshot { generation: 0, rank, retries });
        }
    }
    // Every third place is the other side's.
    for seq in (1..60).filter(|seq| seq % 3 != 0) {
        history.received(chat(1, seq));
        history.sent(chat_send(seq));
        history.unread(1, seq, seq);
    }
    siblings(&mut history);
    let accepted = history.accepted() as u64;
    history.sums(LedgerTotals { accepted, accounted: accepted });
    history
}

/// Three connections of one recipient: one stays, one ends in the middle, and one comes late and is told
/// that it missed something.
fn siblings(history: &mut History) {
    history.opened(70, 60, 0);
    history.opened(71, 60, 0);
    history.opened(72, 60, 100);
    for n in 0..30 {
        let (began, ended) = (n * 10, n * 10 + 5);
        let tag = SIBLINGS + n;
        let place = (n % 2 == 0).then_some((5, i64::try_from(n).unwrap() / 2 + 1));
        let outcome = SendOutcome::Accepted(id(tag));
        history.sent(SentMessage {
            tag,
            sender: 4,
            recipient: 60,
            lane: 1,
            began,
            ended,
            outcome,
            place,
        });
        for connection in 70..73 {
            let ended = connection == 71 && n >= 20;
            let late = connection == 72 && n < 10;
            let missed = connection == 72 && (15..18).contains(&n);
            let receipt = ReceivedMessage {
                connection,
                recipient: 60,
                tag,
                id: id(tag),
                place,
                shown: connection == 70,
                retry: false,
            };
            if !ended && !late && !missed {
                history.received(receipt);
            }
            if connection == 70 && n == 25 {
                history.received(ReceivedMessage { shown: false, retry: true, ..receipt });
            }
        }
    }
    history.closed(71);
    history.reported_missed(72, 150, 180);
}

const SIBLINGS: u64 = 1 << 33;

const CHAT: u64 = 1 << 32;

fn chat(conversation: u64, seq: i64) -> ReceivedMessage {
    let tag = CHAT + seq.unsigned_abs();
    let place = Some((conversation, seq));
    ReceivedMessage {
        connection: 90,
        recipient: 90,
        tag,
        id: id(tag),
        place,
        shown: true,
        retry: false,
    }
}

fn chat_send(seq: i64) -> SentMessage {
    let tag = CHAT + seq.unsigned_abs();
    SentMessage {
        tag,
        sender: 9,
        recipient: 90,
        lane: 1,
        began: 0,
        ended: 1,
        outcome: SendOutcome::Accepted(id(tag)),
        place: Some((1, seq)),
    }
}

/// Plants one fault; the result names it.
type Mutator = fn(&mut History, usize) -> &'static str;

/// A shown receipt of an accepted one-way message, chosen by `pick`.
fn pick_receipt(history: &History, pick: usize) -> usize {
    let accepted: HashSet<Tag> = history
        .sends
        .iter()
        .filter(|send| matches!(send.outcome, SendOutcome::Accepted(_)))
        .map(|send| send.tag)
        .collect();
    let candidates: Vec<usize> = (0..history.receipts.len())
        .filter(|at| {
            let receipt = history.receipts[*at];
            let known = receipt.shown && receipt.place.is_none() && receipt.tag < CHAT;
            known && accepted.contains(&receipt.tag)
        })
        .collect();
    candidates[pick % candidates.len()]
}

const MUTATORS: [Mutator; 19] = [
    |history, pick| {
        let gone = history.receipts[pick_receipt(history, pick)].id;
        history.receipts.retain(|receipt| receipt.id != gone);
        "lost"
    },
    |history, pick| {
        // It arrived, and the client dropped it unseen.
        let at = pick_receipt(history, pick);
        history.receipts[at].shown = false;
        "lost"
    },
    |history, pick| {
        let mut ghost = history.receipts[pick_receipt(history, pick)];
        (ghost.tag, ghost.id) = (u64::MAX, id(u64::MAX - 1));
        history.receipts.push(ghost);
        "ghost"
    },
    |history, pick| {
        let refused: Vec<SentMessage> = history
            .sends
            .iter()
            .filter(|send| send.outcome == SendOutcome::Refused)
            .copied()
            .collect();
        let send = refused[pick % refused.len()];
        let mut back = history.receipts[pick_receipt(history, pick)];
        (back.tag, back.id, back.recipient) = (send.tag, id(send.tag), send.recipient);
        history.receipts.push(back);
        "ghost"
    },
    |history, pick| {
        let mut twice = history.receipts[pick_receipt(history, pick)];
        twice.id = id(twice.tag + (1 << 40));
        history.receipts.push(twice);
        "twice"
    },
    |history, pick| {
        // Nobody was told the id, and two came of it.
        let unknown: Vec<ReceivedMessage> = history
            .receipts
            .iter()
            .filter(|receipt| receipt.tag < CHAT && receipt.tag % 11 == 9)
            .copied()
            .collect();
        let mut twice = unknown[pick % unknown.len()];
        twice.id = id(twice.tag + (1 << 40));
        history.receipts.push(twice);
        "twice"
    },
    |history, pick| {
        let again = history.receipts[pick_receipt(history, pick)];
        history.receipts.push(again);
        "shown_twice"
    },
    |history, pick| {
        let mut astray = history.receipts[pick_receipt(history, pick)];
        (astray.recipient, astray.connection) = (77, 77);
        history.receipts.push(astray);
        "misdelivered"
    },
    |history, pick| {
        // The last of a sender on a connection comes before its first.
        let last = history.receipts[pick_receipt(history, pick)];
        let tags: HashMap<Tag, u32> =
            history.sends.iter().map(|send| (send.tag, send.sender)).collect();
        let same = |receipt: &ReceivedMessage| {
            receipt.connection == last.connection && tags.get(&receipt.tag) == tags.get(&last.tag)
        };
        let mine: Vec<ReceivedMessage> =
            history.receipts.iter().filter(|r| same(r)).copied().collect();
        history.receipts.retain(|receipt| !same(receipt));
        history.receipts.extend(mine.into_iter().rev());
        "out_of_order"
    },
    |history, _| {
        // One comes after the next.
        history.receipts.retain(|receipt| receipt.place != Some((1, 7)));
        let at = history.receipts.iter().position(|r| r.place == Some((1, 8))).unwrap();
        history.receipts.insert(at + 1, chat(1, 7));
        "out_of_order"
    },
    |history, pick| {
        // One is left out and comes on another connection, after everything else.
        let places: Vec<i64> = (1..56).filter(|seq| seq % 3 != 0).collect();
        let seq = places[pick % places.len()];
        history.receipts.retain(|receipt| receipt.place != Some((1, seq)));
        history.receipts.push(ReceivedMessage { connection: 91, ..chat(1, seq) });
        "out_of_order"
    },
    |history, pick| {
        let at = pick % history.status.len();
        let (observer, seen_id, mut seen) = history.status[at];
        seen.generation -= 1;
        history.status.push((observer, seen_id, seen));
        "went_back"
    },
    |history, pick| {
        let at = pick % history.status.len();
        let (observer, seen_id, _) = history.status[at];
        history.status.push((
            observer,
            seen_id,
            StatusSnapshot { generation: 0, rank: 1, retries: 1 },
        ));
        "went_back"
    },
    |history, pick| {
        let at = pick % history.unread.len();
        history.unread[at].1 += 1;
        "wrong_unread"
    },
    |history, pick| {
        // Another connection of the same recipient acknowledged it before this one got it.
        without(history, 70, SIBLINGS + pick as u64 % 30, true);
        "skipped"
    },
    |history, pick| {
        // The one that ended got others after it.
        without(history, 71, SIBLINGS + pick as u64 % 18, false);
        "skipped"
    },
    |history, pick| {
        // The one that was told of something else.
        without(history, 72, SIBLINGS + 19 + pick as u64 % 11, false);
        "skipped"
    },
    |history, pick| {
        let mine = |receipt: &&ReceivedMessage| receipt.connection == 71;
        let mine: Vec<ReceivedMessage> = history.receipts.iter().filter(mine).copied().collect();
        history.receipts.push(mine[pick % mine.len()]);
        "repeated"
    },
    |history, pick| {
        let off = pick as u64 % 3 + 1;
        history.sums =
            history.sums.map(|sums| LedgerTotals { accounted: sums.accounted - off, ..sums });
        "unbalanced"
    },
];

/// As if this had not come on that connection; if it was shown there, another one shows it.
fn without(history: &mut History, connection: u32, tag: Tag, shown: bool) {
    history.receipts.retain(|receipt| (receipt.connection, receipt.tag) != (connection, tag));
    if shown {
        let other = history.receipts.iter_mut().find(|receipt| receipt.tag == tag);
        match other {
            Some(receipt) => receipt.shown = true,
            None => panic!("nobody else has it"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn a_correct_history_is_clean(count in 60u64..300, seed in 0u64..1000) {
        let report = correct(count, seed).check();
        prop_assert!(report.is_clean(), "{report}");
    }

    #[test]
    fn each_planted_fault_is_found_as_what_it_is(
        count in 60u64..300, seed in 0u64..1000, which in 0..MUTATORS.len(), pick in 0usize..10_000
    ) {
        let mut history = correct(count, seed);
        let name = MUTATORS[which](&mut history, pick);
        let report = history.check();
        // A reversal of one message is none.
        prop_assume!(which != 8 || !reversed_is_short(&history));
        for (found, n) in report.counts() {
            if found == name {
                prop_assert!(n > 0, "{name} was not found");
            } else {
                prop_assert_eq!(n, 0, "{} instead of {}: {}", found, name, report);
            }
        }
    }
}

/// Whether the receipts at the end, which the reversal put there, are of one message only.
fn reversed_is_short(history: &History) -> bool {
    let Some(last) = history.receipts.last() else { return true };
    let tags: HashMap<Tag, u32> = history.sends.iter().map(|s| (s.tag, s.sender)).collect();
    let ids: HashSet<MessageId> = history
        .receipts
        .iter()
        .filter(|r| r.connection == last.connection && tags.get(&r.tag) == tags.get(&last.tag))
        .map(|r| r.id)
        .collect();
    ids.len() < 2
}

#[test]
fn sends_that_overlapped_may_come_in_any_order() {
    let mut history = History::new();
    for (tag, began, ended) in [(1, 0, 10), (2, 5, 20)] {
        let outcome = SendOutcome::Accepted(id(tag));
        history.sent(SentMessage {
            tag,
            sender: 1,
            recipient: 1,
            lane: 1,
            began,
            ended,
            outcome,
            place: None,
        });
    }
    for tag in [2, 1] {
        history.received(ReceivedMessage {
            connection: 1,
            recipient: 1,
            tag,
            id: id(tag),
            place: None,
            shown: true,
            retry: false,
        });
    }
    assert!(history.check().is_clean());
}

#[test]
fn what_a_recipient_who_left_did_not_get_is_not_lost() {
    let mut history = History::new();
    let outcome = SendOutcome::Accepted(id(1));
    history.sent(SentMessage {
        tag: 1,
        sender: 1,
        recipient: 5,
        lane: 1,
        began: 0,
        ended: 1,
        outcome,
        place: None,
    });
    assert!(!history.check().is_clean());
    history.left_early(5);
    assert!(history.check().is_clean());
}

#[test]
fn another_connection_goes_on_where_the_last_one_ended() {
    let mut history = History::new();
    for seq in 1..10 {
        history.sent(chat_send(seq));
        let connection = if seq < 5 { 90 } else { 91 };
        history.received(ReceivedMessage { connection, ..chat(1, seq) });
    }
    // What was on its way when the first one broke comes again.
    history.received(ReceivedMessage { connection: 91, retry: true, shown: false, ..chat(1, 4) });
    assert!(history.check().is_clean(), "{}", history.check());
}
