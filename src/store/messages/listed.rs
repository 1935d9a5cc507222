//! Lists of messages: by filter, page after page.

use time::OffsetDateTime;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{
    Client, Error, PageReader, Statement, Statements,
    list_page::{ListPage, ScanPosition, max_scanned_rows},
    rows::{self, cut_at_page, message_columns},
    statements,
};
use crate::domain::{Message, MessageId, MessageKind, Phone, Status, UserId};

/// A filter for messages; all conditions that are set must hold.
#[derive(Clone, Debug, Default)]
pub struct MessageFilter {
    /// Only messages sent by this business user.
    pub sender: Option<UserId>,
    /// Only messages to this phone.
    pub recipient: Option<Phone>,
    /// Only messages from or to this business user.
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
    /// When that message was accepted, if known: a list by time then continues even if the message was
    /// removed meanwhile.
    pub from_at: Option<OffsetDateTime>,
    pub skip: usize,
    /// Scan the sender's messages although a recipient is given: there may be fewer of those.
    pub by_sender: bool,
    /// Scan ten times as many rows: for lists without a cursor.
    pub far: bool,
}

/// Rows scanned by a list without a cursor.
macro_rules! scanned_far_back {
    () => {
        "100000"
    };
}

statements! {
    COUNT_OF_SENDER = "
        SELECT count(*) AS count FROM (SELECT FROM (SELECT type, deleted_at FROM messages WHERE sender_user_id = $1
                                                    ORDER BY id DESC LIMIT $2) latest
                                       WHERE type = 0 AND deleted_at IS NULL) counted";
    ACCEPTED_AT = "SELECT created_at FROM messages WHERE id = $1";
}

/// Number of one-way messages among the latest `most` of a business user.
pub async fn count_of_sender(client: &Client, sender: UserId, most: i64) -> Result<i64, Error> {
    let row = client.query_one(&COUNT_OF_SENDER, &[&sender.0, &most]).await?;
    Ok(row.try_get("count")?)
}

/// Messages by filter, newest first (with `after`, oldest first), at most
/// [`MAX_PAGE_BYTES`](crate::domain::message::MAX_PAGE_BYTES) of content and one more message. Rows that
/// cannot be decoded are skipped.
///
/// Ordered by id, or by time if a period is given: imported ids do not follow time, and a scan by id would
/// read everything outside the period.
///
/// The page ends early after a number of rows that do not match; see [`ListPage`].
///
/// `None` if the message to continue from was removed and its time is unknown.
pub async fn list(
    client: &Client,
    filter: &MessageFilter,
    limit: usize,
) -> Result<Option<ListPage<Message>>, Error> {
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
    let found = list_by(client, filter.clone(), limit).await?;
    if filter.sender.is_none() || filter.recipient.is_none() || found.cut.is_none() {
        return Ok(Some(found));
    }
    // The recipient has very many messages, and the scan position would be a message of another sender, which
    // must not be disclosed.
    let filter = MessageFilter { by_sender: true, ..filter };
    Ok(Some(list_by(client, filter, limit).await?))
}

async fn list_by(
    client: &Client,
    mut filter: MessageFilter,
    limit: usize,
) -> Result<ListPage<Message>, Error> {
    let mut page = PageReader::new(limit);
    while let Some(left) = page.left() {
        let (statement, wanted) = statement(&filter, left);
        let rows = client.query(&statement, &wanted.values()).await?;
        let last = page.add(&rows)?;
        let is_short = i64::try_from(rows.len()).is_ok_and(|found| found < left);
        if is_short && !rows::is_cut(&rows)? {
            break;
        }
        let Some(last) = last else { break };
        filter.from_at = rows.last().map(|row| row.try_get("created_at")).transpose()?;
        let from = if filter.after.is_some() { &mut filter.after } else { &mut filter.before };
        *from = Some(MessageId(last));
        filter.skip = 0;
    }
    if page.found.len() >= limit || filter.far {
        return Ok(ListPage { items: page.found, cut: None });
    }
    let cut = cut(client, &filter).await?;
    Ok(ListPage::new(page.found, cut, |message, cut| is_behind(&filter, message, cut)))
}

