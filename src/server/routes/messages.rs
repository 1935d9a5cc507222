//! Messages: sent by business users, listed by both sides, acknowledged by mobile users.

use super::PAGE;
use crate::{
    domain::Permission::SendMessages,
    server::{
        http::messages,
        route::{
            Route,
            Who::{Business, Either, Mobile},
            Writes::Receipts,
            get, post,
        },
        view::{ExplanationView, MessageView},
    },
};

pub(super) fn rows() -> Vec<Route> {
    vec![
        post("/api/v1/messages", Business(Some(SendMessages)), messages::send)
            .summary("Send a one-way message")
            .takes::<messages::SendBody>()
            .gives::<messages::Receipt<'static>>(202)
            .sends()
            .keyed(),
        post("/api/v1/messages/batch", Business(Some(SendMessages)), messages::send_batch)
            .summary("Send up to 500 one-way messages; each succeeds or fails on its own")
            .takes_many::<messages::BatchBody<'static>>()
            .gives_handwritten(200, "BatchResults")
            .sends()
            .keyed(),
        get("/api/v1/messages", Either(None), messages::list)
            .summary("List your messages, newest first")
            .gives_page::<MessageView<'static>>()
            .query(&[
                PAGE[0],
                PAGE[1],
                "status: Only messages with this status: pending, sent, delivered, read or failed",
                "to: Only messages to this phone number",
                "type: Only messages of this type: oneWay or chat",
            ]),
        get("/api/v1/messages/pending", Mobile, messages::pending)
            .summary("List unacknowledged messages, oldest first")
            .gives_page::<MessageView<'static>>()
            .query(&PAGE),
        post("/api/v1/messages/acknowledge", Mobile, messages::acknowledge)
            .summary("Acknowledge several messages")
            .takes::<messages::IdsBody>()
            .gives_handwritten(200, "Changed")
            .writes(Receipts),
        get("/api/v1/messages/{id}", Either(None), messages::show)
            .summary("Get a message")
            .gives::<MessageView<'static>>(200),
        get("/api/v1/messages/{id}/timeline", Either(None), messages::timeline)
            .summary("Get the timeline of a message, with a verdict")
            .gives::<ExplanationView>(200),
        post("/api/v1/messages/{id}/delivered", Mobile, messages::delivered)
            .summary("Acknowledge a message")
            .gives::<MessageView<'static>>(200)
            .writes(Receipts),
        post("/api/v1/messages/{id}/read", Mobile, messages::read)
            .summary("Mark as read")
            .gives::<MessageView<'static>>(200)
            .writes(Receipts),
    ]
}
