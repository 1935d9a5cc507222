//! Access tokens, by hash: the token itself is not stored.

use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Client, Error, Statements, accounts, rows, statement::statements};
use crate::domain::{Party, Permission, Permissions, Phone, TokenId, UserId};

statements! {
    // Disabled business users and rejected or blocked mobile users are refused.
    FIND = "
        SELECT t.id, t.user_id, u.name, u.permissions, u.content_policy_id, t.phone, t.expires_at,
               t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > $2)
                   AND (t.user_id IS NULL OR u.disabled_at IS NULL)
                   AND (t.phone IS NULL OR coalesce(p.status = 1 AND p.blocked_at IS NULL, false))
               AS valid
        FROM tokens t
        LEFT JOIN business_users u ON u.id = t.user_id
        LEFT JOIN mobile_users p ON p.phone = t.phone
        WHERE t.hash = $1";
    REVOKED = "
        SELECT id FROM tokens WHERE revoked_at > $1
        UNION
        SELECT id FROM tokens WHERE retires_at > $1 AND retires_at <= $2
        UNION
        SELECT t.id FROM business_users u JOIN tokens t ON t.user_id = u.id WHERE u.disabled_at > $1
        UNION
        SELECT t.id FROM mobile_users p JOIN tokens t ON t.phone = p.phone
        WHERE p.access_changed_at > now() - make_interval(secs => $3) AND p.status <> 1
        UNION
        SELECT t.id FROM business_users u JOIN tokens t ON t.user_id = u.id
        WHERE u.access_changed_at > now() - make_interval(secs => $3) AND u.disabled_at IS NOT NULL
        UNION
        SELECT t.id FROM mobile_users p JOIN tokens t ON t.phone = p.phone WHERE p.blocked_at > $1";
    INSERT: once = "
        INSERT INTO tokens (id, hash, user_id, phone, created_at, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6)";
    LIST_OF: once = "
        SELECT t.id, u.name, t.phone, t.created_at, t.expires_at, t.revoked_at, t.last_used_at
        FROM tokens t LEFT JOIN business_users u ON u.id = t.user_id
        WHERE t.phone IS DISTINCT FROM '' AND ($1::uuid IS NULL OR t.user_id = $1)
          AND ($2::text IS NULL OR t.phone = $2) AND ($3::uuid IS NULL OR t.id < $3)
        ORDER BY t.id DESC LIMIT $4";
    SHOW: once = "
        SELECT t.id, u.name, t.phone, t.created_at, t.expires_at, t.revoked_at, t.last_used_at
        FROM tokens t LEFT JOIN business_users u ON u.id = t.user_id
        WHERE t.phone IS DISTINCT FROM '' AND t.id = $1";
    // Locked by id, and without waiting: what another process writes is as new.
    RECORD_USE = "
        WITH used AS (
            SELECT t.id, u.at FROM unnest($1::uuid[], $2::timestamptz[]) AS u(id, at)
            JOIN tokens t ON t.id = u.id WHERE t.last_used_at IS NULL OR t.last_used_at < u.at
            ORDER BY t.id FOR NO KEY UPDATE OF t SKIP LOCKED)
        UPDATE tokens SET last_used_at = used.at FROM used WHERE tokens.id = used.id";
    ADMIN_ENDS: once = "
        SELECT count(*) FILTER (WHERE t.expires_at <= $3) AS soon,
               count(*) FILTER (WHERE t.expires_at IS NULL) AS endless
        FROM tokens t JOIN business_users u ON u.id = t.user_id
        WHERE u.permissions & $1 <> 0 AND u.disabled_at IS NULL AND t.revoked_at IS NULL
          AND t.retires_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > $2)";
    LOCK = "
        SELECT t.user_id, t.phone, t.created_at, t.expires_at,
               t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > $2)
                   AND u.disabled_at IS NULL AND (t.phone IS NULL OR EXISTS (
                       SELECT FROM mobile_users p
                       WHERE p.phone = t.phone AND p.status = 1 AND p.blocked_at IS NULL)) AS valid,
               t.retires_at IS NOT NULL AS replaced,
               coalesce(u.permissions & $3 <> 0, false) AS of_administrator
        FROM tokens t LEFT JOIN business_users u ON u.id = t.user_id
        WHERE t.id = $1 FOR UPDATE OF t";
    HAS_OTHER_OF_ADMINISTRATOR: once = "
        SELECT EXISTS (SELECT FROM business_users u JOIN tokens t ON t.user_id = u.id
            WHERE u.permissions & $3 <> 0 AND u.disabled_at IS NULL AND t.id <> $1
            AND t.revoked_at IS NULL AND t.retires_at IS NULL
            AND (t.expires_at IS NULL OR t.expires_at > $2)) AS has_other";
    RETIRE: once = "UPDATE tokens SET retires_at = $2, expires_at = $2 WHERE id = $1";
    REVOKE: once = "UPDATE tokens SET revoked_at = coalesce(revoked_at, $2) WHERE id = $1";
    REVOKE_ALL: once = "
        UPDATE tokens SET revoked_at = $3 WHERE (user_id = $1 OR phone = $2) AND revoked_at IS NULL
            AND (expires_at IS NULL OR expires_at > $3)";
}

