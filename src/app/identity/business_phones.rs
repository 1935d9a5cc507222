//! The phone numbers of business users, by which the existing system's hubs name them.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::IdentityService;
use crate::app::Error;
use crate::{
    domain::{BoundedMap, Phone, UserId, WhenFull},
    store::{StatementGroup, accounts},
};

const MAX_PHONES: usize = 65_536;
/// For how long: an administrator may change one.
const PHONE_TTL: Duration = Duration::from_secs(60);

/// Numbers that were read lately; business users may have none.
pub(in crate::app) struct BusinessPhones {
    known: Mutex<BoundedMap<UserId, Option<Phone>>>,
}

impl Default for BusinessPhones {
    fn default() -> Self {
        let known = BoundedMap::new(MAX_PHONES, WhenFull::DropOldest);
        BusinessPhones { known: Mutex::new(known) }
    }
}

impl BusinessPhones {
    fn locked(&self) -> MutexGuard<'_, BoundedMap<UserId, Option<Phone>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IdentityService {
    /// The number of a business user, or that it has none; `None` when that was not read lately.
    pub fn business_phone(&self, id: UserId) -> Option<Option<Phone>> {
        self.state.business_phones.locked().get(&id, Instant::now()).cloned()
    }

    /// Reads the numbers of those of these business users that are not known.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn load_business_phones(&self, ids: &[UserId]) -> Result<(), Error> {
        let unknown: Vec<UserId> =
            ids.iter().copied().filter(|id| self.business_phone(*id).is_none()).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        // What connected recipients are to get waits for it.
        let client = self.core.store().client_for(StatementGroup::Pending).await?;
        let found = accounts::phones_of(&client, &unknown).await?;
        let mut phones: HashMap<UserId, Phone> = found.into_iter().collect();
        let mut known = self.state.business_phones.locked();
        let now = Instant::now();
        for id in unknown {
            known.insert(id, phones.remove(&id), Some(now + PHONE_TTL), now);
        }
        Ok(())
    }
}
