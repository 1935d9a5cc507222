//! Lists of messages: by filter, page after page.

use time::OffsetDateTime;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{
    Client, Error, Page, Statement, Statements,
    rows::{cut_at_page, message_columns, message_from},
    statements,
};
use crate::domain::{Message, MessageId, MessageKind, Phone, Status, UserId};

/// Which messages a list shows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only what this business user sent.
    pub sender: Option<UserId>,
    /// Only what this phone is to get.
    pub recipient: Option<Phone>,
    /// Only what this business user sent or is to get.
    pub user: Option<UserId>,
    /// Only accepted at this time or later.
    pub since: Option<OffsetDateTime>,
    /// Only accepted before this time.
    pub until: Option<OffsetDateTime>,
    /// Only in this status.
    pub status: Option<Status>,
    /// Only of this kind.
    pub kind: Option<MessageKind>,
    /// Only older than this one.
    pub before: Option<MessageId>,
    /// Only younger than this one; then the oldest of those come first.
    pub after: Option<MessageId>,
    /// When that one was accepted, if it is known: of a period the list goes on from there also when the message
    /// itself was removed meanwhile.
    pub from_at: Option<OffsetDateTime>,
    /// Past so many.
    pub skip: usize,
}

statements! {
    COUNT_OF_SENDER = "
        SELECT count(*) AS count FROM (SELECT FROM messages WHERE sender_user_id = $1 AND type = 0
                                       AND deleted_at IS NULL LIMIT $2) counted";
    ACCEPTED_AT = "SELECT created_at FROM messages WHERE id = $1";
}

/// How many messages a business user has sent that can be listed, counted up to `most`.
///
/// # Errors
/// Any failure of the database.
pub async fn count_of_sender(client: &Client, sender: UserId, most: i64) -> Result<i64, Error> {
    let row = client.query_one(&COUNT_OF_SENDER, &[&sender.0, &most]).await?;
    Ok(row.try_get("count")?)
}

/// Messages by filter, newest first (with `after`: oldest first), at most
/// [`PAGE_BYTES`](crate::domain::message::PAGE_BYTES) of content and one message more. Those whose rows cannot be read
/// are left out, and others come in their place.
///
/// The order is that of ids. Of a period it is that of times: ids that an import kept say nothing of those,
/// and by them everything would have to be read that is not of the period.
///
/// `None` when the one of a period from which it is to go on was removed, and nothing says when it was accepted.
///
/// # Errors
/// Any failure of the database.
pub async fn list(
    client: &Client,
    filter: &Filter,
    limit: usize,
) -> Result<Option<Vec<Message>>, Error> {
    let mut filter = filter.clone();
    if filter.is_of_period()
        && filter.from_at.is_none()
        && let Some(from) = filter.before.or(filter.after)
    {
        filter.from_at = accepted_at(client, from).await?;
        if filter.from_at.is_none() {
            return Ok(None);
        }
    }
    let mut page = Page::new(limit);
    while let Some(left) = page.left() {
        let (statement, wanted) = statement(&filter, left);
        let rows = client.query(&statement, &wanted.values()).await?;
        let Some(last) = page.add(&rows)? else { break };
        filter.from_at = rows.last().map(|row| row.try_get("created_at")).transpose()?;
        let from = if filter.after.is_some() { &mut filter.after } else { &mut filter.before };
        *from = Some(MessageId(last));
        filter.skip = 0;
    }
    Ok(Some(page.found))
}

/// Conditions and their values.
#[derive(Default)]
struct Where {
    sql: Vec<String>,
    values: Vec<Box<dyn ToSql + Sync + Send>>,
}

impl Where {
    /// Only the conditions that are asked for: a plan for "or is null" would use no index.
    fn add<T: ToSql + Sync + Send + 'static>(&mut self, condition: &str, value: Option<T>) {
        if let Some(value) = value {
            let place = self.place(value);
            self.sql.push(format!("{condition} ${place}"));
        }
    }

    fn place<T: ToSql + Sync + Send + 'static>(&mut self, value: T) -> usize {
        self.values.push(Box::new(value));
        self.values.len()
    }

    fn text(&self) -> String {
        self.sql.join(" AND ")
    }

    fn values(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.values.iter().map(|value| &**value as &(dyn ToSql + Sync)).collect()
    }
}

impl Filter {
    /// Whether a period is asked for, and nobody's messages by which the others could be left out.
    pub fn is_of_period(&self) -> bool {
        (self.since.is_some() || self.until.is_some())
            && self.sender.is_none()
            && self.recipient.is_none()
            && self.user.is_none()
    }

    fn conditions(&self, limit: i64) -> Where {
        let mut wanted = Where::default();
        wanted.place(limit);
        wanted.place(i64::try_from(self.skip).unwrap_or(i64::MAX));
        wanted.sql.push("m.deleted_at IS NULL".to_owned());
        wanted.add("m.sender_user_id =", self.sender.map(|id| id.0));
        wanted.add("m.recipient_phone =", self.recipient.as_ref().map(|p| p.as_str().to_owned()));
        wanted.add("m.status =", self.status.map(|status| status as i16));
        wanted.add("m.type =", self.kind.map(|kind| kind as i16));
        wanted.add("m.created_at >=", self.since);
        wanted.add("m.created_at <", self.until);
        wanted
    }
}