/// The owner of a valid token.
#[derive(Clone, Debug)]
pub enum TokenOwner {
    Business { id: UserId, name: String, permissions: Permissions, content_policy: Option<Uuid> },
    Mobile { phone: Phone },
}

/// A token that exists.
#[derive(Clone, Debug)]
pub struct FoundToken {
    pub id: TokenId,
    pub owner: TokenOwner,
    /// `None` if it never expires.
    pub expires_at: Option<OffsetDateTime>,
    /// Whether it is valid now: not expired or revoked, and its owner may come in.
    pub valid: bool,
}

/// The token with this hash.
pub async fn find(
    client: &Client,
    hash: &[u8],
    now: OffsetDateTime,
) -> Result<Option<FoundToken>, Error> {
    let Some(row) = client.query_opt(&FIND, &[&hash, &now]).await? else { return Ok(None) };
    let user: Option<Uuid> = row.try_get("user_id")?;
    let owner = match user {
        Some(id) => TokenOwner::Business {
            id: UserId(id),
            name: row.try_get("name")?,
            permissions: Permissions::from_bits(row.try_get("permissions")?),
            content_policy: row.try_get("content_policy_id")?,
        },
        None => TokenOwner::Mobile { phone: Phone::from_stored(row.try_get("phone")?) },
    };
    Ok(Some(FoundToken {
        id: TokenId(row.try_get("id")?),
        owner,
        expires_at: row.try_get("expires_at")?,
        valid: row.try_get("valid")?,
    }))
}

/// Tokens that were revoked or retired after a time, or whose business user was disabled, or phone rejected or
/// blocked, after it.
pub async fn revoked_since(
    client: &Client,
    since: OffsetDateTime,
    now: OffsetDateTime,
) -> Result<Vec<TokenId>, Error> {
    let last = (now - since).as_seconds_f64();
    let rows = client.query(&REVOKED, &[&since, &now, &last]).await?;
    rows.iter().map(|row| Ok(TokenId(row.try_get("id")?))).collect()
}

pub async fn insert(
    client: &impl Statements,
    id: TokenId,
    hash: &[u8],
    owner: &Party,
    created_at: OffsetDateTime,
    expires_at: Option<OffsetDateTime>,
) -> Result<(), Error> {
    let (user, phone) = rows::columns(owner);
    client.execute(&INSERT, &[&id.0, &hash, &user, &phone, &created_at, &expires_at]).await?;
    Ok(())
}

/// A token as administrators see it.
#[derive(Clone, Debug)]
pub struct TokenInfo {
    pub id: TokenId,
    /// A business user's name.
    pub user: Option<String>,
    /// A mobile user's phone number.
    pub phone: Option<Phone>,
    pub created_at: OffsetDateTime,
    pub expires_at: Option<OffsetDateTime>,
    pub revoked_at: Option<OffsetDateTime>,
    /// To the minute.
    pub last_used_at: Option<OffsetDateTime>,
}

fn listed(row: &Row) -> Result<TokenInfo, Error> {
    Ok(TokenInfo {
        id: TokenId(row.try_get("id")?),
        user: row.try_get("name")?,
        phone: row.try_get::<_, Option<&str>>("phone")?.map(Phone::from_stored),
        created_at: row.try_get("created_at")?,
        expires_at: row.try_get("expires_at")?,
        revoked_at: row.try_get("revoked_at")?,
        last_used_at: row.try_get("last_used_at")?,
    })
}

