//! Conversations, for both sides.

use super::PAGE;
use crate::{
    domain::Permission::Chat,
    server::{
        http::conversations,
        route::{
            Route,
            Who::{Business, Either},
            Writes::{Conversations, Receipts},
            get, post,
        },
        view::{ConversationView, MessageView},
    },
};

pub(super) fn rows() -> Vec<Route> {
    vec![
        post("/api/v1/conversations", Either(Some(Chat)), conversations::open)
            .summary("The conversation with a phone or a business; 201 if it was begun now")
            .takes::<conversations::OpenBody>()
            .gives::<ConversationView<'static>>(200)
            .writes(Conversations),
        get("/api/v1/conversations", Either(Some(Chat)), conversations::list)
            .summary("Own conversations, the newest messages first")
            .gives_page::<ConversationView<'static>>()
            .query(&[PAGE[0], PAGE[1], "status: active, archived or closed"]),
        get("/api/v1/conversations/unread-count", Either(Some(Chat)), conversations::unread_count)
            .summary("How much was not read")
            .gives_handwritten(200, "UnreadConversations"),
        get("/api/v1/conversations/{id}", Either(Some(Chat)), conversations::show)
            .summary("One of them")
            .gives::<ConversationView<'static>>(200),
        post("/api/v1/conversations/{id}/messages", Either(Some(Chat)), conversations::say)
            .summary("Say something")
            .takes::<conversations::SayBody>()
            .gives::<MessageView<'static>>(201)
            .sends()
            .keyed(),
        get("/api/v1/conversations/{id}/messages", Either(Some(Chat)), conversations::history)
            .summary("What was said; `next` is a seq, for `before` or for `after`")
            .gives_handwritten(200, "History")
            .paged()
            .query(&[
                PAGE[0],
                "before: Only those before this seq, newest first",
                "after: Only those after this seq, oldest first",
            ]),
        post("/api/v1/conversations/{id}/read", Either(Some(Chat)), conversations::read)
            .summary("It was read, whole or up to a seq")
            .takes::<conversations::ReadBody>()
            .gives_handwritten(200, "ReadReceipt")
            .writes(Receipts),
        post("/api/v1/conversations/{id}/archive", Business(Some(Chat)), conversations::archive)
            .summary("Put it away")
            .gives::<ConversationView<'static>>(200),
        post("/api/v1/conversations/{id}/close", Business(Some(Chat)), conversations::close)
            .summary("Close it")
            .gives::<ConversationView<'static>>(200),
    ]
}
