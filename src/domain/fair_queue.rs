//! A bounded queue that is fair between parties.
//!
//! Deficit round robin by rows: in each turn a party gets an equal share of a batch's rows as credit, and
//! takes requests in order while its credit lasts. A party with one request waits for one turn of each other
//! party, however much those have queued.

use std::collections::{HashMap, VecDeque};

/// Empty queues are kept for reuse, so that a request costs no allocation.
const SPARE_QUEUES: usize = 64;
/// … unless they have grown past this.
const SPARE_CAPACITY: usize = 64;

/// Queued requests by party. A party is identified by a number; `None` is the process itself.
#[derive(Debug)]
pub struct FairQueue<T> {
    parties: HashMap<u64, PartyQueue<T>>,
    /// Parties with requests, each once; the first is next.
    turns: VecDeque<u64>,
    /// Whether the first party has got its credit.
    has_credit: bool,
    own: Requests<T>,
    /// Whether the process's own requests went first into the last batch that had both.
    own_first: bool,
    spare: Vec<Requests<T>>,
    len: usize,
    capacity: usize,
    share: usize,
}

/// Requests with their row counts.
type Requests<T> = VecDeque<(usize, T)>;

#[derive(Debug)]
struct PartyQueue<T> {
    requests: Requests<T>,
    /// Rows that the party may still take.
    credit: usize,
}

/// A batch for one transaction.
struct Batch<T> {
    requests: Vec<T>,
    rows: usize,
}

impl<T> Batch<T> {
    /// Whether more rows fit: a request larger than a batch comes alone.
    fn has_room(&self, rows: usize, most: usize) -> bool {
        self.rows == 0 || self.rows + rows <= most
    }

    fn add(&mut self, (rows, request): (usize, T)) {
        self.rows += rows;
        self.requests.push(request);
    }
}

impl<T> FairQueue<T> {
    /// An empty queue for `capacity` requests; a party may use half of it.
    pub fn new(capacity: usize) -> FairQueue<T> {
        FairQueue {
            parties: HashMap::new(),
            turns: VecDeque::new(),
            has_credit: false,
            own: VecDeque::new(),
            own_first: false,
            spare: Vec::new(),
            len: 0,
            capacity,
            share: capacity.div_ceil(2),
        }
    }

    /// Number of queued requests.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Queues a request behind others of its party.
    ///
    /// # Errors
    /// The request, if the queue is full or the party has used its share.
    pub fn push(&mut self, party: Option<u64>, rows: usize, request: T) -> Result<(), T> {
        if self.len >= self.capacity {
            return Err(request);
        }
        let (requests, share) = match party {
            None => (&mut self.own, self.capacity),
            Some(party) => {
                let spare = &mut self.spare;
                let turns = &mut self.turns;
                let waiting = self.parties.entry(party).or_insert_with(|| {
                    turns.push_back(party);
                    PartyQueue { requests: spare.pop().unwrap_or_default(), credit: 0 }
                });
                (&mut waiting.requests, self.share)
            }
        };
        if requests.len() >= share {
            return Err(request);
        }
        // A request without rows still costs something.
        requests.push_back((rows.max(1), request));
        self.len += 1;
        Ok(())
    }

    /// Takes a batch of at most `most` rows; a larger request comes alone. If both the process itself and
    /// parties have requests, each gets half.
    pub fn take(&mut self, most: usize) -> Vec<T> {
        let mut batch = Batch { requests: Vec::new(), rows: 0 };
        let half = most.div_ceil(2);
        if self.own.is_empty() || self.turns.is_empty() {
            self.take_own(&mut batch, most);
            self.take_in_turn(&mut batch, most);
        } else {
            self.own_first = !self.own_first;
            if self.own_first {
                self.take_own(&mut batch, half);
                self.take_in_turn(&mut batch, most);
                self.take_own(&mut batch, most);
            } else {
                self.take_in_turn(&mut batch, half);
                self.take_own(&mut batch, most);
                self.take_in_turn(&mut batch, most);
            }
        }
        self.len -= batch.requests.len();
        batch.requests
    }

    /// Drops all requests.
    pub fn clear(&mut self) {
        self.parties.clear();
        self.turns.clear();
        self.own.clear();
        self.has_credit = false;
        self.len = 0;
    }

    fn take_own(&mut self, batch: &mut Batch<T>, most: usize) {
        while self.own.front().is_some_and(|(rows, _)| batch.has_room(*rows, most)) {
            self.own.pop_front().into_iter().for_each(|next| batch.add(next));
        }
    }

