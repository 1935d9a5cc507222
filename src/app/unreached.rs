//! Recipients of which nobody could say whether they are connected: they are asked to read as soon as
//! somebody can.

use std::{
    collections::HashSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::domain::Party;

/// The most that are remembered; position checks find the others.
const REMEMBERED: usize = 200_000;

/// Who they are.
#[derive(Default)]
pub(super) struct Unreached {
    parties: Mutex<HashSet<Party>>,
    /// Whether there are any, told without the lock.
    any: AtomicBool,
}

impl Unreached {
    pub(super) fn note(&self, parties: impl IntoIterator<Item = Party>) {
        let mut known = self.parties.lock().unwrap_or_else(PoisonError::into_inner);
        for party in parties {
            if known.len() < REMEMBERED {
                known.insert(party);
            }
        }
        self.any.store(!known.is_empty(), Ordering::Release);
    }

    /// All of them, who are forgotten here.
    pub(super) fn take(&self) -> HashSet<Party> {
        if !self.any.load(Ordering::Acquire) {
            return HashSet::new();
        }
        let mut known = self.parties.lock().unwrap_or_else(PoisonError::into_inner);
        self.any.store(false, Ordering::Release);
        std::mem::take(&mut known)
    }
}
