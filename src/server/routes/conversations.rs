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
            .summary("Open the conversation with a phone or a business user; 201 if it is new")
            .takes::<conversations::OpenBody>()
            .gives::<ConversationView<'static>>(200)
            .writes(Conversations),
        get("/api/v1/conversations", Either(Some(Chat)), conversations::list)
            .summary("List your conversations, most recent message first")
            .gives_page::<ConversationView<'static>>()
            .query(&[
                PAGE[0],
                PAGE[1],
                "status: Only conversations with this status: active, archived or closed",
            ]),
        get("/api/v1/conversations/unread-count", Either(Some(Chat)), conversations::unread_count)
            .summary("Count conversations with unread messages")
            .gives_handwritten(200, "UnreadConversations"),
        get("/api/v1/conversations/{id}", Either(Some(Chat)), conversations::show)
            .summary("Get a conversation")
            .gives::<ConversationView<'static>>(200),
        post("/api/v1/conversations/{id}/messages", Either(Some(Chat)), conversations::say)
            .summary("Send a message in a conversation")
            .takes::<conversations::SayBody>()
            .gives::<MessageView<'static>>(201)
            .sends()
            .keyed(),
        get("/api/v1/conversations/{id}/messages", Either(Some(Chat)), conversations::history)
            .summary(
                "List the messages of a conversation; `next` is a seq, for `before` or `after`",
            )
            .gives_handwritten(200, "History")
            .paged()
            .query(&[
                PAGE[0],
                "before: Only messages before this seq, newest first",
                "after: Only messages after this seq, oldest first",
            ]),
        post("/api/v1/conversations/{id}/read", Either(Some(Chat)), conversations::read)
            .summary("Mark a conversation as read, all of it or up to a seq")
            .takes::<conversations::ReadBody>()
            .gives_handwritten(200, "ReadReceipt")
            .writes(Receipts),
        post("/api/v1/conversations/{id}/archive", Business(Some(Chat)), conversations::archive)
            .summary("Archive")
            .gives::<ConversationView<'static>>(200),
        post("/api/v1/conversations/{id}/close", Business(Some(Chat)), conversations::close)
            .summary("Close")
            .gives::<ConversationView<'static>>(200),
    ]
}
