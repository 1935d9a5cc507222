//! Conversations: begun, listed, put away. Their messages are in [`super::chat`].

use time::OffsetDateTime;
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use super::{Client, Error, Statements, rows};
use crate::domain::{
    Conversation, ConversationId, ConversationStatus, Party, Phone, Status, UserId,
    conversation::Cursor,
};

/// The columns of a conversation, in the order that [`conversation`] reads.
pub(super) const COLUMNS: &str = "c.id, c.business_user_id, u.name, c.phone, c.status, c.last_seq, \
     coalesce(c.last_message_at, c.created_at), c.unread_business, c.unread_mobile, c.created_at";
/// Where they come from.
pub(super) const FROM: &str = "conversations c JOIN business_users u ON u.id = c.business_user_id";

pub(super) fn conversation(row: &Row) -> Result<Conversation, Error> {
    Ok(Conversation {
        id: ConversationId(row.try_get(0)?),
        business: UserId(row.try_get(1)?),
        business_name: row.try_get::<_, &str>(2)?.into(),
        phone: Phone::from_stored(row.try_get(3)?),
        status: ConversationStatus::from_number(row.try_get(4)?)
            .ok_or_else(|| Error::Corrupt("status of a conversation".to_owned()))?,
        last_seq: row.try_get(5)?,
        last_at: row.try_get(6)?,
        unread_business: row.try_get(7)?,
        unread_mobile: row.try_get(8)?,
        created_at: row.try_get(9)?,
    })
}

/// The conversation of a pair; `id` becomes its name if there is none yet. Whether it was begun now.
///
/// # Errors
/// Any failure of the database.
pub async fn open(
    client: &Client,
    id: ConversationId,
    business: UserId,
    phone: &Phone,
    now: OffsetDateTime,
) -> Result<(Conversation, bool), Error> {
    let statement = client
        .prepare_cached(
            "INSERT INTO conversations (id, business_user_id, phone, created_at, last_message_at) \
             VALUES ($1, $2, $3, $4, $4) ON CONFLICT (business_user_id, phone) DO NOTHING",
        )
        .await?;
    let made = client.execute(&statement, &[&id.0, &business.0, &phone.as_str(), &now]).await?;
    let sql =
        format!("SELECT {COLUMNS} FROM {FROM} WHERE c.business_user_id = $1 AND c.phone = $2");
    let statement = client.prepare_cached(&sql).await?;
    let row = client.query_one(&statement, &[&business.0, &phone.as_str()]).await?;
    Ok((conversation(&row)?, made == 1))
}

/// One conversation.
///
/// # Errors
/// Any failure of the database.
pub async fn get(
    client: &impl Statements,
    id: ConversationId,
) -> Result<Option<Conversation>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM {FROM} WHERE c.id = $1");
    let statement = client.prepare_cached(&sql).await?;
    client.query_opt(&statement, &[&id.0]).await?.as_ref().map(conversation).transpose()
}

/// The conversations of a party, those with the newest messages first.
///
/// # Errors
/// Any failure of the database.
pub async fn list(
    client: &Client,
    party: &Party,
    status: Option<ConversationStatus>,
    after: Option<Cursor>,
    limit: usize,
) -> Result<Vec<Conversation>, Error> {
    let (user, phone) = rows::columns(party);
    let phone = phone.map(str::to_owned);
    let (column, own): (&str, &(dyn ToSql + Sync)) = match (&user, &phone) {
        (Some(id), _) => ("business_user_id", id),
        (None, phone) => ("phone", phone),
    };
    let status = status.map(|status| status as i16);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let (last_at, id) = after.map_or((None, None), |c| (Some(c.last_at), Some(c.id.0)));
    let mut sql = format!("SELECT {COLUMNS} FROM {FROM} WHERE c.{column} = $1");
    let mut values: Vec<&(dyn ToSql + Sync)> = vec![own, &limit];
    if let Some(status) = &status {
        values.push(status);
        sql.push_str(&format!(" AND c.status = ${}", values.len()));
    }
    if let (Some(last_at), Some(id)) = (&last_at, &id) {
        values.extend([last_at as &(dyn ToSql + Sync), id]);
        let n = values.len();
        sql.push_str(&format!(" AND (c.last_message_at, c.id) < (${}, ${n})", n - 1));
    }
    sql.push_str(" ORDER BY c.last_message_at DESC, c.id DESC LIMIT $2");
    let statement = client.prepare_cached(&sql).await?;
    client.query(&statement, &values).await?.iter().map(conversation).collect()
}