/// The row up to which the list was scanned; `None` at its end.
async fn cut(client: &Client, filter: &MessageFilter) -> Result<Option<ScanPosition>, Error> {
    let (statement, wanted) = last_looked_at(filter);
    let Some(row) = client.query_opt(&statement, &wanted.values()).await? else { return Ok(None) };
    let at = if filter.is_of_period() { Some(row.try_get("created_at")?) } else { None };
    Ok(Some(ScanPosition { at, id: row.try_get("id")? }))
}

fn is_behind(filter: &MessageFilter, message: &Message, cut: &ScanPosition) -> bool {
    let place = (cut.at.map(|_| message.created_at), message.id.0);
    if filter.after.is_some() { place > (cut.at, cut.id) } else { place < (cut.at, cut.id) }
}

/// Conditions and their values.
#[derive(Default)]
struct MessageConditions {
    sql: Vec<String>,
    values: Vec<Box<dyn ToSql + Sync + Send>>,
}

impl MessageConditions {
    /// Only the conditions that are set: a plan for "or is null" would use no index.
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

impl MessageFilter {
    /// Whether a period is given, and no party whose messages would narrow the scan.
    pub fn is_of_period(&self) -> bool {
        (self.since.is_some() || self.until.is_some())
            && self.sender.is_none()
            && self.recipient.is_none()
            && self.user.is_none()
    }

    fn order(&self) -> &'static str {
        if self.after.is_some() { "ASC" } else { "DESC" }
    }

    fn looked_at(&self) -> &'static str {
        if self.far { scanned_far_back!() } else { max_scanned_rows!() }
    }

    /// The index of the scan.
    fn source(&self) -> Source {
        let recipient = self.recipient.as_ref().filter(|_| !self.by_sender);
        match (recipient, self.sender, self.user, self.status) {
            (Some(phone), ..) => Source::Recipient(phone.as_str().to_owned()),
            (_, Some(sender), ..) => Source::Sender(sender.0),
            (_, _, Some(user), _) => Source::User(user.0),
            (.., Some(Status::Failed)) => Source::Failed,
            _ => Source::All,
        }
    }

    /// The conditions on scanned rows, except those of the index.
    fn add_conditions(&self, wanted: &mut MessageConditions) {
        let source = self.source();
        wanted.sql.push("m.deleted_at IS NULL".to_owned());
        let sender = self.sender.filter(|_| !matches!(source, Source::Sender(_)));
        wanted.add("m.sender_user_id =", sender.map(|id| id.0));
        let recipient = self.recipient.as_ref().filter(|_| !matches!(source, Source::Recipient(_)));
        wanted.add("m.recipient_phone =", recipient.map(|phone| phone.as_str().to_owned()));
        if let Some(user) = self.user.filter(|_| !matches!(source, Source::User(_))) {
            let n = wanted.place(user.0);
            wanted.sql.push(format!("(m.sender_user_id = ${n} OR m.recipient_user_id = ${n})"));
        }
        wanted.add("m.status =", self.status.map(|status| status as i16));
        wanted.add("m.type =", self.kind.map(|kind| kind as i16));
    }
}

/// By which index rows are found.
enum Source {
    Recipient(String),
    Sender(Uuid),
    User(Uuid),
    Failed,
    All,
}

fn statement(filter: &MessageFilter, limit: i64) -> (Statement, MessageConditions) {
    let mut wanted = MessageConditions::default();
    wanted.place(limit);
    wanted.place(i64::try_from(filter.skip).unwrap_or(i64::MAX));
    if filter.is_of_period() { by_time(filter, wanted) } else { by_id(filter, wanted) }
}

