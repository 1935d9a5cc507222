//! Business users and mobile users.

use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Client, Error, Statements, statement::statements};
use crate::domain::{MobileUserId, Permission, Permissions, Phone, UserId};

macro_rules! user_columns {
    () => {
        "id, name, phone, permissions, created_at, disabled_at, content_policy_id, \
         content_policy::text AS content_policy"
    };
}

macro_rules! mobile_columns {
    () => {
        "id, phone, status, created_at, blocked_at, email"
    };
}

statements! {
    ADD_USER: once = "
        INSERT INTO business_users (id, name, phone, permissions, created_at)
        VALUES ($1, $2, $3, $4, $5)";
    USER_BY_ID: once = concat!("SELECT ", user_columns!(), " FROM business_users WHERE id = $1");
    USER_BY_NAME: once = concat!(
        "SELECT ",
        user_columns!(),
        " FROM business_users WHERE lower(name) IN (lower($1), lower($2))
        ORDER BY lower(name) = lower($1) DESC LIMIT 1"
    );
    USER_BY_PHONE = "
        SELECT id FROM business_users WHERE phone = $1 AND disabled_at IS NULL ORDER BY id LIMIT 1";
    PHONES_OF = "SELECT id, phone FROM business_users WHERE id = ANY ($1) AND phone IS NOT NULL";
    // Policies are large: a list does without them.
    LIST_USERS: once = "
        SELECT id, name, phone, permissions, created_at, disabled_at, content_policy_id,
               NULL::text AS content_policy
        FROM business_users WHERE lower(name) > lower($1) ORDER BY lower(name) LIMIT $2";
    CHANGE_USER: once = concat!(
        "UPDATE business_users SET permissions = coalesce($2, permissions),
            phone = coalesce($3, phone), disabled_at = CASE WHEN NOT $4 THEN disabled_at
            WHEN $5::timestamptz IS NULL THEN NULL ELSE coalesce(disabled_at, $5) END,
            content_policy = CASE WHEN $6 THEN $7::text::jsonb ELSE content_policy END,
            content_policy_id = CASE WHEN $6 THEN $8 ELSE content_policy_id END
        WHERE id = $1 RETURNING ",
        user_columns!()
    );
    WAIT_FOR_ADMINISTRATORS: once = "SELECT pg_advisory_xact_lock($1)";
    HAS_OTHER_ADMINISTRATOR: once = "
        SELECT EXISTS (SELECT FROM business_users u JOIN tokens t ON t.user_id = u.id
            WHERE u.id <> $1 AND u.permissions & $2 <> 0 AND u.disabled_at IS NULL
            AND t.revoked_at IS NULL AND t.retires_at IS NULL
            AND (t.expires_at IS NULL OR t.expires_at > $3)) AS has_other";
    LOCK_USER: once = concat!(
        "SELECT ",
        user_columns!(),
        " FROM business_users WHERE id = $1 FOR UPDATE"
    );
    PUT_MOBILES: once = concat!(
        "INSERT INTO mobile_users (id, phone, status, created_at)
        SELECT * FROM unnest($1::uuid[], $2::text[], $3::int2[], $4::timestamptz[])
        ON CONFLICT (phone) DO UPDATE SET status =
            CASE WHEN excluded.status = 1 THEN 1 ELSE mobile_users.status END
        RETURNING ",
        mobile_columns!()
    );
    FIND_MOBILE: once = concat!("SELECT ", mobile_columns!(), " FROM mobile_users WHERE phone = $1");
    BLOCK_MOBILE: once = concat!(
        "UPDATE mobile_users SET blocked_at = CASE WHEN $2::timestamptz IS NULL THEN NULL
            ELSE coalesce(blocked_at, $2) END
        WHERE phone = $1 RETURNING ",
        mobile_columns!()
    );
    SET_MOBILE_EMAIL: once = concat!(
        "UPDATE mobile_users SET email = $2 WHERE phone = $1 RETURNING ",
        mobile_columns!()
    );
    LIST_MOBILES: once = concat!(
        "SELECT ",
        mobile_columns!(),
        " FROM mobile_users WHERE phone > $1 ORDER BY phone LIMIT $2"
    );
}

#[derive(Clone, Debug)]
pub struct BusinessUser {
    pub id: UserId,
    /// Unique ignoring case, 1 to 200 characters.
    pub name: String,
    /// Its own phone number.
    pub phone: Option<Phone>,
    /// What it may do.
    pub permissions: Permissions,
    pub created_at: OffsetDateTime,
    /// When it was disabled; its tokens are then not accepted.
    pub disabled_at: Option<OffsetDateTime>,
    /// What its messages may contain, as JSON; lists do without it.
    pub content_policy: Option<String>,
    /// Another one after each change of the policy; `None` without a policy.
    pub content_policy_id: Option<Uuid>,
}

