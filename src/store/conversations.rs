//! Conversations: begun, listed, put away. Their messages are in [`super::chat`].

use time::OffsetDateTime;
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use super::{Client, Error, Statement, Statements, rows, statement::statements};
use crate::domain::{
    Conversation, ConversationId, ConversationStatus, Party, Phone, Status, UserId,
    conversation::Cursor,
};

/// The columns of a conversation, by the names that [`conversation`] reads.
macro_rules! conversation_columns {
    () => {
        "c.id, c.business_user_id, u.name AS business_name, c.phone, c.status, c.last_seq, \
         coalesce(c.last_message_at, c.created_at) AS last_at, c.unread_business, c.unread_mobile, \
         c.created_at"
    };
}

/// Where they come from.
macro_rules! conversation_from {
    () => {
        "conversations c JOIN business_users u ON u.id = c.business_user_id"
    };
}
pub(super) use {conversation_columns, conversation_from};

macro_rules! select_conversations {
    ($rest:literal) => {
        concat!("SELECT ", conversation_columns!(), " FROM ", conversation_from!(), " ", $rest)
    };
}

statements! {
    OPEN = "
        INSERT INTO conversations (id, business_user_id, phone, created_at, last_message_at)
        VALUES ($1, $2, $3, $4, $4) ON CONFLICT (business_user_id, phone) DO NOTHING";
    OF_PAIR = select_conversations!("WHERE c.business_user_id = $1 AND c.phone = $2");
    GET = select_conversations!("WHERE c.id = $1");
    COUNT_MESSAGES: once = "
        SELECT status, count(*) AS count FROM messages WHERE conversation_id = $1
        AND deleted_at IS NULL GROUP BY status ORDER BY status";
    SET_STATUS = "UPDATE conversations SET status = $2 WHERE id = $1 AND status <> $2";
    LOCK = concat!(
        "SELECT ",
        conversation_columns!(),
        ", c.last_message_id FROM ",
        conversation_from!(),
        " WHERE c.id = ANY ($1) ORDER BY c.id FOR UPDATE OF c"
    );
}

/// The conversations for which all conditions hold, those with the newest messages first. `$1` says how many;
/// then come the values of the conditions, and of the place to go on after.
fn listed(conditions: &[&str], goes_on: bool) -> String {
    let mut wanted = vec!["true".to_owned()];
    wanted.extend((2..).zip(conditions).map(|(n, condition)| format!("{condition} ${n}")));
    if goes_on {
        let n = conditions.len() + 2;
        wanted.push(format!("(c.last_message_at, c.id) < (${n}, ${})", n + 1));
    }
    format!(
        "SELECT {} FROM {} WHERE {} ORDER BY c.last_message_at DESC, c.id DESC LIMIT $1",
        conversation_columns!(),
        conversation_from!(),
        wanted.join(" AND ")
    )
}

const OF_BUSINESS: &str = "c.business_user_id =";
const OF_PHONE: &str = "c.phone =";
const IN_STATUS: &str = "c.status =";

fn of_party(conditions: &[&str], goes_on: bool) -> Statement {
    Statement::built(concat!(module_path!(), "::of_party"), listed(conditions, goes_on))
}

fn of_all(conditions: &[&str], goes_on: bool) -> Statement {
    Statement::built(concat!(module_path!(), "::of_all"), listed(conditions, goes_on)).once()
}

/// The forms of both lists.
pub(in crate::store) fn built() -> Vec<Statement> {
    let party: [&[&str]; 4] =
        [&[OF_BUSINESS], &[OF_PHONE], &[OF_BUSINESS, IN_STATUS], &[OF_PHONE, IN_STATUS]];
    let all: [&[&str]; 5] =
        [&[], &[OF_BUSINESS], &[OF_PHONE], &[IN_STATUS], &[OF_BUSINESS, OF_PHONE, IN_STATUS]];
    let mut forms = Vec::new();
    for goes_on in [false, true] {
        forms.extend(party.iter().map(|conditions| of_party(conditions, goes_on)));
        forms.extend(all.iter().map(|conditions| of_all(conditions, goes_on)));
    }
    forms
}