/// Finds the last row that [`statement`] scans.
fn last_looked_at(filter: &MessageFilter) -> (Statement, MessageConditions) {
    let mut wanted = MessageConditions::default();
    let direction = filter.order();
    let (columns, rows, order) = if filter.is_of_period() {
        let columns = "m.created_at, m.id";
        let rows = sides_looked_at(filter, columns, &mut wanted).join(" UNION ALL ");
        (columns, rows, format!("m.created_at {direction}, m.id {direction}"))
    } else {
        ("m.id", looked_at_by_id(filter, "m.id", &mut wanted), format!("m.id {direction}"))
    };
    let sql = format!(
        "SELECT {columns} FROM ({rows}) AS m ORDER BY {order} LIMIT 1 OFFSET {}::bigint - 1",
        filter.looked_at()
    );
    (Statement::built(concat!(module_path!(), "::last_looked_at"), sql), wanted)
}

/// The scan of a list by id.
fn looked_at_by_id(
    filter: &MessageFilter,
    columns: &str,
    wanted: &mut MessageConditions,
) -> String {
    let mut found =
        MessageConditions { sql: Vec::new(), values: std::mem::take(&mut wanted.values) };
    let mut from = "messages m".to_owned();
    match filter.source() {
        Source::Recipient(phone) => found.add("m.recipient_phone =", Some(phone)),
        Source::Sender(id) => found.add("m.sender_user_id =", Some(id)),
        Source::User(id) => {
            let n = found.place(id);
            // Each side by its own index, merged in order; one condition with "or" would use none.
            from = format!(
                "(SELECT * FROM messages WHERE sender_user_id = ${n} UNION ALL \
                 SELECT * FROM messages WHERE recipient_user_id = ${n}) AS m"
            );
        }
        // Written as in the partial index.
        Source::Failed => found.sql.push("m.status = 4".to_owned()),
        Source::All => {}
    }
    found.add("m.id <", filter.before.map(|id| id.0));
    found.add("m.id >", filter.after.map(|id| id.0));
    wanted.values = found.values;
    let conditions = if found.sql.is_empty() { "true".to_owned() } else { found.sql.join(" AND ") };
    format!(
        "SELECT {columns} FROM {from} WHERE {conditions} ORDER BY m.id {} LIMIT {}",
        filter.order(),
        filter.looked_at()
    )
}

fn by_id(filter: &MessageFilter, mut wanted: MessageConditions) -> (Statement, MessageConditions) {
    let rows = looked_at_by_id(filter, "m.*", &mut wanted);
    filter.add_conditions(&mut wanted);
    wanted.add("m.created_at >=", filter.since);
    wanted.add("m.created_at <", filter.until);
    let sql = format!(
        "SELECT {} FROM ({rows}) AS m LEFT JOIN business_users u ON u.id = m.sender_user_id \
         WHERE {} ORDER BY m.id {} LIMIT $1 OFFSET $2",
        message_columns!(),
        wanted.text(),
        filter.order()
    );
    let sql = cut_at_page(&sql, if filter.after.is_some() { "id ASC" } else { "id DESC" });
    (Statement::built(concat!(module_path!(), "::by_id"), sql), wanted)
}

/// The scan of a list by time: finished and unfinished messages have an index each.
fn sides_looked_at(
    filter: &MessageFilter,
    columns: &str,
    wanted: &mut MessageConditions,
) -> Vec<String> {
    let mut found =
        MessageConditions { sql: Vec::new(), values: std::mem::take(&mut wanted.values) };
    found.add("m.created_at >=", filter.since);
    found.add("m.created_at <", filter.until);
    for (id, sign) in [(filter.before, "<"), (filter.after, ">")] {
        let (Some(id), Some(at)) = (id, filter.from_at) else { continue };
        let (at, id) = (found.place(at), found.place(id.0));
        found.sql.push(format!("(m.created_at, m.id) {sign} (${at}, ${id})"));
    }
    let of = |status: &str| {
        format!(
            "(SELECT {columns} FROM messages m WHERE m.status {status} AND {} \
             ORDER BY m.created_at {order}, m.id {order} LIMIT {})",
            found.text(),
            filter.looked_at(),
            order = filter.order()
        )
    };
    let sides = match filter.status {
        Some(status) if status < Status::Delivered => vec![of("< 2")],
        Some(_) => vec![of(">= 2")],
        None => vec![of("< 2"), of(">= 2")],
    };
    wanted.values = found.values;
    sides
}

