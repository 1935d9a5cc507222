//! Which deliveries of a channel are not acknowledged yet, and how to acknowledge many at once.

use std::collections::VecDeque;

/// An acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ack {
    /// The delivery.
    pub(super) tag: u64,
    /// Whether all before it are meant, too.
    pub(super) multiple: bool,
}

/// Deliveries in the order in which the broker numbered them.
#[derive(Debug, Default)]
pub(super) struct Outstanding {
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    tag: u64,
    done: bool,
}

impl Outstanding {
    /// A delivery has come in; tags grow.
    pub(super) fn add(&mut self, tag: u64) {
        self.entries.push_back(Entry { tag, done: false });
    }

    fn find(&self, tag: u64) -> Option<usize> {
        self.entries.binary_search_by_key(&tag, |entry| entry.tag).ok()
    }

    /// A delivery was given back: it needs no acknowledgement.
    pub(super) fn forget(&mut self, tag: u64) {
        if let Some(at) = self.find(tag) {
            self.entries.remove(at);
        }
    }

    /// These are done. What to tell the broker: one word for all up to the first that is not done, and
    /// one for each behind it.
    pub(super) fn finish(&mut self, done: &[u64]) -> Vec<Ack> {
        for tag in done {
            if let Some(entry) = self.find(*tag).and_then(|at| self.entries.get_mut(at)) {
                entry.done = true;
            }
        }
        let mut acks = Vec::new();
        let mut upto = None;
        while self.entries.front().is_some_and(|entry| entry.done) {
            upto = self.entries.pop_front();
        }
        acks.extend(upto.map(|entry| Ack { tag: entry.tag, multiple: true }));
        for tag in done {
            if let Some(at) = self.find(*tag) {
                self.entries.remove(at);
                acks.push(Ack { tag: *tag, multiple: false });
            }
        }
        acks
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_word_for_a_run_and_one_for_each_straggler() {
        let mut outstanding = Outstanding::default();
        (1..=5).for_each(|tag| outstanding.add(tag));
        let acks = outstanding.finish(&[1, 2, 4]);
        assert_eq!(acks, [Ack { tag: 2, multiple: true }, Ack { tag: 4, multiple: false }]);
        assert_eq!(outstanding.finish(&[5, 3]), [Ack { tag: 5, multiple: true }]);
        assert_eq!(outstanding.entries.len(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Held against a broker that closes the channel when it is told of what it does not know.
        #[test]
        fn the_broker_understands_every_word(
            steps in prop::collection::vec((0u8..4, any::<prop::sample::Index>()), 1..200)
        ) {
            let mut outstanding = Outstanding::default();
            let mut broker = BTreeSet::new();
            let mut unsettled = BTreeSet::new();
            let mut acknowledged = BTreeSet::new();
            let mut next = 1;
            let mut batch = Vec::new();
            for (step, index) in steps {
                let pick = |set: &BTreeSet<u64>| -> Option<u64> {
                    (!set.is_empty()).then(|| *set.iter().nth(index.index(set.len())).unwrap())
                };
                match step {
                    0 => {
                        outstanding.add(next);
                        broker.insert(next);
                        unsettled.insert(next);
                        next += 1;
                    }
                    1 => if let Some(tag) = pick(&unsettled) {
                        unsettled.remove(&tag);
                        batch.push(tag);
                    },
                    2 => if let Some(tag) = pick(&unsettled) {
                        unsettled.remove(&tag);
                        outstanding.forget(tag);
                        broker.remove(&tag);
                    },
                    _ => {
                        for ack in outstanding.finish(&std::mem::take(&mut batch)) {
                            prop_assert!(broker.contains(&ack.tag), "unknown tag {}", ack.tag);
                            let from = if ack.multiple { 0 } else { ack.tag };
                            let gone: Vec<u64> = broker.range(from..=ack.tag).copied().collect();
                            for tag in gone {
                                prop_assert!(!unsettled.contains(&tag), "{tag} is not done");
                                broker.remove(&tag);
                                acknowledged.insert(tag);
                            }
                        }
                    }
                }
            }
            outstanding.finish(&batch);
            prop_assert_eq!(outstanding.entries.len(), unsettled.len());
        }
    }
}