/// A token by id.
pub async fn show(client: &Client, id: TokenId) -> Result<Option<TokenInfo>, Error> {
    client.query_opt(&SHOW, &[&id.0]).await?.as_ref().map(listed).transpose()
}

/// Records when tokens were last used. A later time that is stored stays.
pub async fn record_use(
    client: &impl Statements,
    used: &[(TokenId, OffsetDateTime)],
) -> Result<(), Error> {
    let (ids, times): (Vec<Uuid>, Vec<OffsetDateTime>) =
        used.iter().map(|(id, at)| (id.0, *at)).unzip();
    client.execute(&RECORD_USE, &[&ids, &times]).await?;
    Ok(())
}

/// How many valid tokens of administrators end until a time, and how many never end.
pub async fn admin_ends(
    client: &Client,
    now: OffsetDateTime,
    until: OffsetDateTime,
) -> Result<(i64, i64), Error> {
    let admin = Permissions::NONE.with(Permission::Admin).bits();
    let row = client.query_one(&ADMIN_ENDS, &[&admin, &now, &until]).await?;
    Ok((row.try_get("soon")?, row.try_get("endless")?))
}

/// Tokens of one owner, or of everybody, before a given one; newest first.
pub async fn list(
    client: &Client,
    owner: Option<&Party>,
    before: Option<TokenId>,
    limit: usize,
) -> Result<Vec<TokenInfo>, Error> {
    let (user, phone) = owner.map_or((None, None), rows::columns);
    let before = before.map(|id| id.0);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    client.query(&LIST_OF, &[&user, &phone, &before, &limit]).await?.iter().map(listed).collect()
}

/// A token locked for a change.
#[derive(Clone, Debug)]
pub struct LockedToken {
    pub owner: Party,
    pub created_at: OffsetDateTime,
    /// The original expiry.
    pub expires_at: Option<OffsetDateTime>,
    pub valid: bool,
    pub replaced: bool,
    pub of_administrator: bool,
}

/// A token, locked until the end of the transaction.
pub async fn lock(
    client: &impl Statements,
    id: TokenId,
    now: OffsetDateTime,
) -> Result<Option<LockedToken>, Error> {
    let admin = Permissions::NONE.with(Permission::Admin).bits();
    let Some(row) = client.query_opt(&LOCK, &[&id.0, &now, &admin]).await? else {
        return Ok(None);
    };
    let owner = rows::party(row.try_get("user_id")?, row.try_get("phone")?);
    Ok(Some(LockedToken {
        owner: owner.ok_or_else(|| Error::Corrupt("owner of a token".to_owned()))?,
        created_at: row.try_get("created_at")?,
        expires_at: row.try_get("expires_at")?,
        valid: row.try_get("valid")?,
        replaced: row.try_get("replaced")?,
        of_administrator: row.try_get("of_administrator")?,
    }))
}

/// Whether another administrator token is valid and not replaced, until the end of the transaction.
pub async fn has_other_of_administrator(
    client: &impl Statements,
    than: TokenId,
    now: OffsetDateTime,
) -> Result<bool, Error> {
    accounts::wait_for_administrators(client).await?;
    let admin = Permissions::NONE.with(Permission::Admin).bits();
    let row = client.query_one(&HAS_OTHER_OF_ADMINISTRATOR, &[&than.0, &now, &admin]).await?;
    Ok(row.try_get("has_other")?)
}

/// Sets the time at which a replaced token stops being valid.
pub async fn retire(
    client: &impl Statements,
    id: TokenId,
    at: OffsetDateTime,
) -> Result<(), Error> {
    client.execute(&RETIRE, &[&id.0, &at]).await?;
    Ok(())
}

/// Revokes a token. Revoking twice keeps the first time.
pub async fn revoke(
    client: &impl Statements,
    id: TokenId,
    at: OffsetDateTime,
) -> Result<(), Error> {
    client.execute(&REVOKE, &[&id.0, &at]).await?;
    Ok(())
}

/// Revokes every valid token of an owner. Returns how many.
pub async fn revoke_all(
    client: &impl Statements,
    owner: &Party,
    at: OffsetDateTime,
) -> Result<u64, Error> {
    let (user, phone) = rows::columns(owner);
    client.execute(&REVOKE_ALL, &[&user, &phone, &at]).await
}
