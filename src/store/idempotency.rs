//! Idempotency keys: the first response to a request, stored so that a repeat gets the same one.

use time::OffsetDateTime;

use super::{Error, Statements, statement::statements};
use crate::domain::UserId;

/// A key and the response stored for it.
#[derive(Clone, Debug)]
pub struct IdempotentRequest {
    /// The owner of the key; users have separate keys.
    pub user: UserId,
    /// The key, 1 to 255 characters.
    pub key: String,
    /// SHA-256 of the route and the body, with fields in a canonical order.
    pub request_hash: [u8; 32],
    /// SHA-256 of the route and the raw body. Not stored; earlier versions stored this one.
    pub written_hash: [u8; 32],
    /// The status of the answer.
    pub status_code: u16,
    /// The body of the answer.
    pub response: String,
}

/// A stored response.
#[derive(Clone, Debug)]
pub struct StoredResponse {
    /// SHA-256 of the route and the body of its request; earlier versions hashed the raw body.
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

/// Claims a key for this response, in the transaction of its effect; `false` if it is taken. A key older than
/// `expired_before` is free again.
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

/// The response stored for a key.
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

/// Deletes at most `limit` keys older than `before`. Returns how many.
pub async fn delete_expired(
    client: &impl Statements,
    before: OffsetDateTime,
    limit: i64,
) -> Result<u64, Error> {
    client.execute(&FORGET, &[&before, &limit]).await
}
