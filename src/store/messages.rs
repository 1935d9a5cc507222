//! Messages: stored in batches, read for delivery and by their parties.

use std::collections::HashMap;

use time::OffsetDateTime;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

pub(super) mod listed;

pub use listed::{MessageFilter, count_of_sender, list};

use super::{
    Client, Error, Statement, Statements, list_page,
    rows::{self, first_of_page, message_columns, select_messages},
    statement::statements,
};
use crate::domain::{Message, MessageId, Party, feed::AcknowledgedElsewhere};

/// A message to be stored.
#[derive(Clone, Copy)]
pub struct NewMessage<'a> {
    pub message: &'a Message,
    /// Its partition.
    pub partition: i16,
    /// When the sweeper picks the message up if nobody delivers it before; `None` parks it.
    pub next_attempt_at: Option<OffsetDateTime>,
}

/// Messages pending for a recipient. A message that waits for its retry was written to another connection;
/// this one has not been sent it yet.
macro_rules! what_waits {
    ($never_sent:literal) => {
        concat!(
            "m.status < 2 AND m.deleted_at IS NULL AND m.id <> ALL ($2) AND ($3 OR m.retry_count = 0 \
             OR m.next_attempt_at IS NULL OR m.next_attempt_at <= $4 OR ",
            $never_sent,
            ") AND m.id > $6"
        )
    };
}

macro_rules! pending {
    (of: $column:literal) => {
        select_messages!(
            "WHERE m.",
            $column,
            " = $1 AND ",
            what_waits!("false"),
            " ORDER BY m.id LIMIT $5"
        )
    };
}

// Each branch by its own index, and all in one snapshot: a message is in exactly one. Acknowledged ones come
// by the index on all messages of a recipient: `status + 0` keeps the planner from the partial indexes.
macro_rules! pending_and_acknowledged {
    (of: $column:literal) => {
        concat!(
            "SELECT ",
            message_columns!(),
            " FROM (
                 (SELECT * FROM messages m WHERE m.",
            $column,
            " = $1 AND ",
            what_waits!("m.id >= $7 AND m.id <> ALL ($9)"),
            " ORDER BY m.id LIMIT $5)
                 UNION ALL
                 (SELECT * FROM messages m WHERE m.",
            $column,
            " = $1 AND m.status + 0 IN (2, 3) AND m.deleted_at IS NULL
                  AND m.id >= $7 AND m.id > $6 AND m.delivered_at >= $8 AND m.id <> ALL ($9)
                  ORDER BY m.id LIMIT $5)
             ) AS m LEFT JOIN business_users u ON u.id = m.sender_user_id ORDER BY m.id LIMIT $5"
        )
    };
}

macro_rules! pending_after {
    (of: $column:literal) => {
        first_of_page!(
            select_messages!(
                "WHERE m.",
                $column,
                " = $1 AND m.status < 2 AND m.deleted_at IS NULL AND m.id > $2 ORDER BY m.id LIMIT $3"
            ),
            by: "id"
        )
    };
}

macro_rules! latest_acknowledged {
    (of: $column:literal) => {
        concat!(
            "SELECT m.id FROM messages m WHERE m.",
            $column,
            " = $1 AND m.id >= $2 AND m.status + 0 IN (2, 3) ORDER BY m.id DESC LIMIT $3"
        )
    };
}

/// Inserts one-way messages; the arguments add columns, their values and their parameters.
macro_rules! insert_one_way {
    ($columns:literal, $values:literal, $parameters:literal) => {
        concat!(
            "INSERT INTO messages (id, sender_user_id, recipient_phone, subject, content, content_type,
                                   priority, partition, next_attempt_at, created_at",
            $columns,
            ") SELECT a.id, a.sender, a.phone, a.subject, a.content, a.content_type, a.priority, a.partition,
                      a.next_attempt_at, a.created_at",
            $values,
            " FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::int2[],
                          $7::int2[], $8::int2[], $9::timestamptz[], $10::timestamptz[]",
            $parameters,
            ") AS a(id, sender, phone, subject, content, content_type, priority, partition,
                    next_attempt_at, created_at",
            $columns,
            // After a connection broke during commit the same batch is sent again, and rows already
            // committed stay as they are.
            ") ON CONFLICT (id) DO NOTHING"
        )
    };
}

