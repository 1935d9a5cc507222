//! What everybody may ask without a token.

use crate::server::{
    http::health,
    openapi,
    route::{Route, Who::Anyone, get},
};

pub(super) fn rows() -> Vec<Route> {
    vec![
        get("/health", Anyone, health::whole)
            .summary("How it is")
            .gives_written(200, "Health")
            .query(&["history: true, for how each dependency was lately; only to administrators"]),
        get("/health/live", Anyone, health::live)
            .summary("Whether it lives")
            .gives_written(200, "Health"),
        get("/health/ready", Anyone, health::ready)
            .summary("Whether it takes requests; 503 if not")
            .gives_written(200, "Health"),
        get("/openapi.json", Anyone, openapi::page)
            .summary("This description")
            .gives_written(200, "Object"),
    ]
}