/// Which conversations an administrator looks for.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only of this business user.
    pub business: Option<UserId>,
    /// Only with this phone.
    pub phone: Option<Phone>,
    /// Only in this status.
    pub status: Option<ConversationStatus>,
    /// Only those after this one.
    pub after: Option<Cursor>,
}

/// Everybody's conversations by filter, those with the newest messages first.
///
/// # Errors
/// Any failure of the database.
pub async fn list_all(
    client: &Client,
    filter: &Filter,
    limit: usize,
) -> Result<Vec<Conversation>, Error> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let business = filter.business.map(|id| id.0);
    let phone = filter.phone.as_ref().map(|phone| phone.as_str().to_owned());
    let status = filter.status.map(|status| status as i16);
    let wanted: [(&str, Option<&(dyn ToSql + Sync)>); 3] = [
        ("c.business_user_id =", business.as_ref().map(|v| v as &(dyn ToSql + Sync))),
        ("c.phone =", phone.as_ref().map(|v| v as &(dyn ToSql + Sync))),
        ("c.status =", status.as_ref().map(|v| v as &(dyn ToSql + Sync))),
    ];
    let mut values: Vec<&(dyn ToSql + Sync)> = vec![&limit];
    let mut conditions = vec!["true".to_owned()];
    for (condition, value) in wanted {
        if let Some(value) = value {
            values.push(value);
            conditions.push(format!("{condition} ${}", values.len()));
        }
    }
    let after = filter.after.map(|cursor| (cursor.last_at, cursor.id.0));
    if let Some((last_at, id)) = &after {
        values.extend([last_at as &(dyn ToSql + Sync), id]);
        let n = values.len();
        conditions.push(format!("(c.last_message_at, c.id) < (${}, ${n})", n - 1));
    }
    let sql = format!(
        "SELECT {COLUMNS} FROM {FROM} WHERE {} ORDER BY c.last_message_at DESC, c.id DESC LIMIT $1",
        conditions.join(" AND ")
    );
    client.query(&sql, &values).await?.iter().map(conversation).collect()
}

/// How many messages of a conversation there are in each status that some are in.
///
/// # Errors
/// Any failure of the database.
pub async fn count_messages(
    client: &Client,
    id: ConversationId,
) -> Result<Vec<(Status, i64)>, Error> {
    let found = client
        .query(
            "SELECT status, count(*) FROM messages WHERE conversation_id = $1 \
             AND deleted_at IS NULL GROUP BY 1 ORDER BY 1",
            &[&id.0],
        )
        .await?;
    let corrupt = || Error::Corrupt("status of a message".to_owned());
    let count = |row: &Row| {
        let status = Status::from_number(row.try_get(0)?).ok_or_else(corrupt)?;
        Ok((status, row.try_get(1)?))
    };
    found.iter().map(count).collect()
}

/// Puts a conversation into a status. Whether that changed anything.
///
/// # Errors
/// Any failure of the database.
pub async fn set_status(
    client: &impl Statements,
    id: ConversationId,
    status: ConversationStatus,
) -> Result<bool, Error> {
    let statement = client
        .prepare_cached("UPDATE conversations SET status = $2 WHERE id = $1 AND status <> $2")
        .await?;
    Ok(client.execute(&statement, &[&id.0, &(status as i16)]).await? == 1)
}

/// Conversations by id, locked until the end of the transaction, in the order of their ids so that
/// two transactions cannot wait for each other.
///
/// # Errors
/// Any failure of the database.
pub(super) async fn lock(
    client: &impl Statements,
    ids: &[Uuid],
) -> Result<Vec<(Conversation, Option<Uuid>)>, Error> {
    let sql = format!(
        "SELECT {COLUMNS}, c.last_message_id FROM {FROM} WHERE c.id = ANY ($1) ORDER BY c.id \
         FOR UPDATE OF c"
    );
    let statement = client.prepare_cached(&sql).await?;
    let found = client.query(&statement, &[&ids]).await?;
    found.iter().map(|row| Ok((conversation(row)?, row.try_get(10)?))).collect()
}