statements! {
    INSERT_ONE_WAY = insert_one_way!("", "", "");
    // Most batches have no flags, and are spared the column.
    INSERT_FLAGGED_ONE_WAY = insert_one_way!(
        ", flags", ", string_to_array(a.flags, chr(10))", ", $11::text[]"
    );
    GET = select_messages!("WHERE m.id = $1 AND m.deleted_at IS NULL");
    GET_ANY = select_messages!("WHERE m.id = $1");
    PENDING_OF_PHONE = pending!(of: "recipient_phone");
    PENDING_OF_USER = pending!(of: "recipient_user_id");
    PENDING_AND_ACKNOWLEDGED_OF_PHONE = pending_and_acknowledged!(of: "recipient_phone");
    PENDING_AND_ACKNOWLEDGED_OF_USER = pending_and_acknowledged!(of: "recipient_user_id");
    PENDING_AFTER_OF_PHONE = pending_after!(of: "recipient_phone");
    PENDING_AFTER_OF_USER = pending_after!(of: "recipient_user_id");
    LATEST_ACKNOWLEDGED_OF_PHONE = latest_acknowledged!(of: "recipient_phone");
    LATEST_ACKNOWLEDGED_OF_USER = latest_acknowledged!(of: "recipient_user_id");
    ACKNOWLEDGED_OF = "
        SELECT id, recipient_phone, recipient_user_id FROM messages
        WHERE id = ANY ($1) AND status + 0 IN (2, 3)";
    NEW_OF = select_messages!(
        "WHERE m.id = ANY ($1) AND m.status + 0 < 2 AND m.retry_count = 0 AND m.deleted_at IS NULL"
    );
    // Rows are locked in index order with SKIP LOCKED, so that any number of sweepers can run.
    SWEEP = "
        WITH due AS (
            SELECT id FROM messages WHERE next_attempt_at <= $1
            ORDER BY next_attempt_at LIMIT $2 FOR UPDATE SKIP LOCKED)
        UPDATE messages m SET next_attempt_at = NULL FROM due WHERE m.id = due.id
        RETURNING m.id, m.recipient_phone, m.recipient_user_id";
    UNDELIVERED_SINCE = "
        SELECT DISTINCT recipient_phone, recipient_user_id FROM (
            SELECT recipient_phone, recipient_user_id FROM messages
            WHERE next_attempt_at IS NOT NULL AND next_attempt_at > $1 AND status + 0 < 2
              AND retry_count = 0 AND created_at > $1
            ORDER BY next_attempt_at DESC LIMIT $2) AS new";
    BEHIND = "
        SELECT first.id, p.phone AS recipient_phone, NULL::uuid AS recipient_user_id
        FROM unnest($1::text[]) AS p(phone)
        CROSS JOIN LATERAL (SELECT m.id FROM messages m
                            WHERE m.recipient_phone = p.phone AND m.status < 2 AND m.deleted_at IS NULL
                              AND ($4 OR m.next_attempt_at IS NULL) AND m.created_at < $3
                            ORDER BY m.id LIMIT 1) AS first
        UNION ALL
        SELECT first.id, NULL, u.id FROM unnest($2::uuid[]) AS u(id)
        CROSS JOIN LATERAL (SELECT m.id FROM messages m
                            WHERE m.recipient_user_id = u.id AND m.status < 2 AND m.deleted_at IS NULL
                              AND ($4 OR m.next_attempt_at IS NULL) AND m.created_at < $3
                            ORDER BY m.id LIMIT 1) AS first";
    COUNT_IN_FLIGHT = "
        SELECT count(*) AS count
        FROM (SELECT FROM messages WHERE next_attempt_at IS NOT NULL LIMIT $1) AS in_hand";
    COUNT_UNDELIVERED = "
        SELECT count(*) AS count
        FROM (SELECT FROM messages WHERE status < 2 AND deleted_at IS NULL LIMIT $1) AS waiting";
}

/// Stores one-way messages in one statement.
///
/// # Errors
/// Any failure of the database; nothing is stored then, except possibly after [`Error::Unavailable`]: storing
/// them again is harmless.
pub async fn insert_one_way(
    client: &impl Statements,
    batch: &[NewMessage<'_>],
) -> Result<(), Error> {
    let mut senders = Vec::with_capacity(batch.len());
    let mut phones = Vec::with_capacity(batch.len());
    for new in batch {
        let (Some(sender), _) = rows::columns(&new.message.sender) else {
            return Err(Error::Other("a one-way message without a business user".to_owned()));
        };
        let (None, Some(phone)) = rows::columns(&new.message.recipient) else {
            return Err(Error::Other("a one-way message without a phone".to_owned()));
        };
        senders.push(sender);
        phones.push(phone);
    }
    fn column<'a, T>(batch: &[NewMessage<'a>], value: impl Fn(&NewMessage<'a>) -> T) -> Vec<T> {
        batch.iter().map(value).collect()
    }
    let (ids, subjects) = (
        column(batch, |new| new.message.id.0),
        column(batch, |new| new.message.subject.as_deref()),
    );
    let contents = column(batch, |new| new.message.content.as_str());
    let types = column(batch, |new| new.message.content_type as i16);
    let priorities = column(batch, |new| new.message.priority as i16);
    let partitions = column(batch, |new| new.partition);
    let due = column(batch, |new| new.next_attempt_at);
    let created = column(batch, |new| new.message.created_at);
    let mut values: Vec<&(dyn ToSql + Sync)> = vec![
        &ids,
        &senders,
        &phones,
        &subjects,
        &contents,
        &types,
        &priorities,
        &partitions,
        &due,
        &created,
    ];
    let flags = rows::flags(batch.iter().map(|new| new.message));
    let statement = match &flags {
        None => &INSERT_ONE_WAY,
        Some(flags) => {
            values.push(flags);
            &INSERT_FLAGGED_ONE_WAY
        }
    };
    client.execute(statement, &values).await?;
    Ok(())
}

