//! Recipients of which nobody could say whether they are connected: they are asked to read as soon as
//! somebody can.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use crate::domain::{BoundedMap, MessageId, Party, WhenFull};

/// The most that are remembered; position checks find the others.
const MAX_PENDING: usize = 200_000;

/// Recipients, each with the first message that it may have missed.
pub(super) type Behind = HashMap<Party, MessageId>;

pub(super) fn add_behind(behind: &mut Behind, party: Party, from: MessageId) {
    behind.entry(party).and_modify(|known| *known = from.min(*known)).or_insert(from);
}

pub(super) struct PendingResyncs {
    /// Each with the first message that it may have missed.
    parties: Mutex<BoundedMap<Party, MessageId>>,
    /// Whether there are any, told without the lock.
    any: AtomicBool,
}

impl Default for PendingResyncs {
    fn default() -> Self {
        let parties = BoundedMap::new(MAX_PENDING, WhenFull::Refuse);
        PendingResyncs { parties: Mutex::new(parties), any: AtomicBool::default() }
    }
}

impl PendingResyncs {
    pub(super) fn note(&self, parties: impl IntoIterator<Item = (Party, MessageId)>) {
        let mut known = self.parties.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        for (party, from) in parties {
            match known.get(&party, now) {
                Some(known) => *known = from.min(*known),
                // Position checks find those for which there is no room.
                None => _ = known.insert(party, from, None, now),
            }
        }
        self.any.store(!known.is_empty(), Ordering::Release);
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Acquire)
    }

    /// Those of these parties that are remembered. They are forgotten here.
    pub(super) fn take_of<'a>(&self, parties: impl IntoIterator<Item = &'a Party>) -> Behind {
        if self.is_empty() {
            return Behind::new();
        }
        let mut known = self.parties.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = parties
            .into_iter()
            .filter_map(|party| Some((party.clone(), known.remove(party)?)))
            .collect();
        self.any.store(!known.is_empty(), Ordering::Release);
        taken
    }

    /// All of them, who are forgotten here.
    pub(super) fn take(&self) -> Behind {
        if self.is_empty() {
            return Behind::new();
        }
        let mut known = self.parties.lock().unwrap_or_else(PoisonError::into_inner);
        self.any.store(false, Ordering::Release);
        known.take(usize::MAX).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Phone;

    #[test]
    fn those_of_some_parties_are_taken_and_the_others_stay() {
        let party = |n: u8| Party::Mobile(Phone::from_stored(&format!("+96777123456{n}")));
        let id = |n: u128| MessageId(uuid::Uuid::from_u128(n));
        let pending = PendingResyncs::default();
        pending.note([(party(1), id(5)), (party(2), id(3)), (party(1), id(4))]);
        assert!(pending.take_of([&party(3)]).is_empty());
        assert_eq!(pending.take_of([&party(1), &party(1)]), Behind::from([(party(1), id(4))]));
        assert!(pending.take_of([&party(1)]).is_empty());
        assert_eq!(pending.take(), Behind::from([(party(2), id(3))]));
        assert!(pending.is_empty());
    }
}
