//! Chat messages that an earlier attempt, or an earlier request, stored already.

use std::collections::HashMap;

use time::OffsetDateTime;
use uuid::Uuid;

use super::NewChat;
use crate::{
    domain::{Conversation, Message, MessageId, Party},
    store::{
        Error, Statements,
        rows::{self, message_columns, message_from},
        statement::statements,
    },
};

/// Selects stored messages by what `$join` names, with the key that they were found by.
macro_rules! known {
    ($name:literal, $join:literal) => {
        concat!(
            "SELECT ",
            message_columns!(),
            ", ",
            $name,
            " AS client_message_id, m.deleted_at IS NOT NULL AS is_deleted FROM ",
            message_from!(),
            " JOIN ",
            $join
        )
    };
}

statements! {
    KNOWN = concat!(
        known!(
            "m.client_message_id",
            "unnest($1::uuid[], $2::text[]) AS a(user_id, name) \
             ON m.sender_user_id = a.user_id AND m.client_message_id = a.name"
        ),
        " UNION ALL ",
        known!(
            "m.client_message_id",
            "unnest($3::text[], $4::text[]) AS a(phone, name) \
             ON m.sender_phone = a.phone AND m.client_message_id = a.name"
        ),
        " UNION ALL ",
        // After a rollback, another process may have used the id for a message of its own.
        known!(
            "NULL",
            "unnest($5::uuid[], $6::timestamptz[], $7::uuid[], $8::text[]) AS a(id, at, user_id, phone) \
             ON m.id = a.id AND m.created_at = a.at AND m.client_message_id IS NULL \
             AND m.sender_user_id IS NOT DISTINCT FROM a.user_id \
             AND m.sender_phone IS NOT DISTINCT FROM a.phone"
        )
    );
}

/// The key of a message that may be stored already.
#[derive(PartialEq, Eq, Hash)]
pub(super) enum KnownBy {
    Name(Party, String),
    Id(MessageId),
}

/// A message that is stored already.
pub(super) enum StoredBefore {
    There(Box<Message>),
    Deleted,
}

pub(super) async fn known(
    client: &impl Statements,
    batch: &[NewChat],
    locked: &HashMap<Uuid, (Conversation, Option<Uuid>, bool)>,
    earlier: &[Option<MessageId>],
) -> Result<HashMap<KnownBy, StoredBefore>, Error> {
    let (mut users, mut phones) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for new in batch {
        let (Some((conversation, ..)), Some(name)) =
            (locked.get(&new.conversation.0), &new.client_message_id)
        else {
            continue;
        };
        match conversation.party(new.side) {
            Party::Business(id) => {
                users.0.push(id.0);
                users.1.push(name.as_str());
            }
            Party::Mobile(phone) => {
                phones.0.push(phone.as_str().to_owned());
                phones.1.push(name.as_str());
            }
        }
    }
    let unnamed: Vec<(Uuid, OffsetDateTime, Party)> = batch
        .iter()
        .zip(earlier)
        .filter(|(new, _)| new.client_message_id.is_none())
        .filter_map(|(new, id)| {
            let (conversation, ..) = locked.get(&new.conversation.0)?;
            Some(((*id)?.0, new.created_at, conversation.party(new.side)))
        })
        .collect();
    let ids: Vec<Uuid> = unnamed.iter().map(|(id, ..)| *id).collect();
    let times: Vec<OffsetDateTime> = unnamed.iter().map(|(_, at, _)| *at).collect();
    let (by_users, by_phones): (Vec<_>, Vec<_>) =
        unnamed.iter().map(|(_, _, sender)| rows::columns(sender)).unzip();
    let mut found = HashMap::new();
    if users.0.is_empty() && phones.0.is_empty() && ids.is_empty() {
        return Ok(found);
    }
    let values = [
        &users.0 as _,
        &users.1 as _,
        &phones.0 as _,
        &phones.1 as _,
        &ids as _,
        &times as _,
        &by_users as _,
        &by_phones as _,
    ];
    let rows = client.query(&KNOWN, &values).await?;
    for (row, message) in rows.iter().zip(rows::messages(&rows)?) {
        let name: Option<String> = row.try_get("client_message_id")?;
        let key = match name {
            Some(name) => KnownBy::Name(message.sender.clone(), name),
            None => KnownBy::Id(message.id),
        };
        let is_deleted: bool = row.try_get("is_deleted")?;
        found.insert(
            key,
            if is_deleted { StoredBefore::Deleted } else { StoredBefore::There(Box::new(message)) },
        );
    }
    Ok(found)
}