fn user(row: &Row) -> Result<BusinessUser, Error> {
    Ok(BusinessUser {
        id: UserId(row.try_get("id")?),
        name: row.try_get("name")?,
        phone: row.try_get::<_, Option<&str>>("phone")?.map(Phone::from_stored),
        permissions: Permissions::from_bits(row.try_get("permissions")?),
        created_at: row.try_get("created_at")?,
        disabled_at: row.try_get("disabled_at")?,
        content_policy: row.try_get("content_policy")?,
        content_policy_id: row.try_get("content_policy_id")?,
    })
}

/// Adds a business user.
///
/// # Errors
/// [`Error::Conflict`] when the name is taken.
pub async fn add_user(client: &impl Statements, new: &BusinessUser) -> Result<(), Error> {
    client
        .execute(
            &ADD_USER,
            &[
                &new.id.0,
                &new.name,
                &new.phone.as_ref().map(Phone::as_str),
                &new.permissions.bits(),
                &new.created_at,
            ],
        )
        .await?;
    Ok(())
}

/// A business user by id.
pub async fn user_by_id(client: &Client, id: UserId) -> Result<Option<BusinessUser>, Error> {
    client.query_opt(&USER_BY_ID, &[&id.0]).await?.as_ref().map(user).transpose()
}

/// A business user by name, ignoring case: the first of these names that exists. Earlier versions stored
/// names as given.
pub async fn user_by_name(
    client: &Client,
    names: [&str; 2],
) -> Result<Option<BusinessUser>, Error> {
    client.query_opt(&USER_BY_NAME, &[&names[0], &names[1]]).await?.as_ref().map(user).transpose()
}

/// The business user with this phone number, if it is not disabled.
pub async fn user_by_phone(client: &Client, phone: &Phone) -> Result<Option<UserId>, Error> {
    let row = client.query_opt(&USER_BY_PHONE, &[&phone.as_str()]).await?;
    Ok(row.map(|row| row.try_get("id")).transpose()?.map(UserId))
}

/// The phone numbers of these business users, for those that have one.
pub async fn phones_of(client: &Client, ids: &[UserId]) -> Result<Vec<(UserId, Phone)>, Error> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let found = client.query(&PHONES_OF, &[&ids]).await?;
    found
        .iter()
        .map(|row| Ok((UserId(row.try_get("id")?), Phone::from_stored(row.try_get("phone")?))))
        .collect()
}

/// Business users by name, after a given name.
pub async fn list_users(
    client: &Client,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<BusinessUser>, Error> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    client
        .query(&LIST_USERS, &[&after.unwrap_or_default(), &limit])
        .await?
        .iter()
        .map(user)
        .collect()
}

/// What to change of a business user; `None` leaves a thing as it is.
#[derive(Clone, Debug, Default)]
pub struct UserChange {
    pub permissions: Option<Permissions>,
    /// A new phone number.
    pub phone: Option<Phone>,
    /// Disable (with the time) or enable again.
    pub disabled_at: Option<Option<OffsetDateTime>>,
    /// Set a content policy, as JSON and with its new id, or remove it.
    pub content_policy: Option<Option<(Uuid, String)>>,
}

/// Changes a business user; `None` when there is none of that id.
pub async fn change_user(
    client: &impl Statements,
    id: UserId,
    change: &UserChange,
) -> Result<Option<BusinessUser>, Error> {
    let policy = change.content_policy.as_ref().and_then(Option::as_ref);
    client
        .query_opt(
            &CHANGE_USER,
            &[
                &id.0,
                &change.permissions.map(Permissions::bits),
                &change.phone.as_ref().map(Phone::as_str),
                &change.disabled_at.is_some(),
                &change.disabled_at.flatten(),
                &change.content_policy.is_some(),
                &policy.map(|(_, text)| text.as_str()),
                &policy.map(|(id, _)| *id),
            ],
        )
        .await?
        .as_ref()
        .map(user)
        .transpose()
}

// "esh3ar a" in ASCII. Serializes changes that remove an administrator.
const ADMIN_LOCK_ID: i64 = 0x6573_6833_6172_2061;

/// Serializes transactions that remove an administrator.
pub(super) async fn wait_for_administrators(client: &impl Statements) -> Result<(), Error> {
    client.execute(&WAIT_FOR_ADMINISTRATORS, &[&ADMIN_LOCK_ID]).await?;
    Ok(())
}

