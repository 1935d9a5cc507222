//! Idempotency keys: the first answer to a request, kept so that a repeat gets the same one.

use time::OffsetDateTime;

use super::{Error, Statements, statement::statements};
use crate::domain::UserId;

/// A key and the answer that goes with it.
#[derive(Clone, Debug)]
pub struct IdempotentRequest {
    /// Whose key it is; keys of different users have nothing to do with each other.
    pub user: UserId,
    /// The key, 1 to 255 characters.
    pub key: String,
    /// SHA-256 of route and body, whose fields may come in any order.
    pub request_hash: [u8; 32],
    /// The same of the body as it was written. Not stored: earlier versions stored it instead.
    pub written_hash: [u8; 32],
    /// The status of the answer.
    pub status_code: u16,
    /// The body of the answer.
    pub response: String,
}

/// An answer given before.
#[derive(Clone, Debug)]
pub struct StoredResponse {
    /// SHA-256 of the route and body it was given to; an earlier version's is of the body as written.
    pub request_hash: Vec<u8>,
    /// The status of the answer.
    pub status_code: u16,
    /// The body of the answer.
    pub response: String,
}

statements! {
    CLAIM = "
        INSERT INTO idempotency_keys (user_id, key, request_hash, status_code, response, created_at)
        VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (user_id, key) DO UPDATE SET
            request_hash = excluded.request_hash, status_code = excluded.status_code,
            response = excluded.response, created_at = excluded.created_at
        WHERE idempotency_keys.created_at < $7
        RETURNING user_id";
    EARLIER = "
        SELECT request_hash, status_code, response FROM idempotency_keys
        WHERE user_id = $1 AND key = $2 AND created_at >= $3";
    FORGET = "
        DELETE FROM idempotency_keys WHERE ctid IN
            (SELECT ctid FROM idempotency_keys WHERE created_at < $1 LIMIT $2)";
}

/// Takes a key for this answer, in the transaction of its effect; `false` when it is taken. A key
/// older than `expired_before` is free again.
pub async fn claim(
    client: &impl Statements,
    keyed: &IdempotentRequest,
    now: OffsetDateTime,
    expired_before: OffsetDateTime,
) -> Result<bool, Error> {
    let status = i16::try_from(keyed.status_code).unwrap_or(i16::MAX);
    let row = client
        .query_opt(
            &CLAIM,
            &[
                &keyed.user.0,
                &keyed.key,
                &keyed.request_hash.as_slice(),
                &status,
                &keyed.response,
                &now,
                &expired_before,
            ],
        )
        .await?;
    Ok(row.is_some())
}

/// The answer that was given for a key.
pub async fn stored_response(
    client: &impl Statements,
    user: UserId,
    key: &str,
    expired_before: OffsetDateTime,
) -> Result<Option<StoredResponse>, Error> {
    let row = client.query_opt(&EARLIER, &[&user.0, &key, &expired_before]).await?;
    row.map(|row| {
        Ok(StoredResponse {
            request_hash: row.try_get("request_hash")?,
            status_code: u16::try_from(row.try_get::<_, i16>("status_code")?).unwrap_or(200),
            response: row.try_get("response")?,
        })
    })
    .transpose()
}

/// Forgets keys older than `before`, at most `limit` of them. Returns how many.
pub async fn delete_expired(
    client: &impl Statements,
    before: OffsetDateTime,
    limit: i64,
) -> Result<u64, Error> {
    client.execute(&FORGET, &[&before, &limit]).await
}
