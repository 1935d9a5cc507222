//! Chat messages: appended under their conversation's lock, read by `seq`, marked as read.
//!
//! The lock makes `seq`, the last message and both unread counts change together, in one transaction.

pub(super) mod deduplication;

use std::collections::HashMap;

use time::OffsetDateTime;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use self::deduplication::{KnownBy, StoredBefore, known};
use super::{
    Client, Error, Statements, conversations,
    message_status::Changed,
    rows::{self, first_of_page, select_messages},
    statement::statements,
};
use crate::domain::{
    Conversation, ConversationId, Message, MessageId, Party, Status,
    conversation::Side,
    message::{ConversationPosition, MessageDraft},
    partitions,
};

macro_rules! history {
    (by: $order:literal) => {
        first_of_page!(
            select_messages!(
                "WHERE m.conversation_id = $1 AND m.seq < $2 AND m.seq > $3 AND m.deleted_at IS NULL \
                 ORDER BY m.",
                $order,
                " LIMIT $4"
            ),
            by: $order
        )
    };
}

/// Inserts chat messages; the arguments add columns, their values and their parameters.
macro_rules! insert_chat {
    ($columns:literal, $values:literal, $parameters:literal) => {
        concat!(
            "INSERT INTO messages (id, type, conversation_id, seq, sender_user_id, sender_phone,
                                   recipient_phone, recipient_user_id, content, content_type, priority,
                                   partition, next_attempt_at, created_at, client_message_id",
            $columns,
            ") SELECT a.id, 1, a.conversation_id, a.seq, a.sender_user_id, a.sender_phone,
                      a.recipient_phone, a.recipient_user_id, a.content, a.content_type, a.priority,
                      a.partition, a.next_attempt_at, a.created_at, a.client_message_id",
            $values,
            " FROM unnest($1::uuid[], $2::uuid[], $3::int8[], $4::uuid[], $5::text[], $6::text[],
                          $7::uuid[], $8::text[], $9::int2[], $10::int2[], $11::int2[],
                          $12::timestamptz[], $13::timestamptz[], $14::text[]",
            $parameters,
            ") AS a(id, conversation_id, seq, sender_user_id, sender_phone, recipient_phone,
                    recipient_user_id, content, content_type, priority, partition, next_attempt_at,
                    created_at, client_message_id",
            $columns,
            ")"
        )
    };
}

statements! {
    INSERT = insert_chat!("", "", "");
    // Most batches have no flags, and are spared the column.
    INSERT_FLAGGED = insert_chat!(
        ", flags", ", string_to_array(a.flags, chr(10))", ", $15::text[]"
    );
    STORE_CONVERSATIONS = "
        UPDATE conversations c SET status = a.status, last_seq = a.last_seq,
               last_message_id = a.last_message_id, last_message_at = a.last_message_at,
               unread_business = a.unread_business, unread_mobile = a.unread_mobile
        FROM unnest($1::uuid[], $2::int2[], $3::int8[], $4::uuid[], $5::timestamptz[], $6::int4[],
                    $7::int4[])
             AS a(id, status, last_seq, last_message_id, last_message_at, unread_business,
                  unread_mobile)
        WHERE c.id = a.id";
    HISTORY_BEFORE = history!(by: "seq DESC");
    HISTORY_AFTER = history!(by: "seq");
    // The condition on the recipient is written so that the planner cannot use the recipient indexes:
    // messages are looked up by position, whatever number a recipient has.
    READ = "
        UPDATE messages SET status = 3, sent_at = coalesce(sent_at, $3),
               delivered_at = coalesce(delivered_at, $3), read_at = $3, next_attempt_at = NULL,
               generation = generation + CASE WHEN status = 4 THEN 1 ELSE 0 END,
               failure_reason = NULL
        WHERE conversation_id = $1 AND seq = ANY ($2) AND status <> 3 AND deleted_at IS NULL
          AND coalesce(recipient_phone, recipient_user_id::text) = $4
        RETURNING id, sender_user_id, sender_phone, read_at AS at, created_at";
    UNREAD = "
        SELECT seq FROM messages WHERE conversation_id = $1 AND seq <= $2 AND status <> 3
          AND deleted_at IS NULL
          AND coalesce(recipient_phone, recipient_user_id::text) = $3
        ORDER BY seq LIMIT $4";
    CLEAR_DEAD_LETTERS = "DELETE FROM dead_letters WHERE message_id = ANY ($1)";
    SET_UNREAD_OF_BUSINESS = "UPDATE conversations SET unread_business = $2 WHERE id = $1";
    SET_UNREAD_OF_MOBILE = "UPDATE conversations SET unread_mobile = $2 WHERE id = $1";
    PLACES = "
        SELECT m.id, m.conversation_id, m.seq FROM unnest($1::uuid[]) AS a(id)
        JOIN messages m ON m.id = a.id WHERE m.conversation_id IS NOT NULL";
}

