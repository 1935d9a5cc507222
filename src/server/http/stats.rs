//! `/admin/stats`: statistics of the installation, for administrators.

use http::StatusCode;
use warp::reply::Response;

use crate::{
    domain::Phone,
    server::{
        context::{RequestContext, SharedContext},
        reply::{self, Problem, answer},
        view::stats::StatsView,
    },
};

/// `GET /admin/stats`.
pub async fn show(context: SharedContext) -> Response {
    answer(try_show(&context).await)
}

async fn try_show(context: &RequestContext) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let (numbers, watch) = (context.flag("numbers")?, context.flag("watch")?);
    let snapshot = context.app.admin.stats().await?;
    if numbers.unwrap_or_default() {
        let phones: Vec<Phone> = snapshot.phones().cloned().collect();
        if watch.unwrap_or_default() {
            context.app.admin.record_viewed(&by, phones).await?;
        } else {
            context.app.admin.record_shown_numbers(&by, &phones).await?;
        }
    }
    Ok(reply::json(StatusCode::OK, &StatsView::new(&snapshot, numbers.unwrap_or_default())))
}
