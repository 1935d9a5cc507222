//! What caches keep of chat, and the versions by which they know whether it still holds: read together,
//! in one snapshot.
//!
//! A version is a text that no other state of the same rows has. It is raised in the transactions that
//! change them (`migrations/0008_chat_versions.sql`), and is read from the primary.

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{Client, Error, Statements, conversations, rows};
use crate::domain::{Conversation, ConversationId, ConversationStatus, Message, Party};

/// Of a conversation `c`: of its own row, and of what became of its messages since.
const OF_CONVERSATION: &str = "c.version || '.' || coalesce((SELECT r.version \
     FROM conversation_receipts r WHERE r.conversation_id = c.id), 0)";
/// Of the list of the business user `$1`.
const OF_BUSINESS: &str = "(SELECT coalesce(sum(l.version), 0)::text \
     FROM conversation_lists l WHERE l.business_user_id = $1)";
/// Of the list of the phone `$1`; null if it has more conversations than are worth adding up.
const OF_PHONE: &str = "(SELECT CASE WHEN count(*) <= 200 THEN \
     count(*) || '.' || coalesce(sum(few.version), 0) END \
     FROM (SELECT o.version FROM conversations o WHERE o.phone = $1 LIMIT 201) few)";

/// A conversation, and the version of what it and its messages look like.
///
/// # Errors
/// Any failure of the database.
pub async fn conversation(
    client: &Client,
    id: ConversationId,
) -> Result<Option<(Conversation, String)>, Error> {
    let sql = format!(
        "SELECT {}, {OF_CONVERSATION} FROM {} WHERE c.id = $1",
        conversations::COLUMNS,
        conversations::FROM
    );
    let statement = client.prepare_cached(&sql).await?;
    let row = client.query_opt(&statement, &[&id.0]).await?;
    row.map(|row| Ok((conversations::conversation(&row)?, row.try_get(10)?))).transpose()
}

/// The newest messages of a conversation, newest first, with their version; none without any.
///
/// # Errors
/// Any failure of the database.
pub async fn latest(
    client: &Client,
    id: ConversationId,
    limit: usize,
) -> Result<(Vec<Message>, Option<String>), Error> {
    let sql = format!(
        "SELECT {}, (SELECT {OF_CONVERSATION} FROM conversations c WHERE c.id = $1) FROM {} \
         WHERE m.conversation_id = $1 AND m.deleted_at IS NULL ORDER BY m.seq DESC LIMIT $2",
        rows::MESSAGE,
        rows::FROM
    );
    let statement = client.prepare_cached(&sql).await?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let found = client.query(&statement, &[&id.0, &limit]).await?;
    let version = found.first().map(|row| row.try_get(20)).transpose()?.flatten();
    Ok((rows::messages(&found)?, version))
}

/// Whose lists: the version's part of a statement, and the value of `$1`.
struct Of {
    version: &'static str,
    column: &'static str,
    unread: &'static str,
    user: Option<Uuid>,
    phone: Option<String>,
}

impl Of {
    fn new(party: &Party) -> Of {
        let (user, phone) = rows::columns(party);
        let phone = phone.map(str::to_owned);
        match party {
            Party::Business(_) => Of {
                version: OF_BUSINESS,
                column: "business_user_id",
                unread: "unread_business",
                user,
                phone,
            },
            Party::Mobile(_) => {
                Of { version: OF_PHONE, column: "phone", unread: "unread_mobile", user, phone }
            }
        }
    }

    fn value(&self) -> &(dyn ToSql + Sync) {
        match &self.user {
            Some(user) => user,
            None => &self.phone,
        }
    }
}

/// The version of a party's list of conversations, and of all that is counted in it; `None` for one
/// that is not worth keeping.
///
/// # Errors
/// Any failure of the database.
pub async fn list_version(client: &Client, party: &Party) -> Result<Option<String>, Error> {
    let of = Of::new(party);
    let statement = client.prepare_cached(&format!("SELECT {}", of.version)).await?;
    Ok(client.query_one(&statement, &[of.value()]).await?.try_get(0)?)
}

/// The first page of a party's conversations, those with the newest messages first, with its version.
///
/// # Errors
/// Any failure of the database.
pub async fn list(
    client: &Client,
    party: &Party,
    status: Option<ConversationStatus>,
    limit: usize,
) -> Result<(Vec<Conversation>, Option<String>), Error> {
    let of = Of::new(party);
    let status = status.map(|status| status as i16);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut values: Vec<&(dyn ToSql + Sync)> = vec![of.value(), &limit];
    let mut only = "";
    if let Some(status) = &status {
        values.push(status);
        only = " AND c.status = $3";
    }
    let sql = format!(
        "SELECT {}, {} FROM {} WHERE c.{} = $1{only} \
         ORDER BY c.last_message_at DESC, c.id DESC LIMIT $2",
        conversations::COLUMNS,
        of.version,
        conversations::FROM,
        of.column
    );
    let statement = client.prepare_cached(&sql).await?;
    let found = client.query(&statement, &values).await?;
    let version = found.first().map(|row| row.try_get(10)).transpose()?.flatten();
    Ok((found.iter().map(conversations::conversation).collect::<Result<_, _>>()?, version))
}

/// How many conversations of a party have messages that it has not read, with the version of that.
///
/// # Errors
/// Any failure of the database.
pub async fn unread(client: &Client, party: &Party) -> Result<(i64, Option<String>), Error> {
    let of = Of::new(party);
    let sql = format!(
        "SELECT count(*), {} FROM conversations WHERE {} = $1 AND {} > 0",
        of.version, of.column, of.unread
    );
    let statement = client.prepare_cached(&sql).await?;
    let row = client.query_one(&statement, &[of.value()]).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}
