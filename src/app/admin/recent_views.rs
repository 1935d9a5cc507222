//! Who watches phone numbers, looking again and again: each number is recorded once in a while, not at each
//! look.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::AdminService;
use crate::app::{By, Error};
use crate::domain::{BoundedMap, Phone, TokenId, WhenFull};

/// After this long a number is recorded again.
const VIEW_TTL: Duration = Duration::from_secs(3600);
/// Watchers that are remembered; of one more, each look is recorded.
const MAX_VIEWERS: usize = 100;
/// Numbers that are remembered of a viewer.
const MAX_NUMBERS: usize = 10_000;

/// Somebody who watches, for a reason.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Viewer {
    actor: String,
    token: Option<TokenId>,
    reason: Option<String>,
}

/// What watchers were shown lately.
pub(in crate::app) struct RecentViews {
    shown: Mutex<BoundedMap<Viewer, HashSet<Phone>>>,
}

impl Default for RecentViews {
    fn default() -> Self {
        RecentViews { shown: Mutex::new(BoundedMap::new(MAX_VIEWERS, WhenFull::Refuse)) }
    }
}

impl RecentViews {
    /// Those that a viewer was not shown yet.
    fn new_to(&self, viewer: &Viewer, phones: Vec<Phone>) -> Vec<Phone> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        match shown.get(viewer, Instant::now()) {
            Some(known) => phones.into_iter().filter(|phone| !known.contains(phone)).collect(),
            None => phones,
        }
    }

    fn note(&self, viewer: Viewer, phones: Vec<Phone>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match shown.get(&viewer, now) {
            Some(known) => {
                let room = MAX_NUMBERS.saturating_sub(known.len());
                known.extend(phones.into_iter().take(room));
            }
            None => {
                let known = phones.into_iter().take(MAX_NUMBERS).collect();
                shown.insert(viewer, known, Some(now + VIEW_TTL), now);
            }
        }
    }
}

impl AdminService {
    /// As [`AdminService::record_shown_numbers`], for somebody who looks again and again: what was recorded within
    /// the hour is not recorded again.
    ///
    /// # Errors
    /// Failures of the database; then they must not be shown.
    pub async fn record_viewed(
        &self,
        by: &By,
        shown: impl IntoIterator<Item = Phone>,
    ) -> Result<(), Error> {
        let (actor, token, reason) = by.identity();
        let viewer = Viewer { actor, token, reason };
        let shown: HashSet<Phone> = shown.into_iter().collect();
        let new = self.state.recent_views.new_to(&viewer, shown.into_iter().collect());
        if new.is_empty() {
            return Ok(());
        }
        self.record_shown_numbers(by, &new).await?;
        self.state.recent_views.note(viewer, new);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_new_to_a_watcher_once_and_to_each() {
        let watchers = RecentViews::default();
        let named = |actor: &str| Viewer { actor: actor.to_owned(), token: None, reason: None };
        let phone = |n: u32| Phone::from_stored(&format!("+96777000000{n}"));
        let (one, other) = (named("one"), named("other"));
        assert_eq!(watchers.new_to(&one, vec![phone(1)]), [phone(1)]);
        watchers.note(one.clone(), vec![phone(1)]);
        assert_eq!(watchers.new_to(&one, vec![phone(1), phone(2)]), [phone(2)]);
        assert_eq!(watchers.new_to(&other, vec![phone(1)]), [phone(1)]);
        for n in 0..2 * MAX_VIEWERS {
            watchers.note(named(&n.to_string()), vec![phone(1)]);
        }
        assert_eq!(watchers.shown.lock().unwrap().len(), MAX_VIEWERS);
    }
}