    fn take_in_turn(&mut self, batch: &mut Batch<T>, most: usize) {
        let credit = (most / self.turns.len().max(1)).max(1);
        // Turns since a request was taken.
        let mut in_vain = 0;
        while let Some(&party) = self.turns.front()
            && batch.rows < most
        {
            let Some(waiting) = self.parties.get_mut(&party) else {
                self.turns.pop_front();
                continue;
            };
            if !self.has_credit {
                waiting.credit = waiting.credit.saturating_add(credit);
                self.has_credit = true;
            }
            while let Some((rows, _)) = waiting.requests.front() {
                if *rows > waiting.credit {
                    break;
                }
                if !batch.has_room(*rows, most) {
                    // It keeps its turn and is first in the next batch.
                    return;
                }
                waiting.credit -= rows;
                in_vain = 0;
                let next = waiting.requests.pop_front();
                next.into_iter().for_each(|next| batch.add(next));
            }
            self.end_turn(party);
            in_vain += 1;
            if in_vain > self.turns.len() {
                if batch.rows > 0 {
                    return;
                }
                self.advance(credit);
                in_vain = 0;
            }
        }
    }

    /// The first party moves to the back, or leaves if it has no requests.
    fn end_turn(&mut self, party: u64) {
        self.turns.pop_front();
        self.has_credit = false;
        let is_empty = |waiting: &PartyQueue<T>| waiting.requests.is_empty();
        if !self.parties.get(&party).is_some_and(is_empty) {
            self.turns.push_back(party);
        } else if let Some(PartyQueue { requests, .. }) = self.parties.remove(&party)
            && self.spare.len() < SPARE_QUEUES
            && requests.capacity() <= SPARE_CAPACITY
        {
            self.spare.push(requests);
        }
    }

