//! The phone numbers of business users, by which the existing system's hubs name them.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{App, Error};
use crate::{
    domain::{Phone, UserId},
    store::accounts,
};

/// How many are remembered.
const REMEMBERED: usize = 65_536;
/// For how long: an administrator may change one.
const FOR: Duration = Duration::from_secs(60);

/// Numbers that were read lately; business users may have none.
#[derive(Default)]
pub(super) struct BusinessPhones {
    known: Mutex<HashMap<UserId, (Option<Phone>, Instant)>>,
}

impl BusinessPhones {
    fn locked(&self) -> MutexGuard<'_, HashMap<UserId, (Option<Phone>, Instant)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl App {
    /// The number of a business user, or that it has none; `None` when that was not read lately.
    pub fn business_phone(&self, id: UserId) -> Option<Option<Phone>> {
        let known = self.inner.business_phones.locked();
        let (phone, read) = known.get(&id)?;
        (read.elapsed() < FOR).then(|| phone.clone())
    }

    /// Reads the numbers of those of these business users that are not known.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn learn_business_phones(&self, ids: &[UserId]) -> Result<(), Error> {
        let unknown: Vec<UserId> =
            ids.iter().copied().filter(|id| self.business_phone(*id).is_none()).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let found = accounts::phones_of(&self.store().client().await?, &unknown).await?;
        let mut known = self.inner.business_phones.locked();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        let read = Instant::now();
        known.extend(unknown.into_iter().map(|id| (id, (None, read))));
        known.extend(found.into_iter().map(|(id, phone)| (id, (Some(phone), read))));
        Ok(())
    }
}
