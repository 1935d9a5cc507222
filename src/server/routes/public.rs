//! What everybody may ask without a token.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use warp::reply::Response;

use crate::server::{
    context::SharedContext,
    http::health,
    openapi, reply,
    route::{Route, Who::Anyone, get},
};

pub(super) fn rows() -> Vec<Route> {
    vec![
        get("/health", Anyone, health::whole)
            .summary("How it is")
            .gives_handwritten(200, "Health")
            .query(&["history: true, for how each dependency was lately; only to administrators"]),
        get("/health/live", Anyone, health::live)
            .summary("Whether it lives")
            .gives_handwritten(200, "Health"),
        get("/health/ready", Anyone, health::ready)
            .summary("Whether it takes requests; 503 if not")
            .gives_handwritten(200, "Health"),
        get("/openapi.json", Anyone, description)
            .summary("This description")
            .gives_handwritten(200, "Object"),
    ]
}

/// `GET /openapi.json`.
async fn description(_: SharedContext) -> Response {
    static PAGE: LazyLock<Bytes> =
        LazyLock::new(|| openapi::description(super::all()).to_string().into());
    let mut response = reply::raw(StatusCode::OK, PAGE.clone());
    let day = HeaderValue::from_static("public, max-age=300");
    response.headers_mut().insert(header::CACHE_CONTROL, day);
    response
}
