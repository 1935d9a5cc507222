//! `/admin/number-check`: stored phone numbers that need a check.

use warp::reply::Response;

use super::page;
use crate::{
    domain::phone::Region,
    server::{
        context::{SharedContext, text_cursor},
        reply::{Problem, answer},
        view::admin::DoubtedView,
    },
};

/// `GET /admin/number-check`.
pub async fn check(context: SharedContext) -> Response {
    answer(
        async {
            let by = context.administrator()?;
            let limit = context.limit()?;
            let after = context.after_text()?.unwrap_or_default();
            let region = context.parameter("region")?.map(|text| text.parse::<Region>());
            let region = region
                .transpose()
                .map_err(|why| Problem::field("region", "unknown", why.to_string()))?;
            let found = context.app.admin.list_doubted_numbers(&by, region, &after, limit).await?;
            Ok(page(&context, &found, |one| text_cursor(one.phone.as_str()), DoubtedView::from))
        }
        .await,
    )
}
