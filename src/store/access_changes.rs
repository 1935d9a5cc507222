//! Permissions that changed lately. The triggers of the tables note when.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{Client, Error, Statements, statement::statements};
use crate::domain::{Permissions, UserId};

statements! {
    CHANGED = "
        SELECT id, permissions FROM business_users
        WHERE access_changed_at > $1 AND disabled_at IS NULL";
}

/// Business users whose permissions changed after a time, with what they may do now.
pub async fn since(
    client: &Client,
    since: OffsetDateTime,
) -> Result<Vec<(UserId, Permissions)>, Error> {
    let rows = client.query(&CHANGED, &[&since]).await?;
    let change = |row: &tokio_postgres::Row| {
        let id: Uuid = row.try_get("id")?;
        Ok((UserId(id), Permissions::from_bits(row.try_get("permissions")?)))
    };
    rows.iter().map(change).collect()
}
