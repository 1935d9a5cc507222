//! Secrets of the installation itself.

use time::OffsetDateTime;

use super::{Client, Error, Statements, statement::statements};

statements! {
    KEEP: once = "
        INSERT INTO secrets (name, value, created_at) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING";
    FIND: once = "SELECT value FROM secrets WHERE name = $1";
}

/// The secret with this name; stores `fresh` if there is none. The first caller wins.
pub async fn find_or_keep(
    client: &Client,
    name: &str,
    fresh: &[u8],
    now: OffsetDateTime,
) -> Result<Vec<u8>, Error> {
    client.execute(&KEEP, &[&name, &fresh, &now]).await?;
    let row = client.query_one(&FIND, &[&name]).await?;
    Ok(row.try_get("value")?)
}
