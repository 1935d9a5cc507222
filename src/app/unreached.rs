//! Recipients of which nobody could say whether they are connected: they are asked to read as soon as
//! somebody can.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::domain::{MessageId, Party};

/// The most that are remembered; position checks find the others.
const REMEMBERED: usize = 200_000;

/// Who they are.
#[derive(Default)]
pub(super) struct Unreached {
    /// Each with the first message that it may have missed.
    parties: Mutex<HashMap<Party, MessageId>>,
    /// Whether there are any, told without the lock.
    any: AtomicBool,
}

impl Unreached {
    pub(super) fn note(&self, parties: impl IntoIterator<Item = (Party, MessageId)>) {
        let mut known = self.parties.lock().unwrap_or_else(PoisonError::into_inner);
        for (party, from) in parties {
            if let Some(known) = known.get_mut(&party) {
                *known = from.min(*known);
            } else if known.len() < REMEMBERED {
                known.insert(party, from);
            }
        }
        self.any.store(!known.is_empty(), Ordering::Release);
    }

    /// All of them, who are forgotten here.
    pub(super) fn take(&self) -> HashMap<Party, MessageId> {
        if !self.any.load(Ordering::Acquire) {
            return HashMap::new();
        }
        let mut known = self.parties.lock().unwrap_or_else(PoisonError::into_inner);
        self.any.store(false, Ordering::Release);
        std::mem::take(&mut known)
    }
}
