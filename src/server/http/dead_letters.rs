//! `/admin/dead-letters`: what was given up, for administrators.

use http::StatusCode;
use serde::Deserialize;
use warp::reply::Response;

use crate::{
    app::dead_letters::{Action, CHANGED_AT_ONCE, Outcome},
    domain::{DeadLetterClass, DeadLetterId, MessageId},
    server::{
        context::{RequestContext, SharedContext, cursor, read_time},
        http::admin,
        reply::{self, Problem, answer},
        view::{
            self,
            bulk::{ChangedView, MatchedView},
        },
    },
    store::dead_letters::{DeadLetter, Filter},
};

/// Which dead letters a bulk action is about: ids, or conditions that must all hold.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object with a filter")]
#[schema(as = DeadLetterFilter)]
pub(in crate::server) struct BulkBody {
    #[serde(default)]
    ids: Vec<uuid::Uuid>,
    reason: Option<String>,
    kind: Option<String>,
    class: Option<String>,
    since: Option<String>,
    recipient: Option<String>,
    #[serde(default)]
    all: bool,
    #[serde(default)]
    dry_run: bool,
    /// Where the same call before this one ended.
    after: Option<String>,
}

/// `GET /admin/dead-letters`.
pub async fn list(context: SharedContext) -> Response {
    answer(try_list(&context).await)
}

async fn try_list(context: &RequestContext) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let limit = context.limit()?;
    let body = BulkBody {
        reason: context.parameter("reason")?,
        kind: context.parameter("kind")?,
        class: context.parameter("class")?,
        since: context.time_text("since")?,
        recipient: context.phone_text("recipient")?,
        ..BulkBody::default()
    };
    let mut filter = body.filter(context)?;
    filter.before = context.after()?.map(|id| DeadLetterId(id.0));
    let (numbers, watch) = (context.flag("numbers")?, context.flag("watch")?);
    let numbers = numbers.unwrap_or(true);
    // Whoever asks for a number knows it, and learns what there is of it.
    let watches = filter.recipient.is_none() && (watch.unwrap_or_default() || !numbers);
    let mut found = match (watches, numbers) {
        (false, _) => context.app.dead_letters(&by, &filter, limit).await?,
        (true, true) => {
            let found = context.app.watch_dead_letters(&by, &filter, limit).await?;
            let phones = found.items.iter().flat_map(DeadLetter::phones);
            context.app.record_watched(&by, phones).await?;
            found
        }
        (true, false) => context.app.watch_dead_letters(&by, &filter, limit).await?,
    };
    if !numbers {
        found.items = found.items.into_iter().map(DeadLetter::masked).collect();
    }
    let next = |last: &DeadLetter| cursor(MessageId(last.id.0));
    Ok(admin::page_or_cut(context, &found, next, admin::behind, view::DeadLetterView::from))
}

impl BulkBody {
    fn filter(&self, context: &RequestContext) -> Result<Filter, Problem> {
        let class = self.class.as_deref().map(|name| {
            DeadLetterClass::parse(name).ok_or_else(|| {
                let message = "class is recipient, provider, content or system";
                Problem::field("class", "unknown", message)
            })
        });
        let since = self.since.as_deref().map(|text| read_time("since", text));
        let recipient = self.recipient.as_deref();
        for (name, text) in [("reason", &self.reason), ("kind", &self.kind)] {
            if text.as_ref().is_some_and(|text| text.contains('\0')) {
                let message = format!("{name} holds the character zero, which no text here has");
                return Err(Problem::field(name, "invalid_text", message));
            }
        }
        Ok(Filter {
            ids: self.ids.iter().map(|id| DeadLetterId(*id)).collect(),
            reason: self.reason.clone(),
            kind: self.kind.clone(),
            class: class.transpose()?,
            since: since.transpose()?,
            recipient: recipient
                .map(|text| context.app.stored_phone("recipient", text))
                .transpose()?,
            before: None,
        })
    }

    fn names_any(&self) -> bool {
        !self.ids.is_empty()
            // The empty text is in every reason.
            || self.reason.as_ref().is_some_and(|text| !text.trim().is_empty())
            || self.kind.is_some()
            || self.class.is_some()
            || self.since.is_some()
            || self.recipient.is_some()
    }
}

