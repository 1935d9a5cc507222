//! The API of the legacy system.

use crate::{
    domain::Permission::SendMessages,
    server::{
        http::health,
        legacy::{self, http},
        route::{
            BATCH, Route, USUAL,
            Who::{Anyone, Business, Mobile},
            get, post,
        },
    },
};

pub(super) fn rows() -> Vec<Route> {
    let sender = Business(Some(SendMessages));
    let rows = [
        post("/api/app/message/ingestion-send-one-way-message", sender, http::send)
            .reads(USUAL)
            .sends(),
        post("/api/app/message/send-message-from-ui", sender, http::send).reads(USUAL).sends(),
        post("/api/app/message/send-one-way-message", sender, http::send).reads(USUAL).sends(),
        post("/api/app/message/ingestion-batch-message", sender, http::send_batch)
            .reads(BATCH)
            .sends(),
        get("/api/app/message/pending-messages", Mobile, http::pending).paged(),
        get("/api/app/message/one-way-messages", Business(None), http::list)
            .reserves(http::LARGEST_ANSWER, http::LARGEST_ANSWER),
        get(legacy::HEALTH, Anyone, health::status),
    ];
    rows.into_iter().map(Route::existing).collect()
}
