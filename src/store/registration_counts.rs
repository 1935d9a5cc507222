//! What the limits on registrations count, and the pauses of countries.

use time::OffsetDateTime;

use super::{Client, Error, Statements, statement::statements};
use crate::domain::registration::counts::{CountScope, PeriodCount};

statements! {
    // Released at the end of the transaction. Until then no other registration is judged by these counts.
    LOCK = "SELECT pg_advisory_xact_lock($1)";
    LOCK_PHONE = "SELECT pg_advisory_xact_lock(hashtextextended($1, 28))";
    COUNTS = "
        SELECT c.scope, c.period, c.sends, c.verified, c.failures
        FROM unnest($1::int2[], $2::text[]) AS k (scope, key)
        JOIN registration_counts c ON c.scope = k.scope AND c.key = k.key AND c.period >= $3";
    // In the order of the primary key, so that two transactions lock rows in one order.
    ADD = "
        INSERT INTO registration_counts AS c (scope, key, period, sends, verified, failures)
        SELECT scope, key, period, sum(sends), sum(verified), sum(failures)
        FROM unnest($1::int2[], $2::text[], $3::timestamptz[], $4::int4[], $5::int4[], $6::int4[])
            AS n (scope, key, period, sends, verified, failures)
        GROUP BY scope, key, period ORDER BY scope, key, period
        ON CONFLICT (scope, key, period) DO UPDATE SET
            sends = greatest(c.sends + excluded.sends, 0), verified = c.verified + excluded.verified,
            failures = c.failures + excluded.failures";
    PAUSED_UNTIL = "SELECT until FROM registration_pauses WHERE country = $1";
    PAUSE = "
        INSERT INTO registration_pauses (country, until) VALUES ($1, $2)
        ON CONFLICT (country) DO UPDATE SET until = excluded.until";
    EXPIRE = "
        DELETE FROM registration_counts WHERE (scope, key, period) IN (
            SELECT scope, key, period FROM registration_counts WHERE period < $1
            ORDER BY period LIMIT $2)";
    EXPIRE_PAUSES = "DELETE FROM registration_pauses WHERE until < $1";
}

/// "esh3ar" in ASCII, and one more letter.
const LIMITS_LOCK_ID: i64 = 0x6573_6833_6172_6f74;

/// What something is counted for.
pub type CountKey<'a> = (CountScope, &'a str);

/// A change of the counts of one period.
#[derive(Clone, Copy, Debug)]
pub struct CountChange<'a> {
    pub key: CountKey<'a>,
    pub period: OffsetDateTime,
    pub sends: i32,
    pub verified: i32,
    pub failures: i32,
}

/// Waits until no other transaction judges by the counts, and lets none do so until the end of this one.
pub async fn lock(client: &impl Statements) -> Result<(), Error> {
    client.execute(&LOCK, &[&LIMITS_LOCK_ID]).await?;
    Ok(())
}

/// The same for the wrong guesses of one phone.
pub async fn lock_phone(client: &impl Statements, phone: &str) -> Result<(), Error> {
    client.execute(&LOCK_PHONE, &[&phone]).await?;
    Ok(())
}

/// The counts of these since a period.
pub async fn counts(
    client: &impl Statements,
    keys: &[CountKey<'_>],
    since: OffsetDateTime,
) -> Result<Vec<PeriodCount>, Error> {
    let scopes: Vec<i16> = keys.iter().map(|(scope, _)| *scope as i16).collect();
    let names: Vec<&str> = keys.iter().map(|(_, key)| *key).collect();
    let rows = client.query(&COUNTS, &[&scopes, &names, &since]).await?;
    rows.iter()
        .map(|row| {
            let count = |name: &str| -> Result<u32, Error> {
                Ok(u32::try_from(row.try_get::<_, i32>(name)?).unwrap_or_default())
            };
            let scope = CountScope::from_number(row.try_get("scope")?);
            Ok(PeriodCount {
                scope: scope.ok_or_else(|| Error::Corrupt("scope of a count".to_owned()))?,
                period: row.try_get("period")?,
                sends: count("sends")?,
                verified: count("verified")?,
                failures: count("failures")?,
            })
        })
        .collect()
}

/// Changes counts.
pub async fn add(client: &impl Statements, changes: &[CountChange<'_>]) -> Result<(), Error> {
    fn column<'a, T>(
        changes: &'a [CountChange<'a>],
        value: impl Fn(&'a CountChange<'a>) -> T,
    ) -> Vec<T> {
        changes.iter().map(value).collect()
    }
    client
        .execute(
            &ADD,
            &[
                &column(changes, |c| c.key.0 as i16),
                &column(changes, |c| c.key.1),
                &column(changes, |c| c.period),
                &column(changes, |c| c.sends),
                &column(changes, |c| c.verified),
                &column(changes, |c| c.failures),
            ],
        )
        .await?;
    Ok(())
}

/// The end of the last pause of a country.
pub async fn paused_until(
    client: &impl Statements,
    country: &str,
) -> Result<Option<OffsetDateTime>, Error> {
    let row = client.query_opt(&PAUSED_UNTIL, &[&country]).await?;
    Ok(row.map(|row| row.try_get("until")).transpose()?)
}

/// Pauses a country.
pub async fn pause(
    client: &impl Statements,
    country: &str,
    until: OffsetDateTime,
) -> Result<(), Error> {
    client.execute(&PAUSE, &[&country, &until]).await?;
    Ok(())
}

/// Deletes counts and pauses that ended before a time, at most so many counts. Returns how many counts.
pub async fn expire(client: &Client, before: OffsetDateTime, limit: i64) -> Result<u64, Error> {
    client.execute(&EXPIRE_PAUSES, &[&before]).await?;
    client.execute(&EXPIRE, &[&before, &limit]).await
}