/// A message, for its sender and its recipient.
pub async fn get(client: &Client, id: MessageId) -> Result<Option<Message>, Error> {
    one(client, &GET, id).await
}

/// A message, even if it is deleted; for administrators.
pub async fn get_any(client: &Client, id: MessageId) -> Result<Option<Message>, Error> {
    one(client, &GET_ANY, id).await
}

async fn one(
    client: &Client,
    statement: &Statement,
    id: MessageId,
) -> Result<Option<Message>, Error> {
    client.query_opt(statement, &[&id.0]).await?.as_ref().map(rows::message).transpose()
}

/// The statement for this kind of recipient, and its first value.
fn of_recipient(
    party: &Party,
    phone: &'static Statement,
    user: &'static Statement,
) -> (&'static Statement, Box<dyn ToSql + Sync + Send>) {
    match party {
        Party::Mobile(number) => (phone, Box::new(number.as_str().to_owned())),
        Party::Business(id) => (user, Box::new(id.0)),
    }
}

/// Which messages acknowledged on other connections to read as well.
#[derive(Clone, Copy, Debug)]
pub struct AcknowledgedFilter<'a> {
    /// The range of ids, and the ids to leave out.
    pub elsewhere: &'a AcknowledgedElsewhere,
    /// Acknowledged at this time or later.
    pub since: OffsetDateTime,
}

/// Messages pending for a recipient, oldest first.
///
/// `exclude` is left out: the connection has these already. Without `waiting_for_retry`, messages that wait
/// for their retry are left out, too. A message whose row cannot be decoded is reported by id and replaced by
/// another: fewer than `limit` means that there are no more.
pub async fn pending(
    client: &Client,
    party: &Party,
    exclude: &[MessageId],
    waiting_for_retry: bool,
    acknowledged: Option<AcknowledgedFilter<'_>>,
    now: OffsetDateTime,
    limit: usize,
) -> Result<(Vec<Message>, Vec<MessageId>), Error> {
    let (statement, recipient) = match acknowledged {
        None => of_recipient(party, &PENDING_OF_PHONE, &PENDING_OF_USER),
        Some(_) => of_recipient(
            party,
            &PENDING_AND_ACKNOWLEDGED_OF_PHONE,
            &PENDING_AND_ACKNOWLEDGED_OF_USER,
        ),
    };
    let exclude: Vec<Uuid> = exclude.iter().map(|id| id.0).collect();
    let sent: Vec<Uuid> =
        acknowledged.iter().flat_map(|also| &also.elsewhere.sent).map(|id| id.0).collect();
    let mut page = PageReader::new(limit);
    let mut last = Uuid::nil();
    while let Some(left) = page.left() {
        let mut values: Vec<&(dyn ToSql + Sync)> =
            vec![&*recipient, &exclude, &waiting_for_retry, &now, &left, &last];
        if let Some(AcknowledgedFilter { elsewhere, since }) = &acknowledged {
            values.extend::<[&(dyn ToSql + Sync); 3]>([&elsewhere.from.0, since, &sent]);
        }
        last = page.add(&client.query(statement, &values).await?)?.unwrap_or(last);
    }
    Ok((page.found, page.unreadable))
}

/// Ids of the latest `limit` acknowledged messages of a recipient, from an id on.
pub async fn latest_acknowledged(
    client: &Client,
    party: &Party,
    from: MessageId,
    limit: usize,
) -> Result<Vec<MessageId>, Error> {
    let (statement, recipient) =
        of_recipient(party, &LATEST_ACKNOWLEDGED_OF_PHONE, &LATEST_ACKNOWLEDGED_OF_USER);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let found = client.query(statement, &[&*recipient, &from.0, &limit]).await?;
    found.iter().map(|row| Ok(MessageId(row.try_get("id")?))).collect()
}

/// Which of these messages are acknowledged, and their recipients.
pub async fn acknowledged_of(
    client: &Client,
    ids: &[MessageId],
) -> Result<Vec<(MessageId, Party)>, Error> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let found = client.query(&ACKNOWLEDGED_OF, &[&ids]).await?;
    found.iter().map(|row| Ok((MessageId(row.try_get("id")?), rows::recipient(row)?))).collect()
}

