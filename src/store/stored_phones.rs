//! All stored phone numbers, for checking them against the current parsing rules.

use super::{Client, Error, Statements, statement::statements};
use crate::domain::Phone;

statements! {
    // A number may have many messages: the index is walked from one number to the next.
    PAGE = "
        WITH RECURSIVE walk (phone) AS (
            (SELECT recipient_phone FROM messages WHERE recipient_phone > $1
             ORDER BY recipient_phone LIMIT 1)
            UNION ALL
            SELECT (SELECT m.recipient_phone FROM messages m WHERE m.recipient_phone > walk.phone
                    ORDER BY m.recipient_phone LIMIT 1)
            FROM walk WHERE walk.phone IS NOT NULL
        ), recipients_of_messages AS (
            SELECT phone FROM walk WHERE phone IS NOT NULL LIMIT $2
        )
        SELECT phone FROM (
            SELECT phone FROM recipients_of_messages
            UNION (SELECT phone FROM mobile_users WHERE phone > $1 ORDER BY phone LIMIT $2)
            UNION (SELECT phone FROM business_users WHERE phone > $1 ORDER BY phone LIMIT $2)
            UNION (SELECT phone FROM conversations WHERE phone > $1 ORDER BY phone LIMIT $2)
            UNION (SELECT phone FROM tokens WHERE phone > $1 ORDER BY phone LIMIT $2)
        ) stored ORDER BY phone LIMIT $2";
    USES = "
        SELECT (SELECT count(*) FROM messages m WHERE m.recipient_phone = n.phone) AS messages,
               EXISTS (SELECT FROM mobile_users u WHERE u.phone = n.phone) AS is_mobile_user
        FROM unnest($1::text[]) WITH ORDINALITY n (phone, place) ORDER BY n.place";
}

/// Distinct stored numbers after a given one.
pub async fn stored(client: &Client, after: &str, limit: usize) -> Result<Vec<Phone>, Error> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = client.query(&PAGE, &[&after, &limit]).await?;
    rows.iter().map(|row| Ok(Phone::from_stored(row.try_get("phone")?))).collect()
}

/// What a number is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhoneUsage {
    pub messages: i64,
    pub is_mobile_user: bool,
}

/// The usage of these numbers, in their order.
pub async fn usage(client: &Client, phones: &[&Phone]) -> Result<Vec<PhoneUsage>, Error> {
    let phones: Vec<&str> = phones.iter().map(|phone| phone.as_str()).collect();
    let rows = client.query(&USES, &[&phones]).await?;
    let read = |row: &tokio_postgres::Row| {
        Ok(PhoneUsage {
            messages: row.try_get("messages")?,
            is_mobile_user: row.try_get("is_mobile_user")?,
        })
    };
    rows.iter().map(read).collect()
}