fn by_time(
    filter: &MessageFilter,
    mut wanted: MessageConditions,
) -> (Statement, MessageConditions) {
    let sides = sides_looked_at(filter, "m.*", &mut wanted);
    filter.add_conditions(&mut wanted);
    let order = format!("ORDER BY m.created_at {order}, m.id {order}", order = filter.order());
    // No more rows of either side are read than are shown.
    let shown: Vec<String> = sides
        .iter()
        .map(|side| {
            let conditions = wanted.text();
            format!(
                "(SELECT * FROM {side} AS m WHERE {conditions} {order} LIMIT $1::bigint + $2::bigint)"
            )
        })
        .collect();
    let sql = format!(
        "SELECT {} FROM ({}) AS m LEFT JOIN business_users u ON u.id = m.sender_user_id \
         {order} LIMIT $1 OFFSET $2",
        message_columns!(),
        shown.join(" UNION ALL ")
    );
    let sql = cut_at_page(&sql, &format!("created_at {order}, id {order}", order = filter.order()));
    (Statement::built(concat!(module_path!(), "::by_time"), sql), wanted)
}

/// All variants: each filter alone, several together, and each from the newest, before a message and after
/// one.
pub(in crate::store) fn built() -> Vec<Statement> {
    let (id, time) = (Some(MessageId(Uuid::nil())), Some(OffsetDateTime::UNIX_EPOCH));
    let user = Some(UserId(Uuid::nil()));
    let phone = Some(Phone::from_stored(""));
    let kind = Some(MessageKind::OneWay);
    let (waits, ended) = (Some(Status::Pending), Some(Status::Delivered));
    let filters = [
        MessageFilter::default(),
        MessageFilter { sender: user, ..MessageFilter::default() },
        MessageFilter { recipient: phone.clone(), ..MessageFilter::default() },
        MessageFilter { user, ..MessageFilter::default() },
        MessageFilter { status: waits, ..MessageFilter::default() },
        MessageFilter { status: Some(Status::Failed), ..MessageFilter::default() },
        MessageFilter { sender: user, recipient: phone.clone(), ..MessageFilter::default() },
        MessageFilter {
            sender: user,
            recipient: phone.clone(),
            by_sender: true,
            ..MessageFilter::default()
        },
        MessageFilter { sender: user, user, ..MessageFilter::default() },
        MessageFilter { kind, ..MessageFilter::default() },
        MessageFilter { since: time, ..MessageFilter::default() },
        MessageFilter { until: time, ..MessageFilter::default() },
        MessageFilter { since: time, until: time, kind, status: waits, ..MessageFilter::default() },
        MessageFilter { since: time, until: time, kind, status: ended, ..MessageFilter::default() },
        MessageFilter {
            sender: user,
            recipient: phone,
            user,
            since: time,
            until: time,
            status: waits,
            kind,
            ..MessageFilter::default()
        },
    ];
    let far = MessageFilter { sender: user, kind, far: true, ..MessageFilter::default() };
    let mut forms = vec![statement(&far, 1).0];
    for filter in filters {
        for (before, after) in [(None, None), (id, None), (None, id)] {
            let filter = MessageFilter { before, after, from_at: time, ..filter.clone() };
            forms.push(statement(&filter, 1).0);
            forms.push(last_looked_at(&filter).0);
        }
    }
    forms
}

/// When the message to continue from was accepted. The id may tell it if the message was removed.
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