/// Reads a page until it is full or there is no more, skipping rows that cannot be decoded.
struct PageReader {
    found: Vec<Message>,
    unreadable: Vec<MessageId>,
    limit: usize,
    ended: bool,
}

impl PageReader {
    fn new(limit: usize) -> PageReader {
        PageReader { found: Vec::new(), unreadable: Vec::new(), limit, ended: false }
    }

    /// How many rows to read next; `None` when done.
    fn left(&self) -> Option<i64> {
        let left = self.limit.saturating_sub(self.found.len());
        (!self.ended && left > 0).then(|| i64::try_from(left).unwrap_or(i64::MAX))
    }

    /// Adds rows, and returns the id to continue from.
    fn add(&mut self, rows: &[tokio_postgres::Row]) -> Result<Option<Uuid>, Error> {
        let (found, unreadable) = rows::readable(rows)?;
        // Without unreadable rows, a short read is the end.
        let is_short = rows.len() < self.limit - self.found.len();
        self.ended = unreadable.is_empty() || is_short && !rows::is_cut(rows)?;
        self.found.extend(found);
        self.unreadable.extend(unreadable);
        rows.last().map(|row| row.try_get("id")).transpose().map_err(Error::from)
    }
}

/// Messages pending for a recipient after a message, oldest first, and the ids of those that cannot be
/// decoded, as in [`pending`].
pub async fn pending_after(
    client: &Client,
    party: &Party,
    after: Option<MessageId>,
    limit: usize,
) -> Result<(Vec<Message>, Vec<MessageId>), Error> {
    let (statement, recipient) =
        of_recipient(party, &PENDING_AFTER_OF_PHONE, &PENDING_AFTER_OF_USER);
    let mut last = after.map_or(Uuid::nil(), |id| id.0);
    let mut page = PageReader::new(limit);
    while let Some(left) = page.left() {
        let found = client.query(statement, &[&*recipient, &last, &left]).await?;
        last = page.add(&found)?.unwrap_or(last);
    }
    Ok((page.found, page.unreadable))
}

/// Which of these messages have no delivery attempt yet, and the ids of those that cannot be decoded.
pub async fn new_of(
    client: &Client,
    ids: &[MessageId],
) -> Result<(Vec<Message>, Vec<MessageId>), Error> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    rows::readable(&client.query(&NEW_OF, &[&ids]).await?)
}

/// Parks every due message and returns how many there were, and their recipients, each with its first
/// message: a connected recipient is then told to read again.
pub async fn sweep(
    client: &Client,
    now: OffsetDateTime,
    limit: usize,
) -> Result<(usize, Vec<(Party, MessageId)>), Error> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let found = client.query(&SWEEP, &[&now, &limit]).await?;
    let mut parties: HashMap<Party, MessageId> = HashMap::new();
    for row in &found {
        let Ok(party) = rows::recipient(row) else { continue };
        let id = MessageId(row.try_get("id")?);
        parties.entry(party).and_modify(|first| *first = id.min(*first)).or_insert(id);
    }
    Ok((found.len(), parties.into_iter().collect()))
}

/// Recipients of messages accepted since a time and without a delivery attempt: at most `limit` messages,
/// latest first.
pub async fn undelivered_since(
    client: &Client,
    since: OffsetDateTime,
    limit: usize,
) -> Result<Vec<Party>, Error> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let found = client.query(&UNDELIVERED_SINCE, &[&since, &limit]).await?;
    found.iter().map(rows::recipient).collect()
}

/// Which of these connected recipients have parked messages, each with the first one: the check that finds
/// what a lost wake-up left behind. With `in_hand`, deliveries in flight count, too.
pub async fn behind(
    client: &Client,
    parties: &[Party],
    older_than: OffsetDateTime,
    in_hand: bool,
) -> Result<Vec<(Party, MessageId)>, Error> {
    let columns = || parties.iter().map(rows::columns);
    let users: Vec<Uuid> = columns().filter_map(|(user, _)| user).collect();
    let phones: Vec<&str> = columns().filter_map(|(_, phone)| phone).collect();
    let found = client.query(&BEHIND, &[&phones, &users, &older_than, &in_hand]).await?;
    found.iter().map(|row| Ok((rows::recipient(row)?, MessageId(row.try_get("id")?)))).collect()
}

/// Number of deliveries in flight or due, up to `limit`; messages parked for an offline recipient do not
/// count.
pub async fn in_flight(client: &Client, limit: i64) -> Result<i64, Error> {
    Ok(client.query_one(&COUNT_IN_FLIGHT, &[&limit]).await?.try_get("count")?)
}

/// Number of unacknowledged messages, up to `limit`.
pub async fn waiting(client: &Client, limit: i64) -> Result<i64, Error> {
    Ok(client.query_one(&COUNT_UNDELIVERED, &[&limit]).await?.try_get("count")?)
}
