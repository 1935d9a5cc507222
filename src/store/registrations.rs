//! Registrations and their codes: of a code only its HMAC.

use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Client, Error, Statements, statement::statements};
use crate::domain::{
    Phone,
    registration::{AppPlatform, CodeRoute, TextLocale},
};

macro_rules! registration_columns {
    () => {
        "r.id, r.phone, r.country, r.network, r.channel, r.platform, r.locale, r.created_at, r.resend_at,
         r.sends, r.counted, r.verified_at, c.id AS code_id, c.key_id, c.hmac, c.expires_at, c.tries,
         c.used_at"
    };
}

statements! {
    LIVE_CODE = "
        SELECT id, expires_at, tries FROM registration_codes
        WHERE phone = $1 AND used_at IS NULL AND expires_at > $2 ORDER BY created_at DESC LIMIT 1";
    END_CODES = "
        UPDATE registration_codes SET expires_at = $2
        WHERE phone = $1 AND used_at IS NULL AND expires_at > $2";
    ADD_CODE = "
        INSERT INTO registration_codes (id, phone, key_id, hmac, created_at, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6)";
    ADD = "
        INSERT INTO registrations (id, code_id, phone, country, network, channel, platform, locale,
                                   created_at, resend_at, counted)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    FIND = concat!(
        "SELECT ",
        registration_columns!(),
        " FROM registrations r JOIN registration_codes c ON c.id = r.code_id WHERE r.id = $1"
    );
    NEWEST_OF = "
        SELECT id FROM registrations WHERE phone = $1 AND verified_at IS NULL
        ORDER BY created_at DESC LIMIT 1";
    SENT_AGAIN = "
        UPDATE registrations SET code_id = $2, sends = sends + 1, resend_at = $3,
            counted = array_append(counted, $4)
        WHERE id = $1";
    // One guess. The row stays locked until the end of the transaction, so that guesses are judged one by one.
    TRY = concat!(
        "WITH tried AS (
            UPDATE registration_codes c SET tries = c.tries + 1
            FROM registrations r
            WHERE r.id = $1 AND c.id = r.code_id AND r.verified_at IS NULL AND c.tries < $3
              AND c.used_at IS NULL AND c.expires_at > $2
            RETURNING c.*)
        SELECT ",
        registration_columns!(),
        " FROM registrations r JOIN tried c ON c.id = r.code_id WHERE r.id = $1"
    );
    USE_CODE = "UPDATE registration_codes SET used_at = $2 WHERE id = $1 AND used_at IS NULL";
    VERIFIED = "UPDATE registrations SET verified_at = $2 WHERE id = $1";
    // Registrations go with their code.
    EXPIRE = "
        DELETE FROM registration_codes WHERE id IN (
            SELECT id FROM registration_codes WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)";
}

/// A code that is made.
pub struct NewCode<'a> {
    pub id: Uuid,
    pub phone: &'a Phone,
    /// The key that it is derived from.
    pub key_id: &'a [u8],
    pub hmac: &'a [u8],
    pub created_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
}

/// A registration that is asked for.
pub struct NewRegistration<'a> {
    pub id: Uuid,
    pub code_id: Uuid,
    pub phone: &'a Phone,
    pub country: &'a str,
    pub network: &'a str,
    pub route: CodeRoute,
    pub platform: Option<AppPlatform>,
    pub locale: Option<TextLocale>,
    pub created_at: OffsetDateTime,
    /// When a resend may be asked for.
    pub resend_at: OffsetDateTime,
    /// The period in which its send is counted.
    pub counted: OffsetDateTime,
}

/// A code that can be used.
#[derive(Clone, Copy, Debug)]
pub struct LiveCode {
    pub id: Uuid,
    pub expires_at: OffsetDateTime,
    pub tries: i32,
}

/// A registration with its code.
#[derive(Clone)]
pub struct StoredRegistration {
    pub id: Uuid,
    pub phone: Phone,
    pub country: String,
    pub network: String,
    pub route: CodeRoute,
    pub platform: Option<AppPlatform>,
    pub locale: Option<TextLocale>,
    pub created_at: OffsetDateTime,
    pub resend_at: OffsetDateTime,
    pub sends: u32,
    /// The periods in which its sends were counted.
    pub counted: Vec<OffsetDateTime>,
    pub verified_at: Option<OffsetDateTime>,
    pub code_id: Uuid,
    pub key_id: Vec<u8>,
    pub hmac: Vec<u8>,
    pub expires_at: OffsetDateTime,
    pub tries: i32,
    pub used_at: Option<OffsetDateTime>,
}

