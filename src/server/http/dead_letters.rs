//! `/admin/dead-letters`: dead letters, for administrators.

use http::StatusCode;
use serde::Deserialize;
use warp::reply::Response;

use crate::{
    app::delivery::dead_letters::{BulkOutcome, DeadLetterAction, MAX_CHANGES},
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
    store::dead_letters::{DeadLetter, DeadLetterFilter},
};

/// A filter for dead letters: ids, or conditions that must all hold.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object with a filter")]
#[schema(as = DeadLetterFilter)]
pub(in crate::server) struct BulkBody {
    /// At most 1,000 dead letter ids.
    #[serde(default)]
    ids: Vec<uuid::Uuid>,
    /// Only dead letters whose reason contains this text.
    reason: Option<String>,
    /// Only dead letters of this kind, such as `delivery`.
    kind: Option<String>,
    /// Only dead letters of this class: `recipient`, `provider`, `content` or `system`.
    class: Option<String>,
    /// Only dead letters at this time or later.
    since: Option<String>,
    /// Only dead letters to this phone number.
    recipient: Option<String>,
    /// Must be true if no other condition is given.
    #[serde(default)]
    all: bool,
    /// Count only; change nothing.
    #[serde(default)]
    dry_run: bool,
    /// `next` of the previous call.
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
    // A caller that filters by number knows it, and learns more about it: record that.
    let watches = filter.recipient.is_none() && (watch.unwrap_or_default() || !numbers);
    let mut found = match (watches, numbers) {
        (false, _) => context.app.delivery.list_dead_letters(&by, &filter, limit).await?,
        (true, true) => {
            let found = context.app.delivery.watch_dead_letters(&by, &filter, limit).await?;
            let phones = found.items.iter().flat_map(DeadLetter::phones);
            context.app.admin.record_viewed(&by, phones).await?;
            found
        }
        (true, false) => context.app.delivery.watch_dead_letters(&by, &filter, limit).await?,
    };
    if !numbers {
        found.items = found.items.into_iter().map(DeadLetter::masked).collect();
    }
    let next = |last: &DeadLetter| cursor(MessageId(last.id.0));
    Ok(admin::page_or_cut(context, &found, next, admin::behind, view::DeadLetterView::from))
}

impl BulkBody {
    fn filter(&self, context: &RequestContext) -> Result<DeadLetterFilter, Problem> {
        let class = self.class.as_deref().map(|name| {
            DeadLetterClass::parse(name).ok_or_else(|| {
                let message = "class must be recipient, provider, content or system";
                Problem::field("class", "unknown", message)
            })
        });
        let since = self.since.as_deref().map(|text| read_time("since", text));
        let recipient = self.recipient.as_deref();
        for (name, text) in [("reason", &self.reason), ("kind", &self.kind)] {
            if text.as_ref().is_some_and(|text| text.contains('\0')) {
                let message = format!("{name} must not contain a NUL character");
                return Err(Problem::field(name, "invalid_text", message));
            }
        }
        Ok(DeadLetterFilter {
            ids: self.ids.iter().map(|id| DeadLetterId(*id)).collect(),
            reason: self.reason.clone(),
            kind: self.kind.clone(),
            class: class.transpose()?,
            since: since.transpose()?,
            recipient: recipient
                .map(|text| context.app.identity.parse_stored_phone("recipient", text))
                .transpose()?,
            before: None,
        })
    }

    fn names_any(&self) -> bool {
        !self.ids.is_empty()
            // The empty text matches every reason.
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
            let letter = context.app.delivery.show_dead_letter(&by, parse_id(&id)?).await?;
            Ok(reply::json(StatusCode::OK, &view::DeadLetterView::from(&letter)))
        }
        .await,
    )
}

/// `POST /admin/dead-letters/{id}/requeue`.
pub async fn requeue(id: String, context: SharedContext) -> Response {
    answer(change_one(&context, &id, DeadLetterAction::Requeue).await)
}

/// `DELETE /admin/dead-letters/{id}`.
pub async fn delete(id: String, context: SharedContext) -> Response {
    answer(change_one(&context, &id, DeadLetterAction::Delete).await)
}

async fn change_one(
    context: &RequestContext,
    id: &str,
    action: DeadLetterAction,
) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let filter = DeadLetterFilter { ids: vec![parse_id(id)?], ..DeadLetterFilter::default() };
    // More than can match, so that nothing seems to follow.
    let outcome = context.app.delivery.change_dead_letters(action, &by, &filter, 2, |_| ()).await?;
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
    answer(change_many(&context, DeadLetterAction::Requeue).await)
}

/// `POST /admin/dead-letters/delete`.
pub async fn delete_many(context: SharedContext) -> Response {
    answer(change_many(&context, DeadLetterAction::Delete).await)
}

async fn change_many(
    context: &RequestContext,
    action: DeadLetterAction,
) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let body: BulkBody = context.json()?;
    if body.ids.len() > MAX_CHANGES {
        let message = format!("ids must contain at most {MAX_CHANGES} ids");
        return Err(Problem::field("ids", "too_many", message));
    }
    // A missing or misspelt filter must not mean everything.
    if !body.names_any() && !body.all {
        let message =
            "missing filter: set ids, reason, kind, class, since or recipient, or all: true";
        return Err(Problem::field("ids", "required", message));
    }
    let mut filter = body.filter(context)?;
    filter.before = body.after.as_deref().map(parse_cursor).transpose()?;
    if body.dry_run {
        let matched = context.app.delivery.count_dead_letters(&filter).await?;
        return Ok(reply::json(StatusCode::OK, &MatchedView { dry_run: true, matched }));
    }
    let outcome =
        context.app.delivery.change_dead_letters(action, &by, &filter, MAX_CHANGES, |_| ()).await?;
    Ok(reply::json(StatusCode::OK, &summary(action, &outcome)))
}

fn summary(action: DeadLetterAction, outcome: &BulkOutcome) -> ChangedView {
    let done = |of: DeadLetterAction| (of == action).then_some(outcome.changed.len() as u64);
    let ids = |ids: &[DeadLetterId]| ids.iter().map(|id| id.0).collect();
    ChangedView {
        deleted: done(DeadLetterAction::Delete),
        failed: ids(&outcome.failed),
        matched: outcome.matched as u64,
        more: outcome.broke_off || outcome.next.is_some(),
        next: outcome.next.map(|id| cursor(MessageId(id.0))),
        requeued: done(DeadLetterAction::Requeue),
        skipped: ids(&outcome.skipped),
    }
}

fn parse_cursor(text: &str) -> Result<DeadLetterId, Problem> {
    let id = crate::server::context::parse_cursor(text);
    id.map(|id| DeadLetterId(id.0)).ok_or_else(|| {
        Problem::field("after", "invalid_cursor", "after is not a valid cursor for this list")
    })
}

/// An invalid id is answered like an unknown one.
fn parse_id(text: &str) -> Result<DeadLetterId, Problem> {
    text.parse().map_err(|_| crate::app::Error::NotFound("dead letter").into())
}