    /// Gives every party the credit of as many turns as the cheapest next request needs: with large requests
    /// only, single turns would take too long.
    fn advance(&mut self, credit: usize) {
        let turns_to_next = |waiting: &PartyQueue<T>| {
            let rows = waiting.requests.front().map_or(0, |(rows, _)| *rows);
            rows.saturating_sub(waiting.credit).div_ceil(credit)
        };
        // The turn itself gives the last one.
        let turns = self.parties.values().map(turns_to_next).min().unwrap_or_default();
        let more = turns.saturating_sub(1) * credit;
        for waiting in self.parties.values_mut() {
            waiting.credit = waiting.credit.saturating_add(more);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A request of these tests: whose it is, its number, and its rows.
    type Request = (Option<u64>, usize, usize);

    const MOST: usize = 500;

    fn push(queue: &mut FairQueue<Request>, party: Option<u64>, number: usize, rows: usize) {
        queue.push(party, rows, (party, number, rows)).expect("there is room");
    }

    fn rows(batch: &[Request]) -> usize {
        batch.iter().map(|(_, _, rows)| rows).sum()
    }

    #[test]
    fn one_party_gets_whole_batches_in_its_order() {
        let mut queue = FairQueue::new(100);
        for (number, rows) in [9, 1, 2, 3].into_iter().enumerate() {
            push(&mut queue, Some(1), number, rows);
        }
        let mut next = || queue.take(3).iter().map(|(_, _, rows)| *rows).collect::<Vec<_>>();
        assert_eq!(next(), [9], "too many rows, and alone");
        assert_eq!(next(), [1, 2]);
        assert_eq!(next(), [3]);
        assert_eq!(next(), [0; 0]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_single_request_is_in_the_batch_after_the_next_whatever_another_has_queued() {
        for position in 0..6 {
            let mut queue = FairQueue::new(4096);
            for number in 0..1000 {
                push(&mut queue, Some(1), number, MOST);
            }
            for _ in 0..position {
                assert_eq!(rows(&queue.take(MOST)), MOST);
            }
            push(&mut queue, Some(2), 0, 1);
            let batches = [queue.take(MOST), queue.take(MOST)];
            let with = batches.iter().position(|batch| batch.contains(&(Some(2), 0, 1)));
            assert!(with.is_some(), "{position}");
            assert!(batches.iter().all(|batch| rows(batch) <= MOST));
        }
    }

    #[test]
    fn a_party_and_the_process_itself_use_half_of_the_queue_at_most() {
        let mut queue = FairQueue::new(4);
        for party in [Some(1), None] {
            assert!(queue.push(party, 1, ()).is_ok() && queue.push(party, 1, ()).is_ok());
            assert!(queue.push(party, 1, ()).is_err());
        }
        assert_eq!(queue.len(), 4);
        assert!(queue.push(Some(2), 1, ()).is_err(), "the queue is full");
        assert_eq!(queue.take(2).len(), 2);
        assert!(queue.push(Some(2), 1, ()).is_ok());
        queue.clear();
        assert!(queue.is_empty() && queue.take(2).is_empty());
    }

    #[test]
    fn neither_the_process_itself_nor_the_parties_wait_for_all_of_the_other() {
        for rows_of_own in [1, 50, MOST] {
            let mut queue = FairQueue::new(10_000);
            for number in 0..2000 {
                push(&mut queue, None, number, rows_of_own);
                push(&mut queue, Some(number as u64), number, 1);
            }
            let batches = [queue.take(MOST), queue.take(MOST)].concat();
            let own = batches.iter().filter(|(party, ..)| party.is_none()).count() * rows_of_own;
            let others = batches.iter().filter(|(party, ..)| party.is_some()).count();
            assert!(own >= MOST / 2 && others >= MOST / 2, "{rows_of_own}: {own} and {others}");
        }
    }

    #[test]
    fn many_parties_with_large_requests_are_served_one_a_batch() {
        let mut queue = FairQueue::new(4096);
        for party in 0..1000 {
            push(&mut queue, Some(party), 0, MOST);
        }
        for party in 0..1000 {
            assert_eq!(queue.take(MOST), [(Some(party), 0, MOST)]);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push { party: Option<u64>, rows: usize },
        Take,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let rows = prop_oneof![0..3_usize, 1..2 * MOST];
        let step = prop_oneof![
            4 => (prop::option::weighted(0.8, 0..5_u64), rows)
                .prop_map(|(party, rows)| Step::Push { party, rows }),
            1 => Just(Step::Take),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        // **Feature: fairness between parties**: nothing that waits is lost, and a party's order is kept.
        #[test]
        fn nothing_is_lost_and_each_party_keeps_its_order(steps in steps()) {
            let mut queue = FairQueue::new(64);
            let mut pushed: BTreeMap<Option<u64>, Vec<usize>> = BTreeMap::new();
            let mut taken: BTreeMap<Option<u64>, Vec<usize>> = BTreeMap::new();
            let mut take = |queue: &mut FairQueue<Request>| {
                let before = queue.len();
                let batch = queue.take(MOST);
                assert_eq!(batch.is_empty(), before == 0);
                assert!(rows(&batch) <= MOST || batch.len() == 1);
                assert_eq!(queue.len(), before - batch.len());
                for (party, number, _) in batch {
                    taken.entry(party).or_default().push(number);
                }
            };
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Take => take(&mut queue),
                    Step::Push { party, rows } => {
                        let pushed = pushed.entry(party).or_default();
                        if queue.push(party, rows, (party, number, rows.max(1))).is_ok() {
                            pushed.push(number);
                        }
                        prop_assert!(queue.len() <= 64);
                    }
                }
            }
            while !queue.is_empty() {
                take(&mut queue);
            }
            pushed.retain(|_, numbers| !numbers.is_empty());
            prop_assert_eq!(pushed, taken);
        }

        // **Feature: fairness between parties**: who has a request waits for one turn of each of the others.
        #[test]
        fn a_newcomer_waits_for_one_turn_of_each_of_the_others(
            sizes in prop::collection::vec(1..=MOST, 1..8),
            before in 0..20_usize,
        ) {
            let mut queue = FairQueue::new(10_000);
            for (party, rows) in sizes.iter().enumerate() {
                for number in 0..600 {
                    push(&mut queue, Some(party as u64), number, *rows);
                }
            }
            for _ in 0..before {
                queue.take(MOST);
            }
            // A party whose requests have run out leaves a larger share to the others.
            let share = MOST / queue.turns.len().max(1);
            let newcomer = (Some(99), 0, 1);
            push(&mut queue, newcomer.0, newcomer.1, newcomer.2);
            let mut others: BTreeMap<Option<u64>, usize> = BTreeMap::new();
            loop {
                let batch = queue.take(MOST);
                let until = batch.iter().position(|request| *request == newcomer);
                for (party, _, rows) in &batch[..until.unwrap_or(batch.len())] {
                    *others.entry(*party).or_default() += rows;
                }
                if until.is_some() {
                    break;
                }
            }
            for (party, rows) in sizes.iter().enumerate() {
                let taken = others.get(&Some(party as u64)).copied().unwrap_or_default();
                prop_assert!(taken <= share + rows, "{taken} rows, {share} a turn, {rows} a request");
            }
        }

        // **Feature: fairness between parties**: parties that always have requests get the same number of rows.
        #[test]
        fn parties_share_the_rows_evenly(
            sizes in prop::collection::vec(1..=MOST, 2..6),
        ) {
            let mut queue = FairQueue::new(100_000);
            for (party, rows) in sizes.iter().enumerate() {
                for number in 0..(100 * MOST / rows).min(10_000) {
                    push(&mut queue, Some(party as u64), number, *rows);
                }
            }
            let mut taken = vec![0; sizes.len()];
            for _ in 0..20 {
                for (party, _, rows) in queue.take(MOST) {
                    taken[party.unwrap_or_default() as usize] += rows;
                }
            }
            let (least, most) = (taken.iter().min(), taken.iter().max());
            prop_assert!(most.unwrap() - least.unwrap() <= 2 * MOST, "{taken:?} of {sizes:?}");
        }
    }
}