fn registration(row: &Row) -> Result<StoredRegistration, Error> {
    let route = CodeRoute::parse(row.try_get("channel")?);
    let platform: Option<&str> = row.try_get("platform")?;
    let locale: Option<&str> = row.try_get("locale")?;
    Ok(StoredRegistration {
        id: row.try_get("id")?,
        phone: Phone::from_stored(row.try_get("phone")?),
        country: row.try_get("country")?,
        network: row.try_get("network")?,
        route: route.ok_or_else(|| Error::Corrupt("channel of a registration".to_owned()))?,
        platform: platform.and_then(AppPlatform::parse),
        locale: locale.and_then(TextLocale::parse),
        created_at: row.try_get("created_at")?,
        resend_at: row.try_get("resend_at")?,
        sends: u32::try_from(row.try_get::<_, i32>("sends")?).unwrap_or_default(),
        counted: row.try_get("counted")?,
        verified_at: row.try_get("verified_at")?,
        code_id: row.try_get("code_id")?,
        key_id: row.try_get("key_id")?,
        hmac: row.try_get("hmac")?,
        expires_at: row.try_get("expires_at")?,
        tries: row.try_get("tries")?,
        used_at: row.try_get("used_at")?,
    })
}

/// The newest code of a phone that can be used.
pub async fn live_code(
    client: &impl Statements,
    phone: &Phone,
    now: OffsetDateTime,
) -> Result<Option<LiveCode>, Error> {
    let row = client.query_opt(&LIVE_CODE, &[&phone.as_str(), &now]).await?;
    row.map(|row| {
        Ok(LiveCode {
            id: row.try_get("id")?,
            expires_at: row.try_get("expires_at")?,
            tries: row.try_get("tries")?,
        })
    })
    .transpose()
}

/// Ends the codes of a phone.
pub async fn end_codes(
    client: &impl Statements,
    phone: &Phone,
    now: OffsetDateTime,
) -> Result<(), Error> {
    client.execute(&END_CODES, &[&phone.as_str(), &now]).await?;
    Ok(())
}

pub async fn add_code(client: &impl Statements, new: &NewCode<'_>) -> Result<(), Error> {
    client
        .execute(
            &ADD_CODE,
            &[
                &new.id,
                &new.phone.as_str(),
                &new.key_id,
                &new.hmac,
                &new.created_at,
                &new.expires_at,
            ],
        )
        .await?;
    Ok(())
}

pub async fn add(client: &impl Statements, new: &NewRegistration<'_>) -> Result<(), Error> {
    client
        .execute(
            &ADD,
            &[
                &new.id,
                &new.code_id,
                &new.phone.as_str(),
                &new.country,
                &new.network,
                &new.route.name(),
                &new.platform.map(AppPlatform::name),
                &new.locale.map(TextLocale::name),
                &new.created_at,
                &new.resend_at,
                &vec![new.counted],
            ],
        )
        .await?;
    Ok(())
}

/// A registration by id.
pub async fn find(client: &impl Statements, id: Uuid) -> Result<Option<StoredRegistration>, Error> {
    client.query_opt(&FIND, &[&id]).await?.as_ref().map(registration).transpose()
}

/// The newest registration of a phone that is not verified.
pub async fn newest_of(client: &impl Statements, phone: &Phone) -> Result<Option<Uuid>, Error> {
    let row = client.query_opt(&NEWEST_OF, &[&phone.as_str()]).await?;
    Ok(row.map(|row| row.try_get("id")).transpose()?)
}

/// Stores that a code is sent again, which may be another code.
pub async fn sent_again(
    client: &impl Statements,
    id: Uuid,
    code_id: Uuid,
    resend_at: OffsetDateTime,
    counted: OffsetDateTime,
) -> Result<(), Error> {
    client.execute(&SENT_AGAIN, &[&id, &code_id, &resend_at, &counted]).await?;
    Ok(())
}

/// Uses one of the tries of a registration's code; `None` if it has none, is used, expired or unknown.
pub async fn try_code(
    client: &impl Statements,
    id: Uuid,
    now: OffsetDateTime,
    most: i32,
) -> Result<Option<StoredRegistration>, Error> {
    client.query_opt(&TRY, &[&id, &now, &most]).await?.as_ref().map(registration).transpose()
}

/// Uses a code up. `false` if it is used already.
pub async fn use_code(
    client: &impl Statements,
    registration: &StoredRegistration,
    now: OffsetDateTime,
) -> Result<bool, Error> {
    if client.execute(&USE_CODE, &[&registration.code_id, &now]).await? != 1 {
        return Ok(false);
    }
    client.execute(&VERIFIED, &[&registration.id, &now]).await?;
    Ok(true)
}

/// Deletes codes that expired before a time, and their registrations, at most so many codes. Returns how many.
pub async fn expire(client: &Client, before: OffsetDateTime, limit: i64) -> Result<u64, Error> {
    client.execute(&EXPIRE, &[&before, &limit]).await
}
