//! Conversations: opened, listed, archived. Their messages are in [`super::chat`].

use time::OffsetDateTime;
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use super::{
    Client, Error, Statement, Statements,
    list_page::{ListPage, ScanPosition, max_scanned_rows},
    rows,
    statement::statements,
};
use crate::domain::{
    Conversation, ConversationId, ConversationStatus, Party, Phone, Status, UserId,
    conversation::ConversationKeyset,
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

/// The list of conversations to read. `$1` is the limit; the values of the conditions, of the keyset and of
/// the status follow.
#[derive(Clone, Copy)]
struct ListQuery<'a> {
    /// Conditions on the owner, which have an index.
    of: &'a [&'a str],
    goes_on: bool,
    in_status: bool,
}

const NEWEST_FIRST: &str = "ORDER BY c.last_message_at DESC, c.id DESC";

impl ListQuery<'_> {
    /// The conditions of the scan, whose values begin at `$n`, and the next number.
    fn found_by(&self, n: usize) -> (String, usize) {
        let mut wanted = vec!["true".to_owned()];
        let mut next = n;
        for condition in self.of {
            wanted.push(format!("{condition} ${next}"));
            next += 1;
        }
        if self.goes_on {
            wanted.push(format!("(c.last_message_at, c.id) < (${next}, ${})", next + 1));
            next += 2;
        }
        (wanted.join(" AND "), next)
    }

    fn listed(&self) -> String {
        let (found_by, next) = self.found_by(2);
        let status = if self.in_status { format!("c.status = ${next}") } else { "true".to_owned() };
        if self.of.is_empty() {
            // All users' conversations have no index in this order, so that all are read.
            return format!(
                "SELECT {} FROM {} WHERE {found_by} AND {status} {NEWEST_FIRST} LIMIT $1",
                conversation_columns!(),
                conversation_from!()
            );
        }
        format!(
            "SELECT {} FROM (SELECT * FROM conversations c WHERE {found_by} {NEWEST_FIRST} \
             LIMIT {}) AS c JOIN business_users u ON u.id = c.business_user_id \
             WHERE {status} {NEWEST_FIRST} LIMIT $1",
            conversation_columns!(),
            max_scanned_rows!()
        )
    }

    fn last_looked_at(&self) -> String {
        let (found_by, _) = self.found_by(1);
        format!(
            "SELECT c.id, coalesce(c.last_message_at, c.created_at) AS last_at FROM conversations c \
             WHERE {found_by} {NEWEST_FIRST} LIMIT 1 OFFSET {}::bigint - 1",
            max_scanned_rows!()
        )
    }

    fn of_party(&self) -> Statement {
        Statement::built(concat!(module_path!(), "::of_party"), self.listed())
    }

    fn of_all(&self) -> Statement {
        Statement::built(concat!(module_path!(), "::of_all"), self.listed()).once()
    }

    fn cut(&self) -> Statement {
        Statement::built(concat!(module_path!(), "::cut"), self.last_looked_at())
    }
}

const OF_BUSINESS: &str = "c.business_user_id =";
const OF_PHONE: &str = "c.phone =";