pub(super) fn conversation(row: &Row) -> Result<Conversation, Error> {
    Ok(Conversation {
        id: ConversationId(row.try_get("id")?),
        business: UserId(row.try_get("business_user_id")?),
        business_name: row.try_get::<_, &str>("business_name")?.into(),
        phone: Phone::from_stored(row.try_get("phone")?),
        status: ConversationStatus::from_number(row.try_get("status")?)
            .ok_or_else(|| Error::Corrupt("status of a conversation".to_owned()))?,
        last_seq: row.try_get("last_seq")?,
        last_at: row.try_get("last_at")?,
        unread_business: row.try_get("unread_business")?,
        unread_mobile: row.try_get("unread_mobile")?,
        created_at: row.try_get("created_at")?,
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
    let made = client.execute(&OPEN, &[&id.0, &business.0, &phone.as_str(), &now]).await?;
    let row = client.query_one(&OF_PAIR, &[&business.0, &phone.as_str()]).await?;
    Ok((conversation(&row)?, made == 1))
}

/// The conversation of a business user with a phone.
///
/// # Errors
/// Any failure of the database.
pub async fn of_pair(
    client: &Client,
    business: UserId,
    phone: &Phone,
) -> Result<Option<Conversation>, Error> {
    let row = client.query_opt(&OF_PAIR, &[&business.0, &phone.as_str()]).await?;
    row.as_ref().map(conversation).transpose()
}

/// One conversation.
///
/// # Errors
/// Any failure of the database.
pub async fn get(
    client: &impl Statements,
    id: ConversationId,
) -> Result<Option<Conversation>, Error> {
    client.query_opt(&GET, &[&id.0]).await?.as_ref().map(conversation).transpose()
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
    let (own_condition, own): (&str, &(dyn ToSql + Sync)) = match (&user, &phone) {
        (Some(id), _) => (OF_BUSINESS, id),
        (None, phone) => (OF_PHONE, phone),
    };
    let status = status.map(|status| status as i16);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut conditions = vec![own_condition];
    let mut values: Vec<&(dyn ToSql + Sync)> = vec![&limit, own];
    if let Some(status) = &status {
        conditions.push(IN_STATUS);
        values.push(status);
    }
    let after = after.map(|cursor| (cursor.last_at, cursor.id.0));
    if let Some((last_at, id)) = &after {
        values.extend([last_at as &(dyn ToSql + Sync), id]);
    }
    let statement = of_party(&conditions, after.is_some());
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
        (OF_BUSINESS, business.as_ref().map(|v| v as &(dyn ToSql + Sync))),
        (OF_PHONE, phone.as_ref().map(|v| v as &(dyn ToSql + Sync))),
        (IN_STATUS, status.as_ref().map(|v| v as &(dyn ToSql + Sync))),
    ];
    let mut values: Vec<&(dyn ToSql + Sync)> = vec![&limit];
    let mut conditions = Vec::new();
    for (condition, value) in wanted {
        if let Some(value) = value {
            conditions.push(condition);
            values.push(value);
        }
    }
    let after = filter.after.map(|cursor| (cursor.last_at, cursor.id.0));
    if let Some((last_at, id)) = &after {
        values.extend([last_at as &(dyn ToSql + Sync), id]);
    }
    let statement = of_all(&conditions, after.is_some());
    client.query(&statement, &values).await?.iter().map(conversation).collect()
}

/// How many messages of a conversation there are in each status that some are in.
///
/// # Errors
/// Any failure of the database.
pub async fn count_messages(
    client: &Client,
    id: ConversationId,
) -> Result<Vec<(Status, i64)>, Error> {
    let found = client.query(&COUNT_MESSAGES, &[&id.0]).await?;
    let corrupt = || Error::Corrupt("status of a message".to_owned());
    let count = |row: &Row| {
        let status = Status::from_number(row.try_get("status")?).ok_or_else(corrupt)?;
        Ok((status, row.try_get("count")?))
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
    Ok(client.execute(&SET_STATUS, &[&id.0, &(status as i16)]).await? == 1)
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
    let found = client.query(&LOCK, &[&ids]).await?;
    found.iter().map(|row| Ok((conversation(row)?, row.try_get("last_message_id")?))).collect()
}
