//! Routes that need no token.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use warp::reply::Response;

use crate::server::{
    context::SharedContext,
    http::{health, registrations},
    openapi, reply,
    route::{Route, Who::Anyone, Writes::Registrations, get, post},
};

pub(super) fn rows() -> Vec<Route> {
    vec![
        get("/health", Anyone, health::whole)
.summary("Show the health of this process and its dependencies").gives_handwritten(200, "Health").query(&["history: true to include the last 50 results of each dependency; administrators only"]),
        get("/health/live", Anyone, health::live)
.summary("Liveness: the process answers").gives_handwritten(200, "Health"),
        get("/health/ready", Anyone, health::ready)
.summary("Readiness: 200 if the process accepts requests, else 503").gives_handwritten(200, "Health"), get("/openapi.json", Anyone, description).summary("Show this OpenAPI document").gives_handwritten(200, "Object"),
        post("/api/v1/registrations", Anyone, registrations::request)
            .summary("Ask for a one-time code for a phone number")
            .takes::<registrations::RegistrationBody>()
            .gives::<registrations::RegistrationView>(202)
            .writes(Registrations),
        post("/api/v1/registrations/{id}/verify", Anyone, registrations::verify)
            .summary("Exchange the code of a registration for an access token")
            .takes::<registrations::VerifyBody>()
            .gives::<registrations::NewSessionView>(200)
            .writes(Registrations),
        post("/api/v1/registrations/{id}/resend", Anyone, registrations::resend)
            .summary("Send the code of a registration again")
            .gives::<registrations::RegistrationView>(202)
            .writes(Registrations),
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
