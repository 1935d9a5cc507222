//! Connections on their way in: negotiated without a transport yet, or with one and without a
//! handshake.
//!
//! Those with a handshake are counted by the registry, where one too many sends the oldest away.
//! Before that nobody would be sent away, and one user could take every place of the server.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::domain::Party;

/// Connections that one party may have on their way in at once: many times as many as it may have in
/// all by default, since those that never get there count until their time is up.
const MOST: usize = 256;

type Counts = Arc<Mutex<HashMap<Party, usize>>>;

/// Who is on the way in. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Newcomers {
    counts: Counts,
}

/// One connection on its way in; dropping it ends the way.
#[derive(Debug)]
pub struct Newcomer {
    counts: Counts,
    party: Party,
}

fn lock(counts: &Counts) -> MutexGuard<'_, HashMap<Party, usize>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Newcomers {
    /// Lets one more in; none when the party has too many on their way.
    pub fn enter(&self, party: Party) -> Option<Newcomer> {
        let mut counts = lock(&self.counts);
        let count = counts.entry(party.clone()).or_default();
        if *count >= MOST {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Newcomer { counts: Arc::clone(&self.counts), party })
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        if let Some(count) = counts.get_mut(&self.party) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.party);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Phone;

    #[test]
    fn one_party_cannot_keep_the_others_out() {
        let party = |number| Party::Mobile(Phone::from_stored(number));
        let newcomers = Newcomers::default();
        let enter = |number| newcomers.enter(party(number));
        let mut many: Vec<_> = (0..MOST).map(|_| enter("+967771234567").unwrap()).collect();
        assert!(enter("+967771234567").is_none());
        assert!(enter("+967771234568").is_some());
        many.pop();
        assert!(enter("+967771234567").is_some());
        drop(many);
        assert!(lock(&newcomers.counts).is_empty());
    }
}
