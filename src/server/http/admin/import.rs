//! `/admin/import`: data of the legacy system, in batches.

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};
use warp::reply::Response;

use super::because;
use crate::{
    app::{
        admin::import::{ImportIds, ImportResult, ImportSource, Imported, SourceRow, Under},
        blocking::run_blocking,
    },
    server::{
        bounded_list::{BoundedList, parse_item},
        context::{RequestContext, SharedContext, unreadable},
        reply::{self, Problem, answer},
        size_limits::MAX_BATCH_LEN,
    },
};

/// Maximum length of a file name, in characters.
const MAX_NAME_LEN: usize = 200;

/// Messages of the legacy system.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object with rows")]
#[schema(as = MessageRows)]
pub(in crate::server) struct MessagesBody<'a> {
    /// 1 to 500 rows, values by column name.
    #[schema(value_type = Vec<Object>)]
    #[serde(borrow)]
    rows: BoundedList<&'a RawValue>,
    /// Id or name of the business user to use for rows whose sender is missing or unknown.
    from: Option<String>,
    /// File name to show in the timeline of the messages, 1 to 200 characters.
    file: Option<String>,
    /// `import` from the response to an earlier call, to continue that import.
    import: Option<uuid::Uuid>,
    /// Derive new, time-ordered ids from the given ones.
    #[serde(default)]
    new_ids: bool,
    /// Check only; import nothing.
    #[serde(default)]
    dry_run: bool,
    /// Reason for the audit log, at most 500 characters.
    reason: Option<String>,
}

/// Mobile users of the legacy system.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object with rows")]
#[schema(as = UserRows)]
pub(in crate::server) struct UsersBody<'a> {
    /// 1 to 500 rows, values by column name.
    #[schema(value_type = Vec<Object>)]
    #[serde(borrow)]
    rows: BoundedList<&'a RawValue>,
    /// Check only; import nothing.
    #[serde(default)]
    dry_run: bool,
    /// Reason for the audit log, at most 500 characters.
    reason: Option<String>,
}

/// The result of an import.
#[derive(Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Imported)]
pub(crate) struct ImportedView {
    /// Whether nothing was imported.
    dry_run: bool,
    /// Pass as `import` in the following calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) import: Option<uuid::Uuid>,
    /// Rows read.
    read: usize,
    /// Rows imported.
    pub(crate) imported: usize,
    /// Rows that were imported before.
    pub(crate) already_there: usize,
    /// Rejected rows, in order.
    pub(crate) rejected: Vec<RejectedView>,
    /// Senders that are not business users here; only recipients see their messages.
    pub(crate) unknown_senders: Vec<uuid::Uuid>,
}

/// A rejected row.
#[derive(Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RejectedRow)]
pub(crate) struct RejectedView {
    /// Index of the row, from 0.
    pub(crate) row: usize,
    pub(crate) reason: String,
}

impl ImportedView {
    fn new(dry_run: bool, done: &Imported) -> ImportedView {
        let rejected = done.fates.iter().enumerate().filter_map(|(row, fate)| match fate {
            ImportResult::Refused(reason) => Some(RejectedView { row, reason: reason.clone() }),
            ImportResult::New | ImportResult::There => None,
        });
        ImportedView {
            dry_run,
            import: done.import,
            read: done.fates.len(),
            imported: done.count(|fate| *fate == ImportResult::New),
            already_there: done.count(|fate| *fate == ImportResult::There),
            rejected: rejected.collect(),
            unknown_senders: done.unknown_senders.iter().map(|id| id.0).collect(),
        }
    }
}

/// `POST /admin/import/messages`.
pub async fn messages(context: SharedContext) -> Response {
    answer(try_messages(&context).await)
}

async fn try_messages(context: &RequestContext) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let body: MessagesBody<'_> = context.json()?;
    let by = because(by, body.reason.as_deref())?;
    let sender = match &body.from {
        Some(name) => Some(context.app.identity.find_user(name).await?.id),
        None => None,
    };
    let ids = if body.new_ids { ImportIds::Derive } else { ImportIds::Keep };
    let under = match body.import {
        Some(import) => Under::Begun(import),
        None => Under::New { file: file(body.file.as_deref())? },
    };
    let source = ImportSource::Messages { under, sender, ids };
    let rows = run_blocking(context.body.len(), || rows(body.rows.within("rows")?))?;
    let done = context.app.admin.import(&by, source, &rows, body.dry_run).await?;
    Ok(reply::json(StatusCode::OK, &ImportedView::new(body.dry_run, &done)))
}

/// `POST /admin/import/users`.
pub async fn users(context: SharedContext) -> Response {
    answer(try_users(&context).await)
}

async fn try_users(context: &RequestContext) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let body: UsersBody<'_> = context.json()?;
    let by = because(by, body.reason.as_deref())?;
    let rows = run_blocking(context.body.len(), || rows(body.rows.within("rows")?))?;
    let done = context.app.admin.import(&by, ImportSource::Users, &rows, body.dry_run).await?;
    Ok(reply::json(StatusCode::OK, &ImportedView::new(body.dry_run, &done)))
}

/// The file name to store.
fn file(given: Option<&str>) -> Result<&str, Problem> {
    let name = given.unwrap_or("the admin API").trim();
    let fits = (1..=MAX_NAME_LEN).contains(&name.chars().count());
    if fits && !name.contains(char::is_control) {
        return Ok(name);
    }
    let message = format!("file must be a file name of 1 to {MAX_NAME_LEN} characters");
    Err(Problem::field("file", "invalid_name", message))
}

fn rows(given: Vec<&RawValue>) -> Result<Vec<SourceRow>, Problem> {
    let read = given.into_iter().map(|item| {
        let values: Map<String, Value> = serde_json::from_value(parse_item(item, MAX_BATCH_LEN)?)
            .map_err(|error| unreadable(&error))?;
        let mut row = SourceRow::default();
        for (name, value) in &values {
            match value {
                Value::String(text) => row.put(name, text),
                Value::Number(_) | Value::Bool(_) => row.put(name, &value.to_string()),
                Value::Null => {}
                // Not a column of the legacy system.
                Value::Array(_) | Value::Object(_) => row.put_nested(name),
            }
        }
        Ok(row)
    });
    read.collect()
}