/// Whether another user can administer; holds until the end of the transaction. A user without a valid token
/// cannot.
pub async fn has_other_administrator(
    client: &impl Statements,
    than: UserId,
    now: OffsetDateTime,
) -> Result<bool, Error> {
    wait_for_administrators(client).await?;
    let admin = Permissions::NONE.with(Permission::Admin).bits();
    let row = client.query_one(&HAS_OTHER_ADMINISTRATOR, &[&than.0, &admin, &now]).await?;
    Ok(row.try_get("has_other")?)
}

/// A business user, locked until the end of the transaction.
pub async fn lock_user(
    client: &impl Statements,
    id: UserId,
) -> Result<Option<BusinessUser>, Error> {
    client.query_opt(&LOCK_USER, &[&id.0]).await?.as_ref().map(user).transpose()
}

/// Registration status of a mobile user. The numbers are the stored ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum MobileStatus {
    /// Registered; the number is not verified yet.
    Pending = 0,
    Verified = 1,
    Rejected = 2,
}

impl MobileStatus {
    /// The name in JSON and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            MobileStatus::Pending => "pending",
            MobileStatus::Verified => "verified",
            MobileStatus::Rejected => "rejected",
        }
    }
}

#[derive(Clone, Debug)]
pub struct MobileUser {
    pub id: MobileUserId,
    pub phone: Phone,
    pub status: MobileStatus,
    pub created_at: OffsetDateTime,
    /// When it was blocked; its tokens are then not accepted.
    pub blocked_at: Option<OffsetDateTime>,
    /// Where one-time codes for it may be mailed to.
    pub email: Option<String>,
}

fn mobile(row: &Row) -> Result<MobileUser, Error> {
    Ok(MobileUser {
        id: MobileUserId(row.try_get("id")?),
        phone: Phone::from_stored(row.try_get("phone")?),
        status: match row.try_get::<_, i16>("status")? {
            0 => MobileStatus::Pending,
            1 => MobileStatus::Verified,
            2 => MobileStatus::Rejected,
            _ => return Err(Error::Corrupt("status of a mobile user".to_owned())),
        },
        created_at: row.try_get("created_at")?,
        blocked_at: row.try_get("blocked_at")?,
        email: row.try_get("email")?,
    })
}

/// Blocks a mobile user from a time on, or with `None` no longer; `None` when there is none of that number.
/// Blocking twice keeps the first time.
pub async fn block_mobile(
    client: &impl Statements,
    phone: &Phone,
    at: Option<OffsetDateTime>,
) -> Result<Option<MobileUser>, Error> {
    let row = client.query_opt(&BLOCK_MOBILE, &[&phone.as_str(), &at]).await?;
    row.as_ref().map(mobile).transpose()
}

/// Sets or removes the mail address of a mobile user; `None` when there is none of that number.
pub async fn set_mobile_email(
    client: &impl Statements,
    phone: &Phone,
    email: Option<&str>,
) -> Result<Option<MobileUser>, Error> {
    let row = client.query_opt(&SET_MOBILE_EMAIL, &[&phone.as_str(), &email]).await?;
    row.as_ref().map(mobile).transpose()
}

/// Adds mobile users. Existing ones become verified if requested and are unchanged otherwise. Returns all of
/// them.
pub async fn put_mobiles(
    client: &impl Statements,
    new: &[MobileUser],
) -> Result<Vec<MobileUser>, Error> {
    let ids: Vec<_> = new.iter().map(|m| m.id.0).collect();
    let phones: Vec<_> = new.iter().map(|m| m.phone.as_str()).collect();
    let status: Vec<_> = new.iter().map(|m| m.status as i16).collect();
    let times: Vec<_> = new.iter().map(|m| m.created_at).collect();
    client
        .query(&PUT_MOBILES, &[&ids, &phones, &status, &times])
        .await?
        .iter()
        .map(mobile)
        .collect()
}

/// A mobile user by phone number.
pub async fn find_mobile(
    client: &impl Statements,
    phone: &Phone,
) -> Result<Option<MobileUser>, Error> {
    client.query_opt(&FIND_MOBILE, &[&phone.as_str()]).await?.as_ref().map(mobile).transpose()
}

/// Mobile users by phone number, after a given one.
pub async fn list_mobiles(
    client: &Client,
    after: Option<&Phone>,
    limit: usize,
) -> Result<Vec<MobileUser>, Error> {
    let after = after.map_or("", Phone::as_str);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    client.query(&LIST_MOBILES, &[&after, &limit]).await?.iter().map(mobile).collect()
}
