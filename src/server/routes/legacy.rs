//! The API of the legacy system.

use crate::{
    domain::Permission::SendMessages,
    server::{
        http::health,
        legacy::{self, http, registration},
        route::{
            Route,
            Who::{Anyone, Business, Mobile},
            Writes::Registrations,
            get, post,
        },
        size_limits::{MAX_BATCH_LEN, MAX_JSON_LEN},
    },
};

pub(super) fn rows() -> Vec<Route> {
    let sender = Business(Some(SendMessages));
    let rows = [
        post("/api/app/message/ingestion-send-one-way-message", sender, http::send)
            .reads(MAX_JSON_LEN)
            .sends(),
        post("/api/app/message/send-message-from-ui", sender, http::send)
            .reads(MAX_JSON_LEN)
            .sends(),
        post("/api/app/message/send-one-way-message", sender, http::send)
            .reads(MAX_JSON_LEN)
            .sends(),
        post("/api/app/message/ingestion-batch-message", sender, http::send_batch)
            .reads(MAX_BATCH_LEN)
            .sends(),
        get("/api/app/message/pending-messages", Mobile, http::pending).paged(),
        get("/api/app/message/one-way-messages", Business(None), http::list)
            .reserves(http::MAX_RESPONSE_LEN, http::MAX_RESPONSE_LEN),
        post("/api/app/registretion/register", Anyone, registration::register)
            .reads(MAX_JSON_LEN)
            .writes(Registrations),
        post("/api/app/registretion/verify-otp", Anyone, registration::verify)
            .reads(MAX_JSON_LEN)
            .writes(Registrations),
        post("/api/app/registretion/resend-otp", Anyone, registration::resend)
            .reads(MAX_JSON_LEN)
            .writes(Registrations),
        get(legacy::HEALTH, Anyone, health::status),
    ];
    rows.into_iter().map(Route::legacy).collect()
}
