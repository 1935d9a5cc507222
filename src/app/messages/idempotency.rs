//! Repeats of a request: the same Idempotency-Key gets the answer that it got before.

use super::MessageService;
use crate::{
    app::{Core, Error},
    domain::{Party, UserId},
    store::{
        StatementGroup,
        idempotency::{self, IdempotentRequest, StoredResponse},
    },
};

/// How many keys are deleted in one statement.
const BATCH_SIZE: u64 = 1000;

/// The idempotency key of a request.
#[derive(Clone, Debug)]
pub struct RequestKey {
    /// 1 to 255 characters.
    pub key: String,
    /// SHA-256 of route and body, whose fields may come in any order.
    pub request_hash: [u8; 32],
    /// The same of the body as it was written, which earlier versions kept.
    pub written_hash: [u8; 32],
}

pub(super) fn keyed(user: UserId, key: RequestKey, answer: (u16, String)) -> IdempotentRequest {
    let RequestKey { key, request_hash, written_hash } = key;
    IdempotentRequest {
        user,
        key,
        request_hash,
        written_hash,
        status_code: answer.0,
        response: answer.1,
    }
}

/// What a request with this key was answered before.
///
/// # Errors
/// [`Error::KeyReused`]; failures of the database.
pub(super) async fn answered_before(
    core: &Core,
    user: UserId,
    key: &RequestKey,
) -> Result<Option<StoredResponse>, Error> {
    // By the sender's part: those who repeat must not stand in the way of what is stored.
    let party = Party::Business(user);
    let client = core.store().of(&party).client().await?;
    let expired = core.clock().now() - core.runtime_settings().retention.idempotency_keys;
    let hashes = [key.request_hash, key.written_hash];
    match idempotency::stored_response(&client, user, &key.key, expired).await? {
        Some(found) if hashes.iter().all(|hash| found.request_hash != *hash) => {
            Err(Error::KeyReused)
        }
        found => Ok(found),
    }
}

impl MessageService {
    /// What a request with this key was answered before.
    ///
    /// # Errors
    /// [`Error::KeyReused`]; failures of the database.
    pub(super) async fn answered_before(
        &self,
        user: UserId,
        key: &RequestKey,
    ) -> Result<Option<StoredResponse>, Error> {
        answered_before(&self.core, user, key).await
    }

    /// Forgets idempotency keys whose time is over. Returns whether there may be more.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn expire_idempotency_keys(&self) -> Result<bool, Error> {
        let client = self.core.store().client_for(StatementGroup::Upkeep).await?;
        let before =
            self.core.clock().now() - self.core.runtime_settings().retention.idempotency_keys;
        Ok(idempotency::delete_expired(&client, before, BATCH_SIZE as i64).await? == BATCH_SIZE)
    }
}
