//! Routes that need no token.

use crate::server::{
    http::health,
    openapi,
    route::{Route, Who::Anyone, get},
};

pub(super) fn rows() -> Vec<Route> {
    vec![
        get("/health", Anyone, health::whole)
            .summary("Show the health of this process and its dependencies")
            .gives_written(200, "Health")
            .query(&["history: true to include the last 50 results of each dependency; administrators only"]),
        get("/health/live", Anyone, health::live)
            .summary("Liveness: the process answers")
            .gives_written(200, "Health"),
        get("/health/ready", Anyone, health::ready)
            .summary("Readiness: 200 if the process accepts requests, else 503")
            .gives_written(200, "Health"),
        get("/openapi.json", Anyone, openapi::page)
            .summary("Show this OpenAPI document")
            .gives_written(200, "Object"),
    ]
}
