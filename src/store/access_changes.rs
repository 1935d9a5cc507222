//! Permissions and content policies that changed lately. The triggers of the tables note when.

use std::time::Duration;

use uuid::Uuid;

use super::{Client, Error, Statements, statement::statements};
use crate::domain::{Permissions, UserId};

statements! {
    CHANGED = "
        SELECT id, permissions, content_policy_id FROM business_users
        WHERE access_changed_at > now() - make_interval(secs => $1) AND disabled_at IS NULL";
}

/// What holds now for a business user after a change.
#[derive(Clone, Copy, Debug)]
pub struct AccessChange {
    pub user: UserId,
    pub permissions: Permissions,
    /// The id of its content policy.
    pub content_policy: Option<Uuid>,
}

/// Business users whose permissions or content policies changed in the last while, by the database's clock.
pub async fn within(client: &Client, last: Duration) -> Result<Vec<AccessChange>, Error> {
    let rows = client.query(&CHANGED, &[&last.as_secs_f64()]).await?;
    let change = |row: &tokio_postgres::Row| {
        Ok(AccessChange {
            user: UserId(row.try_get("id")?),
            permissions: Permissions::from_bits(row.try_get("permissions")?),
            content_policy: row.try_get("content_policy_id")?,
        })
    };
    rows.iter().map(change).collect()
}
