//! What administrators may.

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
            RotatedView, TokenView, UserView,
        },
        privacy::ExportRecord,
        stats::{NodeView, StatsView},
    },
};

const WATCH: &str = "watch: true, for who looks again and again: each number is recorded once an \
                     hour, not at each look";

const REGION: &str =
    "region: By whose rules numbers were read when they were stored; that of the configuration";

pub(super) fn rows() -> Vec<Route> {
    vec![
        get("/api/v1/admin/dead-letters", Admin, dead_letters::list)
            .summary("What was given up, newest first")
            .gives_page::<DeadLetterView<'static>>()
            .query(&[
                PAGE[0],
                PAGE[1],
                "reason: Only with this text in the reason",
                "kind: Only of this kind",
                "class: recipient, provider, content or system",
                "since: Only of this time or later",
                "recipient: Only to this phone number",
                "numbers: false, to mask phone numbers; then nobody's are recorded",
                WATCH,
            ]),
        post("/api/v1/admin/dead-letters/requeue", Admin, dead_letters::requeue_many)
            .summary("Put many back, up to 1,000 a call")
            .takes::<dead_letters::BulkBody>()
            .gives_handwritten(200, "DeadLettersOutcome"),
        post("/api/v1/admin/dead-letters/delete", Admin, dead_letters::delete_many)
            .summary("Delete many, up to 1,000 a call")
            .takes::<dead_letters::BulkBody>()
            .gives_handwritten(200, "DeadLettersOutcome"),
        get("/api/v1/admin/dead-letters/{id}", Admin, dead_letters::show)
            .summary("One of them")
            .gives::<DeadLetterView<'static>>(200),
        post("/api/v1/admin/dead-letters/{id}/requeue", Admin, dead_letters::requeue)
            .summary("Put one back")
            .gives_handwritten(200, "DeadLettersChanged"),
        delete("/api/v1/admin/dead-letters/{id}", Admin, dead_letters::delete)
            .summary("Delete one")
            .gives_handwritten(200, "DeadLettersChanged"),
        get("/api/v1/admin/stats", Admin, stats::show)
            .summary("How the installation does")
            .gives::<StatsView>(200)
            .query(&["numbers: true, to name phones as well", WATCH]),
        get("/api/v1/admin/nodes", Admin, nodes::list)
            .summary("The processes that live, oldest first")
            .gives_handwritten(200, "Nodes"),
        post("/api/v1/admin/nodes/{id}/drain", Admin, nodes::drain)
            .summary(
                "Empty one for maintenance, or let it take connections again; it does \
so within seconds",
            )
            .takes::<nodes::DrainBody>()
            .gives::<NodeView>(202),
        get("/api/v1/admin/users", Admin, users::list)
            .summary("Business users by name")
            .gives_page::<UserView<'static>>()
            .query(&PAGE),
        post("/api/v1/admin/users", Admin, users::add)
            .summary("Make one")
            .takes::<users::AddUserBody>()
            .gives::<UserView<'static>>(201),
        get("/api/v1/admin/users/{id}", Admin, users::show)
            .summary("One, by id or name")
            .gives::<UserView<'static>>(200),
        patch("/api/v1/admin/users/{id}", Admin, users::change)
            .summary("Change one, or shut it out")
            .takes::<users::ChangeBody>()
            .gives::<UserView<'static>>(200),
        get("/api/v1/admin/mobile-users", Admin, mobiles::list)
            .summary("Mobile users by number")
            .gives_page::<MobileView<'static>>()
            .query(&[PAGE[0], PAGE[1], "afterPhone: Only those after this number"]),
        post("/api/v1/admin/mobile-users", Admin, mobiles::add)
            .summary("Add or verify some")
            .takes::<mobiles::AddMobilesBody>()
            .gives_handwritten(200, "MobileUsers"),
        get("/api/v1/admin/mobile-users/{phone}", Admin, mobiles::show)
            .summary("One of them")
            .gives::<MobileView<'static>>(200),
        get("/api/v1/admin/mobile-users/{phone}/export", Admin, privacy::export)
            .summary(
                "Everything that is stored of a number, a record a line; one that \
breaks off is not whole",
            )
            .gives_lines(BodySchema::of::<ExportRecord<'static>>()),
        post("/api/v1/admin/mobile-users/{phone}/erase", Admin, privacy::erase)
            .summary(
                "Erase everything of a number, for good: how far it is, a line now \
and then, and at last what is erased, or a problem; it goes on \
when nobody waits for it",
            )
            .takes::<privacy::EraseBody>()
            .gives_lines(BodySchema::handwritten("ErasureLine")),
        get("/api/v1/admin/number-check", Admin, number_check::check)
            .summary(
                "Numbers that are stored and to be looked at: read today they would be \
others, or none",
            )
            .gives_page::<DoubtedView<'static>>()
            .query(&[PAGE[0], PAGE[1], REGION]),
        post("/api/v1/admin/import/messages", Admin, import::messages)
            .summary(
                "Take over messages of the existing system, up to 500 a call; the same \
again changes nothing",
            )
            .takes_many::<import::MessagesBody<'static>>()
            .gives::<import::ImportedView>(200),
        post("/api/v1/admin/import/users", Admin, import::users)
            .summary("Take over mobile users of the existing system, up to 500 a call")
            .takes_many::<import::UsersBody<'static>>()
            .gives::<import::ImportedView>(200),
        get("/api/v1/admin/tokens", Admin, tokens::list)
            .summary("Tokens, newest first; never themselves")
            .gives_page::<TokenView<'static>>()
            .query(&[
                PAGE[0],
                PAGE[1],
                "user: Only of this business user",
                "mobile: Only of this phone number",
            ]),
        post("/api/v1/admin/tokens", Admin, tokens::create)
            .summary("Make one; it is shown this once")
            .takes::<tokens::CreateBody>()
            .gives::<IssuedView>(201),
        post("/api/v1/admin/tokens/{id}/rotate", Admin, tokens::rotate)
            .summary("Replace one, with an overlap or at once")
            .takes::<tokens::RotateBody>()
            .gives::<RotatedView>(201),
        delete("/api/v1/admin/tokens/{id}", Admin, tokens::revoke)
            .summary("Revoke one")
            .gives_nothing()
            .query(&["evenLastAdmin: true, to revoke also the last that may administer"]),
        get("/api/v1/admin/messages", Admin, of_all::list)
            .summary("Anybody's messages, newest first")
            .gives_page::<MessageView<'static>>()
            .query(&[
                PAGE[0],
                PAGE[1],
                "status: Only in this status",
                "to: Only to this phone number",
                "from: Only from this business user",
                "type: Only oneWay or chat",
                "user: Only what this business user sent or is to get",
                "since: Only accepted at this time or later",
                "until: Only accepted before this time",
                "before: Only older than the message of this id",
            ]),
        post("/api/v1/admin/messages", Admin, of_all::send)
            .summary("Send in the name of a business user")
            .takes::<of_all::SendAsBody>()
            .gives::<MessageView<'static>>(202)
            .sends()
            .keyed(),
        get("/api/v1/admin/messages/{id}", Admin, of_all::show)
            .summary("One, with every step of its way")
            .gives::<MessageStoryView<'static>>(200),
        delete("/api/v1/admin/messages/{id}", Admin, of_all::delete)
            .summary("Delete one: nobody is shown it any more; needs the header X-Reason")
            .gives_nothing(),
        get("/api/v1/admin/messages/{id}/explain", Admin, of_all::explain)
            .summary("What became of it, and what to do")
            .gives::<ExplanationView>(200),
        get("/api/v1/admin/conversations", Admin, talk::list)
            .summary("Anybody's conversations, the newest messages first")
            .gives_page::<WholeConversationView<'static>>()
            .query(&[
                PAGE[0],
                PAGE[1],
                "user: Only of this business user",
                "phone: Only with this phone number",
                "status: active, archived or closed",
            ]),
        get("/api/v1/admin/conversations/{id}", Admin, talk::show)
            .summary("One, with its counts and last messages")
            .gives::<ConversationOverviewView<'static>>(200)
            .paged()
            .query(&["messages: How many of its last messages, 0 to 1,000; 10 without it"]),
        get("/api/v1/admin/conversations/{id}/messages", Admin, talk::history)
            .summary("What was said, oldest first; `next` is a seq")
            .gives_handwritten(200, "History")
            .paged()
            .query(&[PAGE[0], "after: Only those after this seq"]),
        post("/api/v1/admin/conversations/{id}/archive", Admin, talk::archive)
            .summary("Put it away")
            .gives::<WholeConversationView<'static>>(200),
        post("/api/v1/admin/conversations/{id}/close", Admin, talk::close)
            .summary("Close it")
            .gives::<WholeConversationView<'static>>(200),
        get("/api/v1/admin/audit", Admin, audit::access)
            .summary("Who looked at whose data, newest first")
            .gives_page::<AuditView<'static>>()
            .query(&[
                PAGE[0],
                PAGE[1],
                "since: Only of this time or later",
                "phone: Only about this phone number",
                "actor: Only by this one: a name, an id, a token's id or user@host",
                "action: Only this, such as message.show, or all of one kind, such as message",
                "before: Only older than the entry of this id",
            ]),
        get("/api/v1/admin/books", Admin, audit::books)
            .summary("Whether every message is accounted for")
            .gives::<BooksView<'static>>(200)
            .query(&["since: From this day on; a day ago without it"]),
    ]
}