/// A message to be appended.
#[derive(Clone, Debug)]
pub struct NewChat {
    /// The id, unless the conversation's last message has a later one.
    pub id: MessageId,
    pub conversation: ConversationId,
    pub side: Side,
    pub draft: MessageDraft,
    /// The sender's id for the message: a repeat with the same id changes nothing.
    pub client_message_id: Option<String>,
    pub created_at: OffsetDateTime,
    /// Rules of the sender's content policy that mark it.
    pub flags: Vec<String>,
}

/// The result for one message.
#[derive(Clone, Debug)]
pub enum AppendResult {
    New(Message),
    /// It was stored before.
    Before(Message),
    /// It was stored before, and deleted.
    Deleted,
    /// The conversation is closed.
    Closed,
    /// There is no such conversation.
    Nowhere,
}

/// The result of a batch.
#[derive(Debug, Default)]
pub struct AppendOutcome {
    pub messages: Vec<AppendResult>,
    /// The changed conversations, each once.
    pub conversations: Vec<Conversation>,
}

/// Appends messages in one transaction, those of a conversation in the given order. `earlier` are ids that an
/// attempt of unknown outcome may have stored, by position in `batch`. `due` is when the sweeper picks a
/// message up if nobody delivers it before.
///
/// # Errors
/// Any failure of the database; then nothing is stored, unless the error is [`Error::Unavailable`].
pub async fn append(
    client: &mut Client,
    batch: &[NewChat],
    earlier: &mut [Option<MessageId>],
    due: impl Fn(&Party) -> Option<OffsetDateTime>,
) -> Result<AppendOutcome, Error> {
    let transaction = client.transaction().await?;
    let mut ids: Vec<Uuid> = batch.iter().map(|new| new.conversation.0).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut locked: HashMap<Uuid, (Conversation, Option<Uuid>, bool)> =
        conversations::lock(&transaction, &ids)
            .await?
            .into_iter()
            .map(|(conversation, last)| (conversation.id.0, (conversation, last, false)))
            .collect();
    let mut known = known(&transaction, batch, &locked, earlier).await?;
    let mut outcome = AppendOutcome::default();
    let mut fresh = Vec::new();
    for (new, earlier) in batch.iter().zip(earlier) {
        let Some((conversation, last, changed)) = locked.get_mut(&new.conversation.0) else {
            outcome.messages.push(AppendResult::Nowhere);
            continue;
        };
        let sender = conversation.party(new.side);
        let name = new.client_message_id.clone().map(|name| KnownBy::Name(sender.clone(), name));
        let before = name.as_ref().and_then(|name| known.get(name));
        let before = before.or_else(|| earlier.and_then(|id| known.get(&KnownBy::Id(id))));
        if let Some(before) = before {
            outcome.messages.push(match before {
                StoredBefore::There(message) => AppendResult::Before((**message).clone()),
                StoredBefore::Deleted => AppendResult::Deleted,
            });
            continue;
        }
        let Some(status) = conversation.status.after_message() else {
            outcome.messages.push(AppendResult::Closed);
            continue;
        };
        // Ids grow with `seq`, whatever the clocks of other processes: readers page by id, too.
        let id = last.map_or(new.id.0, |last| new.id.0.max(Uuid::from_u128(last.as_u128() + 1)));
        conversation.status = status;
        conversation.last_seq += 1;
        conversation.last_at = conversation.last_at.max(new.created_at);
        match new.side.other() {
            Side::Business => conversation.unread_business += 1,
            Side::Mobile => conversation.unread_mobile += 1,
        }
        (*last, *changed) = (Some(id), true);
        *earlier = Some(MessageId(id));
        let message = message(new, MessageId(id), conversation);
        if let Some(name) = name {
            known.insert(name, StoredBefore::There(Box::new(message.clone())));
        }
        fresh.push((message.clone(), new.client_message_id.clone()));
        outcome.messages.push(AppendResult::New(message));
    }
    if !fresh.is_empty() {
        insert(&transaction, &fresh, due).await?;
        let changed: Vec<(&Conversation, Option<Uuid>)> = locked
            .values()
            .filter(|(_, _, changed)| *changed)
            .map(|(conversation, last, _)| (conversation, *last))
            .collect();
        store_conversations(&transaction, &changed).await?;
    }
    transaction.commit().await?;
    let conversations = locked.into_values();
    outcome.conversations =
        conversations.filter(|(_, _, changed)| *changed).map(|(c, _, _)| c).collect();
    Ok(outcome)
}

