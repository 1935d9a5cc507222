//! Routes of administrators.

use super::PAGE;
use crate::server::{
    http::{
        admin::{
            audit, conversations as talk, import, messages as of_all, mobiles, nodes, number_check,
            privacy, tokens, users,
        },
        dead_letters, stats,
    },
    route::{BodySchema, Route, Who::Admin, delete, get, patch, post},
    view::{
        DeadLetterView, ExplanationView, MessageStoryView, MessageView, WholeConversationView,
        admin::{
            AuditView, BooksView, ConversationOverviewView, DoubtedView, IssuedView, MobileView,
            RevokedView, RotatedView, TokenView, UserView,
        },
        privacy::ExportRecord,
        stats::{NodeView, StatsView},
    },
};

const WATCH: &str = "watch: true for repeated polling: the audit log records each phone number once an \
                     hour instead of at each request";

const REGION: &str = "region: Region whose rules applied when the numbers were stored, such as YE; default: \
     phone.default_region";

pub(super) fn rows() -> Vec<Route> {
    vec![
        get("/api/v1/admin/dead-letters", Admin, dead_letters::list)
            .summary("List dead letters, newest first")
            .gives_page::<DeadLetterView<'static>>()
            .query(&[
                PAGE[0],
                PAGE[1],
                "reason: Only dead letters whose reason contains this text",
                "kind: Only dead letters of this kind, such as delivery",
                "class: Only dead letters of this class: recipient, provider, content or system",
                "since: Only dead letters at this time or later",
                "recipient: Only dead letters to this phone number",
                "numbers: false to mask phone numbers; the audit log then records none",
                WATCH,
            ]),
        post("/api/v1/admin/dead-letters/requeue", Admin, dead_letters::requeue_many)
            .summary("Requeue several dead letters, up to 1,000 per call")
            .takes::<dead_letters::BulkBody>()
            .gives_handwritten(200, "DeadLettersOutcome"),
        post("/api/v1/admin/dead-letters/delete", Admin, dead_letters::delete_many)
            .summary("Delete several dead letters, up to 1,000 per call")
            .takes::<dead_letters::BulkBody>()
            .gives_handwritten(200, "DeadLettersOutcome"),
        get("/api/v1/admin/dead-letters/{id}", Admin, dead_letters::show)
            .summary("Get a dead letter")
            .gives::<DeadLetterView<'static>>(200),
        post("/api/v1/admin/dead-letters/{id}/requeue", Admin, dead_letters::requeue)
.summary("Requeue a dead letter").gives_handwritten(200, "DeadLettersChanged"),
        delete("/api/v1/admin/dead-letters/{id}", Admin, dead_letters::delete)
.summary("Delete a dead letter").gives_handwritten(200, "DeadLettersChanged"),
        get("/api/v1/admin/stats", Admin, stats::show)
            .summary("Get statistics of the installation")
            .gives::<StatsView>(200)
            .query(&["numbers: true to show phone numbers unmasked", WATCH]),
        get("/api/v1/admin/nodes", Admin, nodes::list)
.summary("List live processes, oldest first").gives_handwritten(200, "Nodes"),
        post("/api/v1/admin/nodes/{id}/drain", Admin, nodes::drain)
            .summary(
                "Drain a process for maintenance, or undo it; takes effect within seconds",
            )
            .takes::<nodes::DrainBody>()
            .gives::<NodeView>(202),
        get("/api/v1/admin/users", Admin, users::list)
            .summary("List business users by name")
            .gives_page::<UserView<'static>>()
            .query(&PAGE),
        post("/api/v1/admin/users", Admin, users::add)
.summary("Create a business user").takes::<users::AddUserBody>()
            .gives::<UserView<'static>>(201),
        get("/api/v1/admin/users/{id}", Admin, users::show)
            .summary("Get a business user, by id or name")
            .gives::<UserView<'static>>(200),
        patch("/api/v1/admin/users/{id}", Admin, users::change)
            .summary("Change or disable a business user")
            .takes::<users::ChangeBody>()
            .gives::<UserView<'static>>(200),
        get("/api/v1/admin/mobile-users", Admin, mobiles::list)
            .summary("List mobile users by phone number")
            .gives_page::<MobileView<'static>>()
            .query(&[PAGE[0], PAGE[1], "afterPhone: Only mobile users after this phone number"]),
        post("/api/v1/admin/mobile-users", Admin, mobiles::add)
.summary("Add or verify mobile users").takes::<mobiles::AddMobilesBody>().gives_handwritten(200, "MobileUsers"),
        get("/api/v1/admin/mobile-users/{phone}", Admin, mobiles::show)
            .summary("Get a mobile user")
            .gives::<MobileView<'static>>(200),
        patch("/api/v1/admin/mobile-users/{phone}", Admin, mobiles::change)
            .summary("Change the mail address of a mobile user")
            .takes::<mobiles::ChangeMobileBody>()
            .gives::<MobileView<'static>>(200),
        post("/api/v1/admin/mobile-users/{phone}/block", Admin, mobiles::block)
            .summary("Block a phone: its tokens are refused and its connections closed within a second")
            .takes::<mobiles::BlockBody>()
            .gives::<MobileView<'static>>(200),
        post("/api/v1/admin/mobile-users/{phone}/unblock", Admin, mobiles::unblock)
            .summary("Unblock a phone")
            .takes::<mobiles::BlockBody>()
            .gives::<MobileView<'static>>(200),
        get("/api/v1/admin/mobile-users/{phone}/export", Admin, privacy::export)
            .summary(
                "Export everything stored about a phone number, one record per line; an export that \
breaks off is incomplete",
            )
            .gives_lines(BodySchema::of::<ExportRecord<'static>>()),
        post("/api/v1/admin/mobile-users/{phone}/erase", Admin, privacy::erase)
            .summary(
                "Erase everything stored about a phone number, permanently; progress lines, then the \
result or a problem. Continues if the client disconnects",
            )
            .takes::<privacy::EraseBody>()
            .gives_lines(BodySchema::handwritten("ErasureLine")),
        get("/api/v1/admin/number-check", Admin, number_check::check)
            .summary(
                "List stored phone numbers that today's rules would parse differently or reject",
            )
            .gives_page::<DoubtedView<'static>>()
            .query(&[PAGE[0], PAGE[1], REGION]),
        post("/api/v1/admin/import/messages", Admin, import::messages)
            .summary(
                "Import messages of the legacy system, up to 500 per call; idempotent",
            )
.takes_many::<import::MessagesBody<'static>>().gives::<import::ImportedView>(200), post("/api/v1/admin/import/users", Admin, import::users).summary("Import mobile users of the legacy system, up to 500 per call; idempotent").takes_many::<import::UsersBody<'static>>().gives::<import::ImportedView>(200),
        get("/api/v1/admin/tokens", Admin, tokens::list)
            .summary("List access tokens, newest first, without the tokens themselves")
            .gives_page::<TokenView<'static>>()
            .query(&[
                PAGE[0],
                PAGE[1],
                "user: Only tokens of this business user, by id or name",
                "mobile: Only tokens of this phone number",
            ]),
        post("/api/v1/admin/tokens", Admin, tokens::create)
            .summary("Create an access token; the response is the only place that shows it")
            .takes::<tokens::CreateBody>()
            .gives::<IssuedView>(201),
        post("/api/v1/admin/tokens/revoke", Admin, tokens::revoke_all)
            .summary("Revoke all access tokens of a business user or a phone")
            .takes::<tokens::RevokeBody>()
            .gives::<RevokedView>(200),
        get("/api/v1/admin/tokens/{id}", Admin, tokens::show)
            .summary("Get an access token, without the token itself")
            .gives::<TokenView<'static>>(200),
        post("/api/v1/admin/tokens/{id}/rotate", Admin, tokens::rotate)
            .summary("Replace an access token, immediately or with an overlap")
            .takes::<tokens::RotateBody>()
            .gives::<RotatedView>(201),
        delete("/api/v1/admin/tokens/{id}", Admin, tokens::revoke)
            .summary("Revoke an access token")
            .gives_nothing()
            .query(&["evenLastAdmin: true to allow revoking the last valid administrator token"]),
        get("/api/v1/admin/messages", Admin, of_all::list)
            .summary("List messages of all users, newest first")
            .gives_page::<MessageView<'static>>()
            .query(&[
                PAGE[0],
                PAGE[1],
                "status: Only messages with this status: pending, sent, delivered, read or failed",
                "to: Only messages to this phone number",
                "from: Only messages from this business user, by id or name",
                "type: Only messages of this type: oneWay or chat",
                "user: Only messages from or to this business user, by id or name",
                "since: Only messages accepted at this time or later",
                "until: Only messages accepted before this time",
                "before: Only messages older than the message with this id",
            ]),
        post("/api/v1/admin/messages", Admin, of_all::send)
            .summary("Send a message on behalf of a business user")
            .takes::<of_all::SendAsBody>()
            .gives::<MessageView<'static>>(202)
            .sends()
            .keyed(),
        get("/api/v1/admin/messages/{id}", Admin, of_all::show)
            .summary("Get a message with its timeline")
            .gives::<MessageStoryView<'static>>(200),
        delete("/api/v1/admin/messages/{id}", Admin, of_all::delete)
            .summary("Delete a message for all users; requires the header X-Reason")
            .gives_nothing(),
        get("/api/v1/admin/messages/{id}/explain", Admin, of_all::explain)
            .summary("Explain what happened to a message, and what to do next")
            .gives::<ExplanationView>(200),
        get("/api/v1/admin/conversations", Admin, talk::list)
            .summary("List conversations of all users, most recent message first")
            .gives_page::<WholeConversationView<'static>>()
            .query(&[
                PAGE[0],
                PAGE[1],
                "user: Only conversations of this business user, by id or name",
                "phone: Only conversations with this phone number",
                "status: Only conversations with this status: active, archived or closed",
            ]),
        get("/api/v1/admin/conversations/{id}", Admin, talk::show)
            .summary("Get a conversation with message counts and its last messages")
            .gives::<ConversationOverviewView<'static>>(200)
            .paged()
            .query(&["messages: Number of last messages to include, 0 to 1,000; default 10"]),
        get("/api/v1/admin/conversations/{id}/messages", Admin, talk::history)
.summary("List the messages of a conversation, oldest first; `next` is a seq").gives_handwritten(200, "History")
            .paged()
            .query(&[PAGE[0], "after: Only messages after this seq"]),
        post("/api/v1/admin/conversations/{id}/archive", Admin, talk::archive)
            .summary("Archive")
            .gives::<WholeConversationView<'static>>(200),
        post("/api/v1/admin/conversations/{id}/close", Admin, talk::close)
            .summary("Close")
            .gives::<WholeConversationView<'static>>(200),
        get("/api/v1/admin/audit", Admin, audit::access)
            .summary("List audit log entries, newest first")
            .gives_page::<AuditView<'static>>()
            .query(&[
                PAGE[0],
                PAGE[1],
                "since: Only entries at this time or later",
                "phone: Only entries about this phone number",
                "actor: Only entries by this actor: a name, an id, a token id or user@host",
                "action: Only this action, such as message.show, or all actions on one kind, such as message",
                "before: Only entries older than the entry with this id",
            ]),
        get("/api/v1/admin/books", Admin, audit::books)
            .summary("Reconcile accepted messages with stored ones")
            .gives::<BooksView<'static>>(200)
            .query(&["since: From this day on; default: the last 24 hours"]),
    ]
}
