//! The audit log: written in the transaction of the change, read in pages, expired by age.

use std::net::IpAddr;

use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    Client, Error, Statement, Statements, Transaction,
    list_page::{ListPage, ScanPosition, max_scanned_rows},
    rows,
    statement::statements,
    where_clause::{Conditions, Parameter, parameters},
};
use crate::domain::{
    Phone,
    audit::{AuditAction, AuditDetail, AuditEntry},
    text::normal_name,
};

statements! {
    // Repeating a commit whose outcome was unknown must not duplicate entries.
    INSERT = "
        WITH salted AS MATERIALIZED (
            SELECT p.phone, p.entry_id, gen_random_uuid() AS salt
            FROM unnest($15::text[], $16::uuid[]) AS p(phone, entry_id)),
        hashes AS MATERIALIZED (
            SELECT entry_id, sha256(uuid_send(salt) || convert_to(phone, 'UTF8')) AS hash FROM salted),
        digests AS MATERIALIZED (
            SELECT entry_id, sha256(string_agg(hash, ''::bytea ORDER BY hash)) AS digest
            FROM hashes GROUP BY entry_id),
        fresh AS (
            INSERT INTO audit_log (id, at, actor_kind, actor, actor_name, token_id, action, subject_kind,
                                   subject_id, subject_phone, reason, request_id, details, outcome,
                                   peer, phones_digest)
            SELECT e.*, coalesce(d.digest, sha256(''::bytea)) FROM unnest(
                $1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::uuid[], $7::text[],
                $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::jsonb[], $14::text[],
                $17::inet[]) AS e(id, at, actor_kind, actor, actor_name, token_id, action, subject_kind,
                                  subject_id, subject_phone, reason, request_id, details, outcome, peer)
            LEFT JOIN digests d ON d.entry_id = e.id
            ORDER BY e.id
            ON CONFLICT (id) DO NOTHING RETURNING id)
        INSERT INTO audit_log_phones (phone, entry_id, salt)
        SELECT s.phone, s.entry_id, s.salt FROM salted s JOIN fresh ON fresh.id = s.entry_id";
    HAS_BACKUP_OF_KEY: once = "
        SELECT EXISTS (SELECT FROM audit_log WHERE action = 'backup.create' AND outcome = 'done'
                       AND details ->> 'key' = $1) AS is_there";
    LAST_DONE = "
        SELECT at FROM audit_log WHERE action = $1 AND outcome = 'done'
        AND details -> 'begun' IS NULL ORDER BY id DESC LIMIT 1";
    // The application's role may not delete rows itself.
    EXPIRE = "SELECT audit_log_expire($1, $2) AS removed";
}

/// Begins a transaction, to be ended with [`commit`].
pub async fn begin(client: &mut Client) -> Result<Transaction<'_>, Error> {
    client.transaction().await
}

/// Commits a transaction with its audit entries: both are stored, or neither.
///
/// # Errors
/// Any failure of the database. Nothing was changed then, unless the connection was lost.
pub async fn commit(transaction: Transaction<'_>, entries: &[AuditEntry]) -> Result<(), Error> {
    insert(&transaction, entries).await?;
    transaction.commit().await
}

/// Writes entries.
pub async fn insert(client: &impl Statements, entries: &[AuditEntry]) -> Result<(), Error> {
    if entries.is_empty() {
        return Ok(());
    }
    fn column<'a, T>(entries: &'a [AuditEntry], value: impl Fn(&'a AuditEntry) -> T) -> Vec<T> {
        entries.iter().map(value).collect()
    }
    let phones = entries.iter().flat_map(|e| e.phones.iter().map(|phone| (phone.as_str(), e.id)));
    let (phones, of): (Vec<&str>, Vec<Uuid>) = phones.unzip();
    client
        .execute(
            &INSERT,
            &[
                &column(entries, |e| e.id),
                &column(entries, |e| e.at),
                &column(entries, |e| e.actor.kind()),
                &column(entries, |e| e.actor.id()),
                &column(entries, |e| e.actor.name()),
                &column(entries, |e| e.actor.token().map(|token| token.0)),
                &column(entries, |e| e.action.name()),
                &column(entries, |e| e.action.subject()),
                &column(entries, |e| e.subject.as_deref()),
                &column(entries, |e| e.phone().map(Phone::as_str)),
                &column(entries, |e| e.reason.as_deref()),
                &column(entries, |e| e.request.as_deref()),
                &column(entries, details),
                &column(entries, |e| e.outcome.name()),
                &phones,
                &of,
                &column(entries, |e| e.peer),
            ],
        )
        .await?;
    Ok(())
}

