//! `/admin/audit` and `/admin/books`: the audit log, and the reconciliation.

use http::StatusCode;
use warp::reply::Response;

use super::{behind, page_or_cut, text_of};
use crate::{
    app::admin::audit::check_action,
    domain::MessageId,
    server::{
        context::{RequestContext, SharedContext, cursor},
        reply::{self, Problem, answer},
        view::admin::{AuditView, BooksView},
    },
    store::audit::{AuditFilter, AuditRecord},
};

/// Default period of a reconciliation, in seconds.
const DEFAULT_PERIOD_SECS: i64 = 24 * 3600;

/// `GET /admin/audit`.
pub async fn access(context: SharedContext) -> Response {
    answer(try_access(&context).await)
}

async fn try_access(context: &RequestContext) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let limit = context.limit()?;
    let phone = context.phone("phone")?;
    let mut before = context.after()?.map(|id| id.0);
    if let (None, Some(text)) = (before, context.parameter("before")?) {
        let id = text.parse().map_err(|_| {
            Problem::field("before", "invalid_id", "before must be the id of an audit log entry")
        })?;
        before = Some(id);
    }
    let filter = AuditFilter {
        since: context.time("since")?,
        phone,
        actor: text_of(context, "actor")?,
        action: text_of(context, "action")?,
        before,
    };
    check_action(filter.action.as_deref())?;
    let found = context.app.admin.list_audit_log(&by, &filter, limit).await?;
    let cursor = |entry: &AuditRecord| cursor(MessageId(entry.id));
    Ok(page_or_cut(context, &found, cursor, behind, AuditView::from))
}

/// `GET /admin/books`.
pub async fn books(context: SharedContext) -> Response {
    answer(
        async {
            context.administrator()?;
            let usual = || context.app.clock().now() - time::Duration::seconds(DEFAULT_PERIOD_SECS);
            let since = context.time("since")?.unwrap_or_else(usual);
            let audit = context.app.admin.reconcile(since).await?;
            Ok(reply::json(StatusCode::OK, &BooksView::from(&audit)))
        }
        .await,
    )
}