/// The forms of both lists.
pub(in crate::store) fn built() -> Vec<Statement> {
    let all: [&[&str]; 4] = [&[], &[OF_BUSINESS], &[OF_PHONE], &[OF_BUSINESS, OF_PHONE]];
    let mut forms = Vec::new();
    for of in all {
        for (goes_on, in_status) in [(false, false), (false, true), (true, false), (true, true)] {
            let form = ListQuery { of, goes_on, in_status };
            forms.extend([form.of_party(), form.of_all(), form.cut()]);
        }
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

/// The conversation of a pair, created with `id` if there is none; and whether it was created.
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
pub async fn of_pair(
    client: &Client,
    business: UserId,
    phone: &Phone,
) -> Result<Option<Conversation>, Error> {
    let row = client.query_opt(&OF_PAIR, &[&business.0, &phone.as_str()]).await?;
    row.as_ref().map(conversation).transpose()
}

pub async fn get(
    client: &impl Statements,
    id: ConversationId,
) -> Result<Option<Conversation>, Error> {
    client.query_opt(&GET, &[&id.0]).await?.as_ref().map(conversation).transpose()
}

/// The conversations of a party, most recent message first.
pub async fn list(
    client: &Client,
    party: &Party,
    status: Option<ConversationStatus>,
    after: Option<ConversationKeyset>,
    limit: usize,
) -> Result<ListPage<Conversation>, Error> {
    let (user, phone) = rows::columns(party);
    let filter = ConversationFilter {
        business: user.map(UserId),
        phone: phone.map(Phone::from_stored),
        status,
        after,
    };
    listed(client, &filter, limit, |form| form.of_party()).await
}

/// The conversation at which the scan for a party's first page ended, if it did not reach the end.
pub(super) async fn first_cut(
    client: &Client,
    party: &Party,
) -> Result<Option<ScanPosition>, Error> {
    let (condition, id): (_, Parameter) = match party {
        Party::Business(id) => (OF_BUSINESS, Box::new(id.0)),
        Party::Mobile(phone) => (OF_PHONE, Box::new(phone.as_str().to_owned())),
    };
    let form = ListQuery { of: &[condition], goes_on: false, in_status: true };
    cut(client, form, &[&*id]).await
}

async fn cut(
    client: &Client,
    form: ListQuery<'_>,
    found_by: &[&(dyn ToSql + Sync)],
) -> Result<Option<ScanPosition>, Error> {
    let row = client.query_opt(&form.cut(), found_by).await?;
    row.map(|row| Ok(ScanPosition { at: Some(row.try_get("last_at")?), id: row.try_get("id")? }))
        .transpose()
}

/// The rows up to the scan position.
pub(super) fn up_to(found: Vec<Conversation>, cut: Option<ScanPosition>) -> ListPage<Conversation> {
    ListPage::new(found, cut, |found, cut| (Some(found.last_at), found.id.0) < (cut.at, cut.id))
}

type Parameter = Box<dyn ToSql + Sync + Send>;

async fn listed(
    client: &Client,
    filter: &ConversationFilter,
    limit: usize,
    statement: fn(&ListQuery<'_>) -> Statement,
) -> Result<ListPage<Conversation>, Error> {
    let mut of = Vec::new();
    let mut values: Vec<Parameter> = Vec::new();
    if let Some(business) = filter.business {
        of.push(OF_BUSINESS);
        values.push(Box::new(business.0));
    }
    if let Some(phone) = &filter.phone {
        of.push(OF_PHONE);
        values.push(Box::new(phone.as_str().to_owned()));
    }
    if let Some(ConversationKeyset { last_at, id }) = filter.after {
        values.push(Box::new(last_at));
        values.push(Box::new(id.0));
    }
    let form =
        ListQuery { of: &of, goes_on: filter.after.is_some(), in_status: filter.status.is_some() };
    let found_by: Vec<&(dyn ToSql + Sync)> =
        values.iter().map(|value| &**value as &(dyn ToSql + Sync)).collect();
    let wanted = i64::try_from(limit).unwrap_or(i64::MAX);
    let status = filter.status.map(|status| status as i16);
    let mut all: Vec<&(dyn ToSql + Sync)> = vec![&wanted];
    all.extend(&found_by);
    all.extend(status.as_ref().map(|status| status as &(dyn ToSql + Sync)));
    let found = client.query(&statement(&form), &all).await?;
    let found = found.iter().map(conversation).collect::<Result<Vec<_>, _>>()?;
    // Without a status filter, every scanned row is shown.
    let may_be_cut = found.len() < limit && form.in_status && !of.is_empty();
    let cut = if may_be_cut { cut(client, form, &found_by).await? } else { None };
    Ok(up_to(found, cut))
}

/// A filter for the administrators' list.
#[derive(Clone, Debug, Default)]
pub struct ConversationFilter {
    /// Only of this business user.
    pub business: Option<UserId>,
    /// Only with this phone.
    pub phone: Option<Phone>,
    /// Only in this status.
    pub status: Option<ConversationStatus>,
    /// Only those after this one.
    pub after: Option<ConversationKeyset>,
}

/// All users' conversations by filter, most recent message first.
pub async fn list_all(
    client: &Client,
    filter: &ConversationFilter,
    limit: usize,
) -> Result<ListPage<Conversation>, Error> {
    listed(client, filter, limit, |form| form.of_all()).await
}

/// Message counts of a conversation by status; empty ones are omitted.
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

/// Sets the status of a conversation. Returns whether it changed.
pub async fn set_status(
    client: &impl Statements,
    id: ConversationId,
    status: ConversationStatus,
) -> Result<bool, Error> {
    Ok(client.execute(&SET_STATUS, &[&id.0, &(status as i16)]).await? == 1)
}

/// Conversations by id, locked until the end of the transaction, in the order of their ids so that
/// two transactions cannot wait for each other.
pub(super) async fn lock(
    client: &impl Statements,
    ids: &[Uuid],
) -> Result<Vec<(Conversation, Option<Uuid>)>, Error> {
    let found = client.query(&LOCK, &[&ids]).await?;
    found.iter().map(|row| Ok((conversation(row)?, row.try_get("last_message_id")?))).collect()
}
