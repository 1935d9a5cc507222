//! Who is writing right now: told to the other side at once, never stored, and only so often.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::ChatService;
use crate::app::{Caller, Error};
use crate::{
    domain::{
        ConversationId, Party,
        rate::{Rate, SlidingWindow},
    },
    presence::Outbound,
};

/// A signal says enough for this long.
const SIGNAL_TTL: Duration = Duration::from_secs(1);
/// What one user's connections may signal together, over all its conversations.
const USER_RATE: Rate = Rate { most: 20, window: Duration::from_secs(1) };
/// Users that are remembered; past that the idle ones are forgotten first.
const MAX_USERS: usize = 20_000;

#[derive(Default)]
struct Writer {
    all: SlidingWindow,
    last: HashMap<ConversationId, Instant>,
}

/// What was signalled in the last second.
pub(in crate::app) struct Signals {
    zero: Instant,
    writers: Mutex<HashMap<Party, Writer>>,
}

impl Signals {
    pub(in crate::app) fn new() -> Signals {
        Signals { zero: Instant::now(), writers: Mutex::default() }
    }

    /// Whether a signal passes. One that does not is no loss: the one before it still stands.
    fn pass(&self, party: &Party, id: ConversationId, now: Instant) -> bool {
        let at = now.saturating_duration_since(self.zero);
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        if writers.len() >= MAX_USERS && !writers.contains_key(party) {
            writers.retain(|_, writer| !writer.all.is_idle(USER_RATE, at));
            if writers.len() >= MAX_USERS {
                return false;
            }
        }
        let writer = writers.entry(party.clone()).or_default();
        writer.last.retain(|_, last| now.saturating_duration_since(*last) < SIGNAL_TTL);
        if writer.last.contains_key(&id) || writer.all.room(USER_RATE, at) == 0 {
            return false;
        }
        writer.all.pass(USER_RATE, at, 1);
        writer.last.insert(id, now);
        true
    }
}

impl ChatService {
    /// The caller is writing. Nothing of it is stored, and nobody who is not there learns it. One signal a
    /// second is told of each conversation and twenty of each user; what is more is dropped without
    /// costing anything.
    ///
    /// # Errors
    /// Not permitted, not found.
    pub async fn typing(&self, caller: &Caller, id: ConversationId) -> Result<(), Error> {
        if !self.state.signals.pass(&caller.chat_party()?, id, Instant::now()) {
            metrics::counter!("esh3ar_typing_dropped_total").increment(1);
            return Ok(());
        }
        let (conversation, side) = self.identity.conversation_of(caller, id).await?;
        let from = conversation.name(side);
        let other = conversation.party(side.other());
        self.core.presence().send(&other, &Outbound::Typing { conversation: id, from });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::UserId;

    #[test]
    fn one_a_second_of_each_conversation_and_twenty_of_each_user() {
        let signals = Signals::new();
        let user = |n| Party::Business(UserId(Uuid::from_u128(n)));
        let talk = |n| ConversationId(Uuid::from_u128(n));
        let zero = Instant::now();
        assert!(signals.pass(&user(1), talk(1), zero));
        assert!(!signals.pass(&user(1), talk(1), zero + Duration::from_millis(900)));
        assert!(signals.pass(&user(2), talk(1), zero), "the other side has its own");
        assert!(signals.pass(&user(1), talk(1), zero + Duration::from_millis(1100)));
        let later = zero + Duration::from_secs(10);
        let passed = (0..100).filter(|n| signals.pass(&user(1), talk(*n), later)).count();
        assert_eq!(passed, 20);
    }
}