fn message(new: &NewChat, id: MessageId, conversation: &Conversation) -> Message {
    Message {
        id,
        position: Some(ConversationPosition {
            conversation: conversation.id,
            seq: conversation.last_seq,
        }),
        sender: conversation.party(new.side),
        from: conversation.name(new.side),
        recipient: conversation.party(new.side.other()),
        subject: None,
        content: new.draft.content.clone(),
        content_type: new.draft.content_type,
        priority: new.draft.priority,
        status: Status::Pending,
        generation: 0,
        retry_count: 0,
        failure_reason: None,
        created_at: new.created_at,
        sent_at: None,
        delivered_at: None,
        read_at: None,
        flags: new.flags.clone(),
    }
}

async fn insert(
    client: &impl Statements,
    fresh: &[(Message, Option<String>)],
    due: impl Fn(&Party) -> Option<OffsetDateTime>,
) -> Result<(), Error> {
    fn column<'a, T>(
        fresh: &'a [(Message, Option<String>)],
        value: impl Fn(&'a Message) -> T,
    ) -> Vec<T> {
        fresh.iter().map(|(message, _)| value(message)).collect()
    }
    let place = |m: &Message| m.position.map(|place| (place.conversation.0, place.seq));
    let names: Vec<Option<&str>> = fresh.iter().map(|(_, name)| name.as_deref()).collect();
    let ids = column(fresh, |m| m.id.0);
    let conversations = column(fresh, |m| place(m).map(|(conversation, _)| conversation));
    let seqs = column(fresh, |m| place(m).map(|(_, seq)| seq));
    let sender_users = column(fresh, |m| rows::columns(&m.sender).0);
    let sender_phones = column(fresh, |m| rows::columns(&m.sender).1);
    let phones = column(fresh, |m| rows::columns(&m.recipient).1);
    let users = column(fresh, |m| rows::columns(&m.recipient).0);
    let contents = column(fresh, |m| m.content.as_str());
    let types = column(fresh, |m| m.content_type as i16);
    let priorities = column(fresh, |m| m.priority as i16);
    let partitions = column(fresh, partitions::of);
    let due = column(fresh, |m| due(&m.recipient));
    let created = column(fresh, |m| m.created_at);
    let mut values: Vec<&(dyn ToSql + Sync)> = vec![
        &ids,
        &conversations,
        &seqs,
        &sender_users,
        &sender_phones,
        &phones,
        &users,
        &contents,
        &types,
        &priorities,
        &partitions,
        &due,
        &created,
        &names,
    ];
    let flags = rows::flags(fresh.iter().map(|(message, _)| message));
    let statement = match &flags {
        None => &INSERT,
        Some(flags) => {
            values.push(flags);
            &INSERT_FLAGGED
        }
    };
    client.execute(statement, &values).await?;
    Ok(())
}

async fn store_conversations(
    client: &impl Statements,
    changed: &[(&Conversation, Option<Uuid>)],
) -> Result<(), Error> {
    fn column<T>(
        changed: &[(&Conversation, Option<Uuid>)],
        value: impl Fn(&Conversation) -> T,
    ) -> Vec<T> {
        changed.iter().map(|(conversation, _)| value(conversation)).collect()
    }
    let last: Vec<Option<Uuid>> = changed.iter().map(|(_, last)| *last).collect();
    client
        .execute(
            &STORE_CONVERSATIONS,
            &[
                &column(changed, |c| c.id.0),
                &column(changed, |c| c.status as i16),
                &column(changed, |c| c.last_seq),
                &last,
                &column(changed, |c| c.last_at),
                &column(changed, |c| c.unread_business),
                &column(changed, |c| c.unread_mobile),
            ],
        )
        .await?;
    Ok(())
}