fn details(entry: &AuditEntry) -> Value {
    let value = |detail: &AuditDetail| match detail {
        AuditDetail::Text(text) => Value::from(text.as_str()),
        AuditDetail::Number(number) => Value::from(*number),
        AuditDetail::Flag(flag) => Value::from(*flag),
        AuditDetail::List(list) => Value::from(list.as_slice()),
    };
    let fields = entry.details.iter().map(|(name, detail)| ((*name).to_owned(), value(detail)));
    Value::Object(fields.collect::<Map<String, Value>>())
}

/// A stored entry. Its enumerations are texts: another version may have written values unknown here.
#[derive(Clone, Debug)]
pub struct AuditRecord {
    /// UUIDv7.
    pub id: Uuid,
    pub at: OffsetDateTime,
    /// `user`, `phone` or `command`.
    pub actor_kind: String,
    /// An id, a phone number, or `user@host`.
    pub actor: String,
    /// A business user's name at that time.
    pub actor_name: Option<String>,
    /// The token that was shown.
    pub token: Option<Uuid>,
    /// Such as `message.show`.
    pub action: String,
    /// What kind of thing it was about.
    pub subject_kind: String,
    /// Which, if it was one.
    pub subject: Option<String>,
    /// Whose data, if they were one phone's.
    pub phone: Option<Phone>,
    /// How many phones' data.
    pub phones: i64,
    pub reason: Option<String>,
    /// The request over HTTP.
    pub request: Option<String>,
    /// From which address it came.
    pub peer: Option<IpAddr>,
    /// More about it: a JSON object.
    pub details: Value,
    /// What came of it.
    pub outcome: String,
}

/// A filter for audit entries; all conditions that are set must hold.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Only of this time or later.
    pub since: Option<OffsetDateTime>,
    /// Only about this phone.
    pub phone: Option<Phone>,
    /// Only by this actor: an id, a name, a phone number, a token's id, `user@host`.
    pub actor: Option<String>,
    /// Only this action, or with a kind of thing (`message`) every action on one.
    pub action: Option<String>,
    /// Only older than this entry.
    pub before: Option<Uuid>,
}

/// The subquery of the ids that a list scans, newest first, by an index.
fn looked_at(filter: &AuditFilter, wanted: &mut Conditions) -> String {
    // On the column of the index, so that the scan starts there.
    let (id, from) = match filter.phone {
        Some(_) => ("f.entry_id", "audit_log_phones f"),
        None => ("f.id", "audit_log f"),
    };
    if let Some(phone) = &filter.phone {
        wanted.add("f.phone = ?", Box::new(phone.as_str().to_owned()));
    } else if let Some(action) = filter.action.as_ref().filter(|action| action.contains('.')) {
        wanted.add("f.action = ?", Box::new(action.clone()));
    }
    if let Some(since) = filter.since {
        // Somewhat earlier: an id may be created shortly before or after the stored time.
        let first = rows::first_id_of(since - time::Duration::minutes(1));
        wanted.add(&format!("{id} >= ?"), Box::new(first));
    }
    if let Some(before) = filter.before {
        wanted.add(&format!("{id} < ?"), Box::new(before));
    }
    let found_by = wanted.take();
    format!(
        "SELECT {id} AS id FROM {from} WHERE {found_by} ORDER BY {id} DESC LIMIT {}",
        max_scanned_rows!()
    )
}

/// The list statement and its values.
fn listed(filter: &AuditFilter, limit: usize) -> (Statement, Vec<Parameter>) {
    let mut wanted = Conditions::default();
    let looked_at = looked_at(filter, &mut wanted);
    if let Some(since) = filter.since {
        wanted.add("a.at >= ?", Box::new(since));
    }
    if let Some(actor) = &filter.actor {
        let condition = "EXISTS (SELECT FROM unnest(?::text[]) w WHERE lower(w) IN \
                         (lower(a.actor), lower(a.actor_name), a.token_id::text))";
        // Entries are immutable: old ones have names as earlier versions stored them.
        wanted.add(condition, Box::new(vec![normal_name(actor), actor.trim().to_owned()]));
    }
    if let Some(action) = &filter.action {
        let by = if action.contains('.') { "a.action = ?" } else { "a.subject_kind = ?" };
        wanted.add(by, Box::new(action.clone()));
    }
    let conditions = wanted.take();
    wanted.values.push(Box::new(i64::try_from(limit).unwrap_or(i64::MAX)));
    let text = format!(
        "SELECT a.id, a.at, a.actor_kind, a.actor, a.actor_name, a.token_id, a.action, \
         a.subject_kind, a.subject_id, a.subject_phone, a.reason, a.request_id, a.details, \
         a.outcome, a.peer, (SELECT count(*) FROM audit_log_phones n WHERE n.entry_id = a.id) AS phones \
         FROM ({looked_at}) AS f JOIN audit_log a ON a.id = f.id \
         WHERE {conditions} ORDER BY f.id DESC LIMIT ${}",
        wanted.values.len()
    );
    (Statement::built(concat!(module_path!(), "::listed"), text).once(), wanted.values)
}

