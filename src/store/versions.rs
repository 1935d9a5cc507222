//! Cached chat pages and the versions that validate them, read together in one snapshot.
//!
//! A version is unique for each state of its rows. Triggers raise it in the transactions that change them
//! (`migrations/0008_chat_versions.sql`); it is read from the primary.

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{
    Client, Error, Statement, Statements,
    conversations::{self, conversation_columns, conversation_from},
    list_page::{ListPage, max_scanned_rows},
    rows::{self, first_of_page, message_columns, message_from},
    statement::statements,
};
use crate::domain::{Conversation, ConversationId, ConversationStatus, Message, Party};

/// The version of a conversation `c`: of its row, and of the status of its messages.
macro_rules! version_of_conversation {
    () => {
        "c.version || '.' || coalesce((SELECT r.version \
         FROM conversation_receipts r WHERE r.conversation_id = c.id), 0)"
    };
}

/// The version of the list of the business user `$1`.
macro_rules! version_of_business {
    () => {
        "(SELECT coalesce(sum(l.version), 0)::text \
         FROM conversation_lists l WHERE l.business_user_id = $1)"
    };
}

/// The version of the list of the phone `$1`; null if it has too many conversations to add up.
macro_rules! version_of_phone {
    () => {
        "(SELECT CASE WHEN count(*) <= 200 THEN \
         count(*) || '.' || coalesce(sum(few.version), 0) END \
         FROM (SELECT o.version FROM conversations o WHERE o.phone = $1 LIMIT 201) few)"
    };
}

macro_rules! list {
    ($version:expr, of: $column:literal, $only:literal) => {
        concat!(
            "SELECT ",
            conversation_columns!(),
            ", ",
            $version,
            " AS version FROM (SELECT * FROM conversations WHERE ",
            $column,
            " = $1 ORDER BY last_message_at DESC, id DESC LIMIT ",
            max_scanned_rows!(),
            ") AS c JOIN business_users u ON u.id = c.business_user_id WHERE ",
            $only,
            " ORDER BY c.last_message_at DESC, c.id DESC LIMIT $2"
        )
    };
}

macro_rules! unread {
    ($version:expr, of: $column:literal, $unread:literal) => {
        concat!(
            "SELECT count(*) AS count, ",
            $version,
            " AS version FROM (SELECT ",
            $unread,
            " AS unread FROM conversations WHERE ",
            $column,
            " = $1 ORDER BY last_message_at DESC LIMIT ",
            max_scanned_rows!(),
            ") AS latest WHERE unread > 0"
        )
    };
}

statements! {
    CONVERSATION = concat!(
        "SELECT ",
        conversation_columns!(),
        ", ",
        version_of_conversation!(),
        " AS version FROM ",
        conversation_from!(),
        " WHERE c.id = $1"
    );
    LATEST = first_of_page!(
        concat!(
            "SELECT ",
            message_columns!(),
            ", (SELECT ",
            version_of_conversation!(),
            " FROM conversations c WHERE c.id = $1) AS version FROM ",
            message_from!(),
            " WHERE m.conversation_id = $1 AND m.deleted_at IS NULL ORDER BY m.seq DESC LIMIT $2"
        ),
        by: "seq DESC"
    );
    LIST_VERSION_OF_BUSINESS = concat!("SELECT ", version_of_business!(), " AS version");
    LIST_VERSION_OF_PHONE = concat!("SELECT ", version_of_phone!(), " AS version");
    LIST_OF_BUSINESS = list!(version_of_business!(), of: "business_user_id", "true");
    LIST_OF_PHONE = list!(version_of_phone!(), of: "phone", "true");
    LIST_IN_STATUS_OF_BUSINESS =
        list!(version_of_business!(), of: "business_user_id", "c.status = $3");
    LIST_IN_STATUS_OF_PHONE = list!(version_of_phone!(), of: "phone", "c.status = $3");
    UNREAD_OF_BUSINESS = unread!(version_of_business!(), of: "business_user_id", "unread_business");
    UNREAD_OF_PHONE = unread!(version_of_phone!(), of: "phone", "unread_mobile");
}

