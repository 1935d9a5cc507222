//! `/admin/nodes`: the processes of the installation.

use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use warp::reply::Response;

use super::{because, segment};
use crate::{
    app::{Error, process::drain},
    server::{
        context::{RequestContext, SharedContext},
        reply::{self, Problem, answer},
        view::stats::NodeView,
    },
};

#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object with undo")]
#[schema(as = DrainRequest)]
pub(in crate::server) struct DrainBody {
    /// True to accept connections again.
    #[serde(default)]
    undo: bool,
    /// Reason for the audit log, at most 500 characters.
    reason: Option<String>,
}

/// `GET /admin/nodes`.
pub async fn list(context: SharedContext) -> Response {
    answer(
        async {
            context.administrator()?;
            let nodes = context.app.process.living_nodes().await?;
            let items: Vec<NodeView> = nodes.iter().map(NodeView::from).collect();
            Ok(reply::json(StatusCode::OK, &json!({ "items": items })))
        }
        .await,
    )
}

/// `POST /admin/nodes/{id}/drain`.
pub async fn drain(id: String, context: SharedContext) -> Response {
    answer(try_drain(&id, &context).await)
}

async fn try_drain(id: &str, context: &RequestContext) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let body: DrainBody =
        if context.body.is_empty() { DrainBody::default() } else { context.json()? };
    let by = because(by, body.reason.as_deref())?;
    let id = drain::parse_name(&segment(id, "process")?).ok_or(Error::NotFound("process"))?;
    let node = context.app.process.request_drain(&by, id, !body.undo).await?;
    Ok(reply::json(StatusCode::ACCEPTED, &NodeView::from(&node)))
}