/// The statement that finds the last row that [`listed`] scans, and its values.
fn last_looked_at(filter: &AuditFilter) -> (Statement, Vec<Parameter>) {
    let mut wanted = Conditions::default();
    let text = format!(
        "SELECT f.id FROM ({}) AS f ORDER BY f.id DESC LIMIT 1 OFFSET {}::bigint - 1",
        looked_at(filter, &mut wanted),
        max_scanned_rows!()
    );
    (Statement::built(concat!(module_path!(), "::last_looked_at"), text).once(), wanted.values)
}

/// Every form of [`listed`].
pub(super) fn built() -> Vec<Statement> {
    let forms = (0..1 << 4).flat_map(|given: u8| {
        [None, Some("message"), Some("message.show")].map(|action| AuditFilter {
            since: (given & 1 != 0).then_some(OffsetDateTime::UNIX_EPOCH),
            phone: (given & 2 != 0).then(|| Phone::from_stored("")),
            actor: (given & 4 != 0).then(String::new),
            action: action.map(str::to_owned),
            before: (given & 8 != 0).then(Uuid::nil),
        })
    });
    forms.flat_map(|filter| [listed(&filter, 1).0, last_looked_at(&filter).0]).collect()
}

/// Entries by filter, newest first.
pub async fn list(
    client: &Client,
    filter: &AuditFilter,
    limit: usize,
) -> Result<ListPage<AuditRecord>, Error> {
    let (statement, values) = listed(filter, limit);
    let found = client.query(&statement, &parameters(&values)).await?;
    let found = found.iter().map(recorded).collect::<Result<Vec<_>, _>>()?;
    if found.len() >= limit {
        return Ok(ListPage { items: found, cut: None });
    }
    let (statement, values) = last_looked_at(filter);
    let row = client.query_opt(&statement, &parameters(&values)).await?;
    let cut = row
        .map(|row| Ok::<_, Error>(ScanPosition { at: None, id: row.try_get("id")? }))
        .transpose()?;
    Ok(ListPage::new(found, cut, |entry, cut| entry.id < cut.id))
}

fn recorded(row: &Row) -> Result<AuditRecord, Error> {
    Ok(AuditRecord {
        id: row.try_get("id")?,
        at: row.try_get("at")?,
        actor_kind: row.try_get("actor_kind")?,
        actor: row.try_get("actor")?,
        actor_name: row.try_get("actor_name")?,
        token: row.try_get("token_id")?,
        action: row.try_get("action")?,
        subject_kind: row.try_get("subject_kind")?,
        subject: row.try_get("subject_id")?,
        phone: row.try_get::<_, Option<&str>>("subject_phone")?.map(Phone::from_stored),
        reason: row.try_get("reason")?,
        request: row.try_get("request_id")?,
        details: row.try_get("details")?,
        outcome: row.try_get("outcome")?,
        peer: row.try_get("peer")?,
        phones: row.try_get("phones")?,
    })
}

/// When an action last completed; entries that record only its start are ignored.
pub async fn last_done(
    client: &Client,
    action: AuditAction,
) -> Result<Option<OffsetDateTime>, Error> {
    let row = client.query_opt(&LAST_DONE, &[&action.name()]).await?;
    Ok(row.map(|row| row.try_get("at")).transpose()?)
}

/// Whether the log has a complete backup that was made with a key.
pub async fn has_backup_of_key(client: &Client, key: &str) -> Result<bool, Error> {
    Ok(client.query_one(&HAS_BACKUP_OF_KEY, &[&key]).await?.try_get("is_there")?)
}

/// Deletes at most `limit` entries older than a time, oldest first. Returns how many.
pub async fn expire(client: &Client, before: OffsetDateTime, limit: i64) -> Result<u64, Error> {
    let removed: i64 = client.query_one(&EXPIRE, &[&before, &limit]).await?.try_get("removed")?;
    Ok(u64::try_from(removed).unwrap_or_default())
}
