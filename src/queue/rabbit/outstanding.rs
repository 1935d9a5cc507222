//! The unacknowledged deliveries of a channel, and how to acknowledge many with one frame.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) tag: u64,
    /// Whether it covers all earlier deliveries.
    pub(super) multiple: bool,
}

/// The broker numbers deliveries from 1 without gaps. They arrive by queue, so a later one may be here before
/// an earlier one, which a cumulative acknowledgement would lose.
#[derive(Debug)]
pub(super) struct Outstanding {
    /// By tag, whether it is done.
    entries: BTreeMap<u64, bool>,
    /// The first tag that has not arrived.
    next: u64,
    /// Tags that arrived before it.
    early: BTreeSet<u64>,
}

impl Outstanding {
    pub(super) fn new() -> Outstanding {
        Outstanding { entries: BTreeMap::new(), next: 1, early: BTreeSet::new() }
    }

    pub(super) fn add(&mut self, tag: u64) {
        self.entries.insert(tag, false);
        self.early.insert(tag);
        while self.early.remove(&self.next) {
            self.next += 1;
        }
    }

    /// A delivery was requeued or rejected: it needs no acknowledgement.
    pub(super) fn forget(&mut self, tag: u64) {
        self.entries.remove(&tag);
    }

    /// Marks deliveries as done. Returns the acknowledgements to send: one for all up to the first that is not
    /// done or has not arrived, and one for each behind it.
    pub(super) fn finish(&mut self, done: &[u64]) -> Vec<Ack> {
        for tag in done {
            if let Some(entry) = self.entries.get_mut(tag) {
                *entry = true;
            }
        }
        let mut acks = Vec::new();
        let mut upto = None;
        while let Some(first) = self.entries.first_entry()
            && *first.get()
            && *first.key() < self.next
        {
            upto = Some(first.remove_entry().0);
        }
        acks.extend(upto.map(|tag| Ack { tag, multiple: true }));
        for tag in done {
            if self.entries.remove(tag).is_some() {
                acks.push(Ack { tag: *tag, multiple: false });
            }
        }
        acks
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_word_for_a_run_and_one_for_each_straggler() {
        let mut outstanding = Outstanding::new();
        (1..=5).for_each(|tag| outstanding.add(tag));
        let acks = outstanding.finish(&[1, 2, 4]);
        assert_eq!(acks, [Ack { tag: 2, multiple: true }, Ack { tag: 4, multiple: false }]);
        assert_eq!(outstanding.finish(&[5, 3]), [Ack { tag: 5, multiple: true }]);
        assert_eq!(outstanding.entries.len(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Checked against a broker that closes the channel on an unknown tag.
        #[test]
        fn the_broker_understands_every_word(
            steps in prop::collection::vec((0u8..5, any::<prop::sample::Index>()), 1..200)
        ) {
            let mut outstanding = Outstanding::new();
            // What the broker has sent and holds, what of it is in transit, and what has arrived.
            let (mut broker, mut on_its_way, mut held) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
            let mut next = 1;
            let mut batch = Vec::new();
            for (step, index) in steps {
                let pick = |set: &BTreeSet<u64>| -> Option<u64> {
                    (!set.is_empty()).then(|| *set.iter().nth(index.index(set.len())).unwrap())
                };
                match step {
                    0 => {
                        broker.insert(next);
                        on_its_way.insert(next);
                        next += 1;
                    }
                    1 => if let Some(tag) = pick(&on_its_way) {
                        on_its_way.remove(&tag);
                        held.insert(tag);
                        outstanding.add(tag);
                    },
                    2 => if let Some(tag) = pick(&held) {
                        held.remove(&tag);
                        batch.push(tag);
                    },
                    3 => if let Some(tag) = pick(&held) {
                        held.remove(&tag);
                        outstanding.forget(tag);
                        broker.remove(&tag);
                    },
                    _ => {
                        let done = std::mem::take(&mut batch);
                        for ack in outstanding.finish(&done) {
                            prop_assert!(broker.contains(&ack.tag), "unknown tag {}", ack.tag);
                            let from = if ack.multiple { 0 } else { ack.tag };
                            let gone: Vec<u64> = broker.range(from..=ack.tag).copied().collect();
                            for tag in gone {
                                prop_assert!(!held.contains(&tag), "{tag} is not done");
                                prop_assert!(!on_its_way.contains(&tag), "{tag} has not come");
                                broker.remove(&tag);
                            }
                        }
                        prop_assert!(done.iter().all(|tag| !broker.contains(tag)), "one is left");
                    }
                }
            }
            outstanding.finish(&batch);
            prop_assert_eq!(outstanding.entries.len(), held.len());
        }
    }
}
