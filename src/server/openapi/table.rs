//! Every route as it is described.

use super::Who::{Administrator, Anyone, Business, Either, Mobile};
use super::{Described, Who};

/// A route and what is said of it. Queries are `name: what`; a body and an answer are names of shapes,
/// `[Shape]` is a page of them.
const fn route(
    method: &'static str,
    path: &'static str,
    who: Who,
    summary: &'static str,
    status: u16,
    answer: &'static str,
) -> Described {
    Described { method, path, who, summary, status, answer, lines: false, body: "", query: &[] }
}

const PAGE: [&str; 2] =
    ["limit: How many, 1 to 200; 50 without it", "after: The cursor `next` of the page before"];

const WATCH: &str = "watch: true, for who looks again and again: each number is recorded once an hour, not at each look";

/// All there are, in the order of the documentation.
pub const ROUTES: &[Described] = &[
    route("POST", "/api/v1/messages", Business, "Send a one-way message", 202, "Receipt")
        .body("NewMessage"),
    route(
        "POST",
        "/api/v1/messages/batch",
        Business,
        "Send up to 500, each for itself",
        200,
        "BatchResults",
    )
    .body("NewMessages"),
    route("GET", "/api/v1/messages", Either, "Own messages, newest first", 200, "[Message]").query(
        &[
            PAGE[0],
            PAGE[1],
            "status: Only in this status",
            "to: Only to this phone number",
            "type: Only oneWay or chat",
        ],
    ),
    route(
        "GET",
        "/api/v1/messages/pending",
        Mobile,
        "What is not acknowledged, oldest first",
        200,
        "[Message]",
    )
    .query(&PAGE),
    route("POST", "/api/v1/messages/acknowledge", Mobile, "Acknowledge many", 200, "Changed")
        .body("Ids"),
    route("GET", "/api/v1/messages/{id}", Either, "One message", 200, "Message"),
    route(
        "GET",
        "/api/v1/messages/{id}/timeline",
        Either,
        "Its story, with a verdict",
        200,
        "Explanation",
    ),
    route("POST", "/api/v1/messages/{id}/delivered", Mobile, "Acknowledge one", 200, "Message"),
    route("POST", "/api/v1/messages/{id}/read", Mobile, "It was opened", 200, "Message"),
    route(
        "POST",
        "/api/v1/conversations",
        Either,
        "The conversation with a phone or a business; 201 if it was begun now",
        200,
        "Conversation",
    )
    .body("NewConversation"),
    route(
        "GET",
        "/api/v1/conversations",
        Either,
        "Own conversations, the newest messages first",
        200,
        "[Conversation]",
    )
    .query(&[PAGE[0], PAGE[1], "status: active, archived or closed"]),
    route(
        "GET",
        "/api/v1/conversations/unread-count",
        Either,
        "How much was not read",
        200,
        "UnreadConversations",
    ),
    route("GET", "/api/v1/conversations/{id}", Either, "One of them", 200, "Conversation"),
    route("POST", "/api/v1/conversations/{id}/messages", Either, "Say something", 201, "Message")
        .body("NewChatMessage"),
    route("GET", "/api/v1/conversations/{id}/messages", Either, "What was said", 200, "History")
        .query(&[
            PAGE[0],
            "before: Only those before this seq, newest first",
            "after: Only those after this seq, oldest first",
        ]),
    route(
        "POST",
        "/api/v1/conversations/{id}/read",
        Either,
        "It was read, whole or up to a seq",
        200,
        "ReadReceipt",
    )
    .body("Reading"),
    route(
        "POST",
        "/api/v1/conversations/{id}/archive",
        Business,
        "Put it away",
        200,
        "Conversation",
    ),
    route("POST", "/api/v1/conversations/{id}/close", Business, "Close it", 200, "Conversation"),
    route(
        "GET",
        "/api/v1/admin/dead-letters",
        Administrator,
        "What was given up, newest first",
        200,
        "[DeadLetter]",
    )
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
    route(
        "POST",
        "/api/v1/admin/dead-letters/requeue",
        Administrator,
        "Put many back, up to 1,000 a call",
        200,
        "DeadLettersOutcome",
    )
    .body("DeadLetterFilter"),
    route(
        "POST",
        "/api/v1/admin/dead-letters/delete",
        Administrator,
        "Delete many, up to 1,000 a call",
        200,
        "DeadLettersOutcome",
    )
    .body("DeadLetterFilter"),
    route(
        "GET",
        "/api/v1/admin/dead-letters/{id}",
        Administrator,
        "One of them",
        200,
        "DeadLetter",
    ),
    route(
        "POST",
        "/api/v1/admin/dead-letters/{id}/requeue",
        Administrator,
        "Put one back",
        200,
        "DeadLettersChanged",
    ),
    route("DELETE", "/api/v1/admin/dead-letters/{id}", Administrator, "Delete one", 200, "DeadLettersChanged"),
    route("GET", "/api/v1/admin/stats", Administrator, "How the installation does", 200, "Stats")
        .query(&["numbers: true, to name phones as well", WATCH]),
    route(
        "GET",
        "/api/v1/admin/nodes",
        Administrator,
        "The processes that live, oldest first",
        200,
        "Nodes",
    ),
    route(
        "POST",
        "/api/v1/admin/nodes/{id}/drain",
        Administrator,
        "Empty one for maintenance, or let it take connections again; it does so within seconds",
        202,
        "Node",
    )
    .body("DrainRequest"),
    route("GET", "/api/v1/admin/users", Administrator, "Business users by name", 200, "[User]")
        .query(&PAGE),
    route("POST", "/api/v1/admin/users", Administrator, "Make one", 201, "User").body("NewUser"),
    route("GET", "/api/v1/admin/users/{id}", Administrator, "One, by id or name", 200, "User"),
    route(
        "PATCH",
        "/api/v1/admin/users/{id}",
        Administrator,
        "Change one, or shut it out",
        200,
        "User",
    )
    .body("UserChange"),
    route(
        "GET",
        "/api/v1/admin/mobile-users",
        Administrator,
        "Mobile users by number",
        200,
        "[MobileUser]",
    )
    .query(&[PAGE[0], PAGE[1], "afterPhone: Only those after this number"]),
    route(
        "POST",
        "/api/v1/admin/mobile-users",
        Administrator,
        "Add or verify some",
        200,
        "MobileUsers",
    )
    .body("NewMobileUsers"),
    route(
        "GET",
        "/api/v1/admin/mobile-users/{phone}",
        Administrator,
        "One of them",
        200,
        "MobileUser",
    ),
    route(
        "GET",
        "/api/v1/admin/mobile-users/{phone}/export",
        Administrator,
        "Everything that is stored of a number, a record a line; one that breaks off is not whole",
        200,
        "ExportRecord",
    )
    .lines(),
    route(
        "POST",
        "/api/v1/admin/mobile-users/{phone}/erase",
        Administrator,
        "Erase everything of a number, for good: how far it is, a line now and then, and at last what is \
         erased, or a problem; it goes on when nobody waits for it",
        200,
        "ErasureLine",
    )
    .lines()
    .body("ErasureRequest"),
    route(
        "GET",
        "/api/v1/admin/number-check",
        Administrator,
        "Numbers that are stored and to be looked at: read today they would be others, or none",
        200,
        "[DoubtedNumber]",
    )
    .query(&[
        PAGE[0],
        PAGE[1],
        "region: By whose rules numbers were read when they were stored; that of the configuration",
    ]),
    route(
        "POST",
        "/api/v1/admin/import/messages",
        Administrator,
        "Take over messages of the existing system, up to 500 a call; the same again changes nothing",
        200,
        "Imported",
    )
    .body("MessageRows"),
    route(
        "POST",
        "/api/v1/admin/import/users",
        Administrator,
        "Take over mobile users of the existing system, up to 500 a call",
        200,
        "Imported",
    )
    .body("UserRows"),
    route(
        "GET",
        "/api/v1/admin/tokens",
        Administrator,
        "Tokens, newest first; never themselves",
        200,
        "[Token]",
    )
    .query(&[
        PAGE[0],
        PAGE[1],
        "user: Only of this business user",
        "mobile: Only of this phone number",
    ]),
    route(
        "POST",
        "/api/v1/admin/tokens",
        Administrator,
        "Make one; it is shown this once",
        201,
        "IssuedToken",
    )
    .body("NewToken"),
    route(
        "POST",
        "/api/v1/admin/tokens/{id}/rotate",
        Administrator,
        "Replace one, with an overlap or at once",
        201,
        "RotatedToken",
    )
    .body("Rotation"),
    route("DELETE", "/api/v1/admin/tokens/{id}", Administrator, "Revoke one", 204, "")
        .query(&["evenLastAdmin: true, to revoke also the last that may administer"]),
    route(
        "GET",
        "/api/v1/admin/messages",
        Administrator,
        "Anybody's messages, newest first",
        200,
        "[Message]",
    )
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
    route(
        "POST",
        "/api/v1/admin/messages",
        Administrator,
        "Send in the name of a business user",
        202,
        "Message",
    )
    .body("NewMessageAs"),
    route(
        "GET",
        "/api/v1/admin/messages/{id}",
        Administrator,
        "One, with every step of its way",
        200,
        "MessageStory",
    ),
    route(
        "DELETE",
        "/api/v1/admin/messages/{id}",
        Administrator,
        "Delete one: nobody is shown it any more; needs the header X-Reason",
        204,
        "",
    ),
    route(
        "GET",
        "/api/v1/admin/messages/{id}/explain",
        Administrator,
        "What became of it, and what to do",
        200,
        "Explanation",
    ),
    route(
        "GET",
        "/api/v1/admin/conversations",
        Administrator,
        "Anybody's conversations, the newest messages first",
        200,
        "[WholeConversation]",
    )
    .query(&[
        PAGE[0],
        PAGE[1],
        "user: Only of this business user",
        "phone: Only with this phone number",
        "status: active, archived or closed",
    ]),
    route(
        "GET",
        "/api/v1/admin/conversations/{id}",
        Administrator,
        "One, with its counts and last messages",
        200,
        "ConversationOverview",
    )
    .query(&["messages: How many of its last messages, 0 to 1,000; 10 without it"]),
    route(
        "GET",
        "/api/v1/admin/conversations/{id}/messages",
        Administrator,
        "What was said, oldest first; `next` is a seq",
        200,
        "History",
    )
    .query(&[PAGE[0], "after: Only those after this seq"]),
    route(
        "POST",
        "/api/v1/admin/conversations/{id}/archive",
        Administrator,
        "Put it away",
        200,
        "WholeConversation",
    ),
    route(
        "POST",
        "/api/v1/admin/conversations/{id}/close",
        Administrator,
        "Close it",
        200,
        "WholeConversation",
    ),
    route(
        "GET",
        "/api/v1/admin/audit",
        Administrator,
        "Who looked at whose data, newest first",
        200,
        "[AuditEntry]",
    )
    .query(&[
        PAGE[0],
        PAGE[1],
        "since: Only of this time or later",
        "phone: Only about this phone number",
        "actor: Only by this one: a name, an id, a token's id or user@host",
        "action: Only this, such as message.show, or all of one kind, such as message",
        "before: Only older than the entry of this id",
    ]),
    route(
        "GET",
        "/api/v1/admin/books",
        Administrator,
        "Whether every message is accounted for",
        200,
        "Books",
    )
    .query(&["since: From this day on; a day ago without it"]),
    route("GET", "/health", Anyone, "How it is", 200, "Health").query(&[
        "history: true, for how each dependency was lately; only to administrators",
    ]),
    route("GET", "/health/live", Anyone, "Whether it lives", 200, "Health"),
    route("GET", "/health/ready", Anyone, "Whether it takes requests; 503 if not", 200, "Health"),
    route("GET", "/openapi.json", Anyone, "This description", 200, "Object"),
];

impl Described {
    const fn body(self, body: &'static str) -> Described {
        Described { body, ..self }
    }

    const fn lines(self) -> Described {
        Described { lines: true, ..self }
    }

    const fn query(self, query: &'static [&'static str]) -> Described {
        Described { query, ..self }
    }
}
