//! The digest of new dead letters for the administrators.

use std::time::Duration;

use time::OffsetDateTime;

use super::{Error, Statements, Transaction, dead_letters::DeadLetter, statement::statements};
use crate::domain::DeadLetterClass;

/// A digest of new dead letters.
#[derive(Clone, Debug, Default)]
pub struct DeadLetterDigest {
    /// How many, by kind and class.
    pub counts: Vec<(String, DeadLetterClass, i64)>,
    /// The newest of them.
    pub newest: Vec<DeadLetter>,
}

statements! {
    // Only one worker succeeds: the others wait for the row and then find that the interval has not passed.
    // Dead letters of mail jobs are not mailed about.
    CLAIM = "
        WITH due AS (
            INSERT INTO notices AS n (kind, last_at)
            SELECT 'dead_letters', $1
            WHERE EXISTS (SELECT FROM dead_letters WHERE told_at IS NULL AND kind <> 'mail')
            ON CONFLICT (kind) DO UPDATE SET last_at = excluded.last_at WHERE n.last_at <= $2
            RETURNING kind),
        told AS (
            UPDATE dead_letters SET told_at = $1
            WHERE told_at IS NULL AND kind <> 'mail' AND EXISTS (SELECT FROM due)
            RETURNING kind, class)
        SELECT kind, class, count(*) AS count FROM told GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2";
}

/// Claims the dead letters not reported yet, if the last digest is older than `interval`. They count as
/// reported when the transaction commits.
pub async fn claim_dead_letters(
    transaction: &Transaction<'_>,
    now: OffsetDateTime,
    interval: Duration,
    newest: usize,
) -> Result<DeadLetterDigest, Error> {
    let rows = transaction.query(&CLAIM, &[&now, &(now - interval)]).await?;
    let counts = rows
        .iter()
        .map(|row| {
            let class = DeadLetterClass::parse(row.try_get("class")?)
                .ok_or_else(|| Error::Corrupt("class of a dead letter".to_owned()))?;
            Ok((row.try_get("kind")?, class, row.try_get("count")?))
        })
        .collect::<Result<Vec<_>, Error>>()?;
    if counts.is_empty() {
        return Ok(DeadLetterDigest::default());
    }
    let newest = super::dead_letters::told_at(transaction, now, newest).await?;
    Ok(DeadLetterDigest { counts, newest })
}