/// Messages of a conversation by `seq`: the newest before a position, oldest last, or the oldest after one,
/// oldest first. At most [`MAX_PAGE_BYTES`](crate::domain::message::MAX_PAGE_BYTES) of content and one more
/// message.
pub async fn history(
    client: &Client,
    id: ConversationId,
    before: Option<i64>,
    after: Option<i64>,
    limit: usize,
) -> Result<Vec<Message>, Error> {
    let statement = if after.is_some() { &HISTORY_AFTER } else { &HISTORY_BEFORE };
    let (before, after) = (before.unwrap_or(i64::MAX), after.unwrap_or(0));
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    rows::messages(&client.query(statement, &[&id.0, &before, &after, &limit]).await?)
}

/// Messages marked as read per transaction, which holds the conversation's lock.
const READ_BATCH_SIZE: usize = 2000;

/// The messages to mark as read.
#[derive(Clone, Debug)]
pub enum ReadRange {
    /// Everything up to this `seq`.
    UpTo(i64),
    Those(Vec<i64>),
}

/// The result of marking messages as read.
#[derive(Debug)]
pub struct MarkedRead {
    pub changed: Vec<Changed>,
    /// The conversation as it is now.
    pub conversation: Conversation,
    /// Whether the call must be repeated for the rest.
    pub more: bool,
}

/// Marks messages of a conversation as read by a side, at most [`READ_BATCH_SIZE`], and updates its unread
/// count.
///
/// # Errors
/// Any failure of the database; then nothing has changed.
pub async fn mark_read(
    client: &mut Client,
    id: ConversationId,
    side: Side,
    reading: &ReadRange,
    now: OffsetDateTime,
) -> Result<Option<MarkedRead>, Error> {
    let transaction = client.transaction().await?;
    // Lock first, so that the count below includes every message announced before.
    let Some((mut conversation, _)) = conversations::lock(&transaction, &[id.0]).await?.pop()
    else {
        return Ok(None);
    };
    let reader = match conversation.party(side) {
        Party::Business(id) => id.to_string(),
        Party::Mobile(phone) => phone.as_str().to_owned(),
    };
    let seqs: Vec<i64> = match reading {
        ReadRange::Those(seqs) => seqs.clone(),
        ReadRange::UpTo(seq) => {
            let most = READ_BATCH_SIZE as i64;
            let found = transaction.query(&UNREAD, &[&id.0, seq, &reader, &most]).await?;
            found.iter().map(|row| row.try_get("seq")).collect::<Result<_, _>>()?
        }
    };
    let more = matches!(reading, ReadRange::UpTo(_)) && seqs.len() == READ_BATCH_SIZE;
    let found = transaction.query(&READ, &[&id.0, &seqs, &now, &reader]).await?;
    let changed = super::message_status::changed(&found, Status::Read)?;
    if !changed.is_empty() {
        let late: Vec<Uuid> = changed.iter().map(|change| change.id.0).collect();
        transaction.execute(&CLEAR_DEAD_LETTERS, &[&late]).await?;
        let read = i32::try_from(changed.len()).unwrap_or(i32::MAX);
        let unread = match side {
            Side::Business => &mut conversation.unread_business,
            Side::Mobile => &mut conversation.unread_mobile,
        };
        *unread = unread.saturating_sub(read);
        let statement = match side {
            Side::Business => &SET_UNREAD_OF_BUSINESS,
            Side::Mobile => &SET_UNREAD_OF_MOBILE,
        };
        transaction.execute(statement, &[&id.0, &conversation.unread(side)]).await?;
    }
    transaction.commit().await?;
    Ok(Some(MarkedRead { changed, conversation, more }))
}

/// The positions of these messages, for those in a conversation.
pub async fn positions(
    client: &Client,
    ids: &[MessageId],
) -> Result<Vec<(MessageId, ConversationPosition)>, Error> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let found = client.query(&PLACES, &[&ids]).await?;
    found
        .iter()
        .map(|row| {
            let conversation = ConversationId(row.try_get("conversation_id")?);
            let place = ConversationPosition { conversation, seq: row.try_get("seq")? };
            Ok((MessageId(row.try_get("id")?), place))
        })
        .collect()
}
