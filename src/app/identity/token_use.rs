//! When tokens were last used, to the minute: noted in memory, written in batches.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use time::OffsetDateTime;

use super::IdentityService;
use crate::{
    app::Error,
    domain::{BoundedMap, TokenId, WhenFull},
    store::{StatementGroup, tokens},
};

/// How many tokens per statement.
const BATCH_SIZE: usize = 500;
/// How many tokens wait to be written; the use of more is noted again when they are next looked up.
const MAX_WAITING: usize = 100_000;
const MINUTE: Duration = Duration::from_secs(60);

pub(super) struct TokenUse {
    /// The minute that was noted last.
    noted: Mutex<BoundedMap<TokenId, i64>>,
    waiting: Mutex<HashMap<TokenId, OffsetDateTime>>,
}

impl Default for TokenUse {
    fn default() -> Self {
        let noted = BoundedMap::new(MAX_WAITING, WhenFull::DropOldest);
        TokenUse { noted: Mutex::new(noted), waiting: Mutex::default() }
    }
}

fn locked<T>(map: &Mutex<T>) -> MutexGuard<'_, T> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TokenUse {
    /// Notes that a token was used; nothing if that is noted for this minute.
    pub(super) fn note(&self, token: TokenId, at: OffsetDateTime) {
        let (minute, now) = (at.unix_timestamp().div_euclid(60), Instant::now());
        let mut noted = locked(&self.noted);
        if noted.get(&token, now).is_some_and(|last| *last == minute) {
            return;
        }
        noted.insert(token, minute, Some(now + MINUTE), now);
        drop(noted);
        let Ok(at) = OffsetDateTime::from_unix_timestamp(minute.saturating_mul(60)) else { return };
        let mut waiting = locked(&self.waiting);
        if waiting.len() < MAX_WAITING {
            waiting.insert(token, at);
        }
    }

    fn take(&self) -> Vec<(TokenId, OffsetDateTime)> {
        let mut waiting = locked(&self.waiting);
        let ids: Vec<TokenId> = waiting.keys().take(BATCH_SIZE).copied().collect();
        ids.into_iter().filter_map(|id| waiting.remove_entry(&id)).collect()
    }

    fn put_back(&self, batch: Vec<(TokenId, OffsetDateTime)>) {
        let mut waiting = locked(&self.waiting);
        for (token, at) in batch {
            waiting.entry(token).or_insert(at);
        }
    }
}

impl IdentityService {
    /// Writes when tokens were last used.
    ///
    /// # Errors
    /// Failures of the database; then it is written the next time.
    pub async fn write_token_use(&self) -> Result<(), Error> {
        loop {
            let batch = self.state.token_use.take();
            if batch.is_empty() {
                return Ok(());
            }
            let written = async {
                let client = self.core.store().client_for(StatementGroup::Upkeep).await?;
                tokens::record_use(&client, &batch).await
            };
            if let Err(error) = written.await {
                self.state.token_use.put_back(batch);
                return Err(error.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_written_once_a_minute_however_often_it_is_used() {
        let (used, token) = (TokenUse::default(), TokenId(uuid::Uuid::nil()));
        let at = |second: i64| OffsetDateTime::from_unix_timestamp(600 + second).unwrap();
        for second in 0..60 {
            used.note(token, at(second));
        }
        assert_eq!(used.take(), [(token, at(0))]);
        used.note(token, at(59));
        assert!(used.take().is_empty());
        used.note(token, at(61));
        assert_eq!(used.take(), [(token, at(60))]);
    }

    #[test]
    fn what_could_not_be_written_is_written_later_and_a_newer_time_stays() {
        let (used, token) = (TokenUse::default(), TokenId(uuid::Uuid::nil()));
        let at = |second: i64| OffsetDateTime::from_unix_timestamp(600 + second).unwrap();
        used.note(token, at(0));
        let batch = used.take();
        used.note(token, at(60));
        used.put_back(batch);
        assert_eq!(used.take(), [(token, at(60))]);
    }
}
