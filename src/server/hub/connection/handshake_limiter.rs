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
const MAX_PENDING_HANDSHAKES: usize = 256;

type Counts = Arc<Mutex<HashMap<Party, usize>>>;

/// Who is on the way in. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct HandshakeLimiter {
    counts: Counts,
}

/// One connection on its way in; dropping it ends the way.
#[derive(Debug)]
pub struct HandshakePermit {
    counts: Counts,
    party: Party,
}

fn lock(counts: &Counts) -> MutexGuard<'_, HashMap<Party, usize>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HandshakeLimiter {
    /// Lets one more in; none when the party has too many on their way.
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