fn statement(filter: &Filter, limit: i64) -> (Statement, Where) {
    if filter.is_of_period() { by_time(filter, limit) } else { by_id(filter, limit) }
}

fn by_id(filter: &Filter, limit: i64) -> (Statement, Where) {
    let mut wanted = filter.conditions(limit);
    wanted.add("m.id <", filter.before.map(|id| id.0));
    wanted.add("m.id >", filter.after.map(|id| id.0));
    let mut from = message_from!().to_owned();
    if let Some(user) = filter.user {
        let n = wanted.place(user.0);
        // Each side by its own index, merged in their order; one condition with "or" would use none.
        from = format!(
            "(SELECT * FROM messages WHERE sender_user_id = ${n} UNION ALL \
             SELECT * FROM messages WHERE recipient_user_id = ${n}) AS m \
             LEFT JOIN business_users u ON u.id = m.sender_user_id"
        );
    }
    let sql = format!(
        "SELECT {} FROM {from} WHERE {} ORDER BY m.id {} LIMIT $1 OFFSET $2",
        message_columns!(),
        wanted.text(),
        if filter.after.is_some() { "ASC" } else { "DESC" }
    );
    let sql = cut_at_page(&sql, if filter.after.is_some() { "id ASC" } else { "id DESC" });
    (Statement::built(concat!(module_path!(), "::by_id"), sql), wanted)
}

fn by_time(filter: &Filter, limit: i64) -> (Statement, Where) {
    let mut wanted = filter.conditions(limit);
    for (id, sign) in [(filter.before, "<"), (filter.after, ">")] {
        let (Some(id), Some(at)) = (id, filter.from_at) else { continue };
        let (at, id) = (wanted.place(at), wanted.place(id.0));
        wanted.sql.push(format!("(m.created_at, m.id) {sign} (${at}, ${id})"));
    }
    let order = if filter.after.is_some() { "ASC" } else { "DESC" };
    let page_order = format!("created_at {order}, id {order}");
    let order = format!("ORDER BY m.created_at {order}, m.id {order}");
    // What is finished and what is not have an index each; no more of either is read than is shown.
    let of = |status: &str| {
        format!(
            "(SELECT * FROM messages m WHERE m.status {status} AND {} {order} \
             LIMIT $1::bigint + $2::bigint)",
            wanted.text()
        )
    };
    let both = match filter.status {
        Some(status) if status < Status::Delivered => of("< 2"),
        Some(_) => of(">= 2"),
        None => format!("{} UNION ALL {}", of("< 2"), of(">= 2")),
    };
    let sql = format!(
        "SELECT {} FROM ({both}) AS m LEFT JOIN business_users u ON u.id = m.sender_user_id \
         {order} LIMIT $1 OFFSET $2",
        message_columns!()
    );
    let sql = cut_at_page(&sql, &page_order);
    (Statement::built(concat!(module_path!(), "::by_time"), sql), wanted)
}

/// The forms of a list: each filter alone, several together, and each of those from the newest, before a
/// message and after one.
pub(in crate::store) fn built() -> Vec<Statement> {
    let (id, time) = (Some(MessageId(Uuid::nil())), Some(OffsetDateTime::UNIX_EPOCH));
    let user = Some(UserId(Uuid::nil()));
    let phone = Some(Phone::from_stored(""));
    let kind = Some(MessageKind::OneWay);
    let (waits, ended) = (Some(Status::Pending), Some(Status::Delivered));
    let filters = [
        Filter::default(),
        Filter { sender: user, ..Filter::default() },
        Filter { recipient: phone.clone(), ..Filter::default() },
        Filter { user, ..Filter::default() },
        Filter { status: waits, ..Filter::default() },
        Filter { kind, ..Filter::default() },
        Filter { since: time, ..Filter::default() },
        Filter { until: time, ..Filter::default() },
        Filter { since: time, until: time, kind, status: waits, ..Filter::default() },
        Filter { since: time, until: time, kind, status: ended, ..Filter::default() },
        Filter {
            sender: user,
            recipient: phone,
            user,
            since: time,
            until: time,
            status: waits,
            kind,
            ..Filter::default()
        },
    ];
    let mut forms = Vec::new();
    for filter in filters {
        for (before, after) in [(None, None), (id, None), (None, id)] {
            let filter = Filter { before, after, from_at: time, ..filter.clone() };
            forms.push(statement(&filter, 1).0);
        }
    }
    forms
}

/// When a message was accepted from which a list goes on. One that was removed meanwhile may tell by its id.
async fn accepted_at(client: &Client, id: MessageId) -> Result<Option<OffsetDateTime>, Error> {
    if let Some(row) = client.query_opt(&ACCEPTED_AT, &[&id.0]).await? {
        return Ok(Some(row.try_get("created_at")?));
    }
    let time = id.0.get_timestamp().map(|time| time.to_unix());
    Ok(time.and_then(|(seconds, nanoseconds)| {
        let at = OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()?;
        Some(at + time::Duration::nanoseconds(nanoseconds.into()))
    }))
}
