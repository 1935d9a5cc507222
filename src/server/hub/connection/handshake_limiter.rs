//! Limits the connections of one party that have not completed their handshake.
//!
//! After the handshake the registry limits them: it closes the oldest. Before it there is none to close, and
//! one user could take every connection of the server.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::domain::Party;

/// Many times the default limit of connections: a handshake that never completes counts until its timeout.
const MAX_PENDING_HANDSHAKES: usize = 256;

type Counts = Arc<Mutex<HashMap<Party, usize>>>;

/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct HandshakeLimiter {
    counts: Counts,
}

/// One pending handshake; dropping it ends the count.
#[derive(Debug)]
pub struct HandshakePermit {
    counts: Counts,
    party: Party,
}

fn lock(counts: &Counts) -> MutexGuard<'_, HashMap<Party, usize>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HandshakeLimiter {
    /// `None` when the party has too many pending handshakes.
    pub fn begin(&self, party: Party) -> Option<HandshakePermit> {
        let mut counts = lock(&self.counts);
        let count = counts.entry(party.clone()).or_default();
        if *count >= MAX_PENDING_HANDSHAKES {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(HandshakePermit { counts: Arc::clone(&self.counts), party })
    }
}

impl Drop for HandshakePermit {
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
        let limiter = HandshakeLimiter::default();
        let begin = |number| limiter.begin(party(number));
        let mut many: Vec<_> =
            (0..MAX_PENDING_HANDSHAKES).map(|_| begin("+967771234567").unwrap()).collect();
        assert!(begin("+967771234567").is_none());
        assert!(begin("+967771234568").is_some());
        many.pop();
        assert!(begin("+967771234567").is_some());
        drop(many);
        assert!(lock(&limiter.counts).is_empty());
    }
}