/// A conversation, and the version of it and its messages.
pub async fn conversation(
    client: &Client,
    id: ConversationId,
) -> Result<Option<(Conversation, String)>, Error> {
    let row = client.query_opt(&CONVERSATION, &[&id.0]).await?;
    row.map(|row| Ok((conversations::conversation(&row)?, row.try_get("version")?))).transpose()
}

/// The newest messages of a conversation, newest first, with their version; none without any.
pub async fn latest(
    client: &Client,
    id: ConversationId,
    limit: usize,
) -> Result<(Vec<Message>, Option<String>), Error> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let found = client.query(&LATEST, &[&id.0, &limit]).await?;
    let version = found.first().map(|row| row.try_get("version")).transpose()?.flatten();
    Ok((rows::messages(&found)?, version))
}

/// The statements about a party's list, and the value of `$1`.
struct LatestQuery {
    version: &'static Statement,
    list: &'static Statement,
    list_in_status: &'static Statement,
    unread: &'static Statement,
    user: Option<Uuid>,
    phone: Option<String>,
}

impl LatestQuery {
    fn new(party: &Party) -> LatestQuery {
        let (user, phone) = rows::columns(party);
        let phone = phone.map(str::to_owned);
        match party {
            Party::Business(_) => LatestQuery {
                version: &LIST_VERSION_OF_BUSINESS,
                list: &LIST_OF_BUSINESS,
                list_in_status: &LIST_IN_STATUS_OF_BUSINESS,
                unread: &UNREAD_OF_BUSINESS,
                user,
                phone,
            },
            Party::Mobile(_) => LatestQuery {
                version: &LIST_VERSION_OF_PHONE,
                list: &LIST_OF_PHONE,
                list_in_status: &LIST_IN_STATUS_OF_PHONE,
                unread: &UNREAD_OF_PHONE,
                user,
                phone,
            },
        }
    }

    fn value(&self) -> &(dyn ToSql + Sync) {
        match &self.user {
            Some(user) => user,
            None => &self.phone,
        }
    }
}

/// The version of a party's list of conversations and its counts; `None` if it is not worth caching.
pub async fn list_version(client: &Client, party: &Party) -> Result<Option<String>, Error> {
    let of = LatestQuery::new(party);
    Ok(client.query_one(of.version, &[of.value()]).await?.try_get("version")?)
}

/// The first page of a party's conversations, most recent message first, with its version.
pub async fn list(
    client: &Client,
    party: &Party,
    status: Option<ConversationStatus>,
    limit: usize,
) -> Result<(ListPage<Conversation>, Option<String>), Error> {
    let of = LatestQuery::new(party);
    let status = status.map(|status| status as i16);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut values: Vec<&(dyn ToSql + Sync)> = vec![of.value(), &limit];
    let statement = match &status {
        Some(status) => {
            values.push(status);
            of.list_in_status
        }
        None => of.list,
    };
    let found = client.query(statement, &values).await?;
    let version = found.first().map(|row| row.try_get("version")).transpose()?.flatten();
    let found: Vec<Conversation> =
        found.iter().map(conversations::conversation).collect::<Result<_, _>>()?;
    let may_be_cut = status.is_some() && i64::try_from(found.len()).is_ok_and(|n| n < limit);
    let cut = if may_be_cut { conversations::first_cut(client, party).await? } else { None };
    Ok((conversations::up_to(found, cut), version))
}

/// Number of a party's conversations with unread messages, with its version; of those with the most recent
/// messages, if it has very many.
pub async fn unread(client: &Client, party: &Party) -> Result<(i64, Option<String>), Error> {
    let of = LatestQuery::new(party);
    let row = client.query_one(of.unread, &[of.value()]).await?;
    Ok((row.try_get("count")?, row.try_get("version")?))
}