/// `GET /admin/dead-letters/{id}`.
pub async fn show(id: String, context: SharedContext) -> Response {
    answer(
        async {
            let by = context.administrator()?;
            let letter = context.app.dead_letter(&by, parse_id(&id)?).await?;
            Ok(reply::json(StatusCode::OK, &view::DeadLetterView::from(&letter)))
        }
        .await,
    )
}

/// `POST /admin/dead-letters/{id}/requeue`.
pub async fn requeue(id: String, context: SharedContext) -> Response {
    answer(change_one(&context, &id, Action::Requeue).await)
}

/// `DELETE /admin/dead-letters/{id}`.
pub async fn delete(id: String, context: SharedContext) -> Response {
    answer(change_one(&context, &id, Action::Delete).await)
}

async fn change_one(
    context: &RequestContext,
    id: &str,
    action: Action,
) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let filter = Filter { ids: vec![parse_id(id)?], ..Filter::default() };
    // One more than there can be, so that nothing seems to come behind it.
    let outcome = context.app.change_dead_letters(action, &by, &filter, 2, |_| ()).await?;
    if outcome.changed.is_empty() && outcome.failed.is_empty() {
        return Err(crate::app::Error::NotFound("dead letter").into());
    }
    if !outcome.failed.is_empty() {
        return Err(crate::app::Error::Unavailable.into());
    }
    Ok(reply::json(StatusCode::OK, &summary(action, &outcome)))
}

/// `POST /admin/dead-letters/requeue`.
pub async fn requeue_many(context: SharedContext) -> Response {
    answer(change_many(&context, Action::Requeue).await)
}

/// `POST /admin/dead-letters/delete`.
pub async fn delete_many(context: SharedContext) -> Response {
    answer(change_many(&context, Action::Delete).await)
}

async fn change_many(context: &RequestContext, action: Action) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let body: BulkBody = context.json()?;
    if body.ids.len() > CHANGED_AT_ONCE {
        let message = format!("at most {CHANGED_AT_ONCE} ids in one call");
        return Err(Problem::field("ids", "too_many", message));
    }
    // A filter that was forgotten, or misspelt into nothing, must not mean everything.
    if !body.names_any() && !body.all {
        let message = "say which: ids, reason, kind, class, since, recipient, or all: true";
        return Err(Problem::field("ids", "required", message));
    }
    let mut filter = body.filter(context)?;
    filter.before = body.after.as_deref().map(parse_cursor).transpose()?;
    if body.dry_run {
        let matched = context.app.count_dead_letters(&filter).await?;
        return Ok(reply::json(StatusCode::OK, &MatchedView { dry_run: true, matched }));
    }
    let outcome =
        context.app.change_dead_letters(action, &by, &filter, CHANGED_AT_ONCE, |_| ()).await?;
    Ok(reply::json(StatusCode::OK, &summary(action, &outcome)))
}

fn summary(action: Action, outcome: &Outcome) -> ChangedView {
    let done = |of: Action| (of == action).then_some(outcome.changed.len() as u64);
    let ids = |ids: &[DeadLetterId]| ids.iter().map(|id| id.0).collect();
    ChangedView {
        deleted: done(Action::Delete),
        failed: ids(&outcome.failed),
        matched: outcome.matched as u64,
        more: outcome.broke_off || outcome.next.is_some(),
        next: outcome.next.map(|id| cursor(MessageId(id.0))),
        requeued: done(Action::Requeue),
        skipped: ids(&outcome.skipped),
    }
}

fn parse_cursor(text: &str) -> Result<DeadLetterId, Problem> {
    let id = crate::server::context::parse_cursor(text);
    id.map(|id| DeadLetterId(id.0)).ok_or_else(|| {
        Problem::field("after", "invalid_cursor", "after is not a cursor of this list")
    })
}

/// What is no id names nothing.
fn parse_id(text: &str) -> Result<DeadLetterId, Problem> {
    text.parse().map_err(|_| crate::app::Error::NotFound("dead letter").into())
}
