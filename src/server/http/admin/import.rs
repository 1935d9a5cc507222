//! `/admin/import`: what the existing system has, some rows at a time.

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};
use warp::reply::Response;

use super::because;
use crate::{
    app::{
        import::{Fate, Ids, Imported, Source, SourceRow, Under},
        off_loop::off_loop,
    },
    server::{
        bounded_list::{BoundedList, parse_item},
        context::{RequestContext, SharedContext, unreadable},
        reply::{self, Problem, answer},
        size_limits::MAX_BATCH_LEN,
    },
};

/// The longest name of a file, in characters.
const MAX_NAME_LEN: usize = 200;

/// Messages of the existing system.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object with rows")]
#[schema(as = MessageRows)]
pub(in crate::server) struct MessagesBody<'a> {
    /// 1 to 500, each with its values by the names of their columns.
    #[schema(value_type = Vec<Object>)]
    #[serde(borrow)]
    rows: BoundedList<&'a RawValue>,
    /// Whose messages are of which no sender is told, or one that is no business user here.
    from: Option<String>,
    /// The name of the file that they come from: the story of a message tells of it.
    file: Option<String>,
    /// What an earlier call answered as `import`: these belong to the same.
    import: Option<uuid::Uuid>,
    /// New ids, made from theirs, in the order of time.
    #[serde(default)]
    new_ids: bool,
    /// Only look what would be done.
    #[serde(default)]
    dry_run: bool,
    reason: Option<String>,
}

/// Mobile users of the existing system.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object with rows")]
#[schema(as = UserRows)]
pub(in crate::server) struct UsersBody<'a> {
    /// 1 to 500, each with its values by the names of their columns.
    #[schema(value_type = Vec<Object>)]
    #[serde(borrow)]
    rows: BoundedList<&'a RawValue>,
    /// Only look what would be done.
    #[serde(default)]
    dry_run: bool,
    reason: Option<String>,
}

/// What became of rows.
#[derive(Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Imported)]
pub(crate) struct ImportedView {
    dry_run: bool,
    /// What messages were imported under, for the calls that follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) import: Option<uuid::Uuid>,
    read: usize,
    pub(crate) imported: usize,
    pub(crate) already_there: usize,
    /// Those that cannot be taken, in their order.
    pub(crate) rejected: Vec<RejectedView>,
    /// Senders that are no business users here: only recipients see what they sent.
    pub(crate) unknown_senders: Vec<uuid::Uuid>,
}

/// A row that cannot be taken.
#[derive(Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RejectedRow)]
pub(crate) struct RejectedView {
    /// Its place among the rows, from 0.
    pub(crate) row: usize,
    pub(crate) reason: String,
}

impl ImportedView {
    fn new(dry_run: bool, done: &Imported) -> ImportedView {
        let rejected = done.fates.iter().enumerate().filter_map(|(row, fate)| match fate {
            Fate::Refused(reason) => Some(RejectedView { row, reason: reason.clone() }),
            Fate::New | Fate::There => None,
        });
        ImportedView {
            dry_run,
            import: done.import,
            read: done.fates.len(),
            imported: done.count(|fate| *fate == Fate::New),
            already_there: done.count(|fate| *fate == Fate::There),
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
        Some(name) => Some(context.app.find_user(name).await?.id),
        None => None,
    };
    let ids = if body.new_ids { Ids::Derive } else { Ids::Keep };
    let under = match body.import {
        Some(import) => Under::Begun(import),
        None => Under::New { file: file(body.file.as_deref())? },
    };
    let source = Source::Messages { under, sender, ids };
    let rows = off_loop(context.body.len(), || rows(body.rows.within("rows")?))?;
    let done = context.app.import(&by, source, &rows, body.dry_run).await?;
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
    let rows = off_loop(context.body.len(), || rows(body.rows.within("rows")?))?;
    let done = context.app.import(&by, Source::Users, &rows, body.dry_run).await?;
    Ok(reply::json(StatusCode::OK, &ImportedView::new(body.dry_run, &done)))
}

/// The name of a file, as it is told later.
fn file(given: Option<&str>) -> Result<&str, Problem> {
    let name = given.unwrap_or("the admin API").trim();
    let fits = (1..=MAX_NAME_LEN).contains(&name.chars().count());
    if fits && !name.contains(char::is_control) {
        return Ok(name);
    }
    let message = format!("file must be a name of 1 to {MAX_NAME_LEN} characters");
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
                // No column of theirs.
                Value::Array(_) | Value::Object(_) => row.put_nested(name),
            }
        }
        Ok(row)
    });
    read.collect()
}
