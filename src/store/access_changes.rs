//! Permissions and content policies that changed lately. The triggers of the tables note when.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{Client, Error, Statements, statement::statements};
use crate::domain::{Permissions, UserId};

statements! {
    CHANGED = "
        SELECT id, permissions, content_policy_id FROM business_users
        WHERE access_changed_at > $1 AND disabled_at IS NULL";
}

/// What holds now for a business user after a change.
#[derive(Clone, Copy, Debug)]
pub struct AccessChange {
    pub user: UserId,
    pub permissions: Permissions,
    /// The id of its content policy.
    pub content_policy: Option<Uuid>,
}

/// Business users whose permissions or content policies changed after a time.
pub async fn since(client: &Client, since: OffsetDateTime) -> Result<Vec<AccessChange>, Error> {
    let rows = client.query(&CHANGED, &[&since]).await?;
    let change = |row: &tokio_postgres::Row| {
        Ok(AccessChange {
            user: UserId(row.try_get("id")?),
            permissions: Permissions::from_bits(row.try_get("permissions")?),
            content_policy: row.try_get("content_policy_id")?,
        })
    };
    rows.iter().map(change).collect()
}
