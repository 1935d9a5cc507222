//! `/admin/stats`: how the installation does, for administrators.

use http::StatusCode;
use warp::reply::Response;

use crate::server::{
    context::{Context, Shared},
    reply::{self, Problem, answer},
    view::stats::StatsView,
};

/// `GET /admin/stats`.
pub async fn show(context: Shared) -> Response {
    answer(try_show(&context).await)
}

async fn try_show(context: &Context) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let numbers = match context.parameter("numbers")?.as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Problem::field("numbers", "unknown", "numbers is true or false")),
    };
    let snapshot = match numbers {
        true => context.app.stats_with_numbers(&by).await?,
        false => context.app.stats().await?,
    };
    Ok(reply::json(StatusCode::OK, &StatsView::new(&snapshot, numbers)))
}
