//! Every path of the HTTP API, on one page.
//!
//! Each route is boxed: unboxed, the type of the whole table grows past what the compiler bears. A
//! handler ends in an answer, never in a rejection, because a rejection means "try the next route".

use std::convert::Infallible;

use ::http::{Method, Request, StatusCode, Uri};
use bytes::Bytes;
use http_body_util::Empty;
use tower_service::Service as _;
use warp::{Filter, Rejection, filters::BoxedFilter, reply::Response};

use super::{
    context::{Shared, unknown_parameter},
    http::{
        admin::{self, imports, mobiles, nodes, numbers, personal, tokens, users},
        conversations, dead_letters, messages, stats,
    },
    legacy, openapi,
    reply::Problem,
};

macro_rules! route {
    ($method:ident $($path:tt)*) => {
        warp::path!($($path)*)
            .and(warp::$method())
            .and(warp::ext::get::<Shared>())
    };
}

/// The table. Requests must carry a [`Shared`] context in their extensions.
pub fn table() -> BoxedFilter<(Response,)> {
    let send = route!(post "api" / "v1" / "messages").then(messages::send).boxed();
    let batch = route!(post "api" / "v1" / "messages" / "batch").then(messages::send_batch).boxed();
    let acknowledge =
        route!(post "api" / "v1" / "messages" / "acknowledge").then(messages::acknowledge).boxed();
    let list = route!(get "api" / "v1" / "messages").then(messages::list).boxed();
    let pending = route!(get "api" / "v1" / "messages" / "pending").then(messages::pending).boxed();
    let show = route!(get "api" / "v1" / "messages" / String).then(messages::show).boxed();
    let timeline = route!(get "api" / "v1" / "messages" / String / "timeline")
        .then(messages::timeline)
        .boxed();
    let delivered = route!(post "api" / "v1" / "messages" / String / "delivered")
        .then(messages::delivered)
        .boxed();
    let read =
        route!(post "api" / "v1" / "messages" / String / "read").then(messages::read).boxed();

    send.or(batch)
        .unify()
        .or(acknowledge)
        .unify()
        .or(list)
        .unify()
        .or(pending)
        .unify()
        .boxed()
        .or(show)
        .unify()
        .or(timeline)
        .unify()
        .or(delivered)
        .unify()
        .or(read)
        .unify()
        .boxed()
        .or(chat())
        .unify()
        .boxed()
        .or(dead())
        .unify()
        .boxed()
        .or(people())
        .unify()
        .boxed()
        .or(talk())
        .unify()
        .boxed()
        .or(legacy::http::table())
        .unify()
        .boxed()
        .recover(rejected)
        .unify()
        .boxed()
}

/// What the table answers to a request with this context.
pub async fn answer(
    table: BoxedFilter<(Response,)>,
    context: Shared,
    method: Method,
    uri: Uri,
) -> Response {
    // Before the handler: a parameter that is misspelt would else be a condition that does not hold.
    let known = openapi::parameters_at(&method, uri.path());
    if let Some(problem) = known.and_then(|known| unknown_parameter(&context.query, &known)) {
        return problem.into_response();
    }
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    request.extensions_mut().insert(context);
    match warp::service(table).call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Chat.
fn chat() -> BoxedFilter<(Response,)> {
    let open = route!(post "api" / "v1" / "conversations").then(conversations::open).boxed();
    let list = route!(get "api" / "v1" / "conversations").then(conversations::list).boxed();
    let unread = route!(get "api" / "v1" / "conversations" / "unread-count")
        .then(conversations::unread_count)
        .boxed();
    let show =
        route!(get "api" / "v1" / "conversations" / String).then(conversations::show).boxed();
    let say = route!(post "api" / "v1" / "conversations" / String / "messages")
        .then(conversations::say)
        .boxed();
    let history = route!(get "api" / "v1" / "conversations" / String / "messages")
        .then(conversations::history)
        .boxed();
    let read = route!(post "api" / "v1" / "conversations" / String / "read")
        .then(conversations::read)
        .boxed();
    let archive = route!(post "api" / "v1" / "conversations" / String / "archive")
        .then(conversations::archive)
        .boxed();
    let close = route!(post "api" / "v1" / "conversations" / String / "close")
        .then(conversations::close)
        .boxed();
    open.or(list)
        .unify()
        .or(unread)
        .unify()
        .or(show)
        .unify()
        .boxed()
        .or(say)
        .unify()
        .or(history)
        .unify()
        .or(read)
        .unify()
        .boxed()
        .or(archive)
        .unify()
        .or(close)
        .unify()
        .boxed()
}

/// Dead letters, figures and processes, for administrators.
fn dead() -> BoxedFilter<(Response,)> {
    let list = route!(get "api" / "v1" / "admin" / "dead-letters").then(dead_letters::list).boxed();
    let requeue_many = route!(post "api" / "v1" / "admin" / "dead-letters" / "requeue")
        .then(dead_letters::requeue_many)
        .boxed();
    let delete_many = route!(post "api" / "v1" / "admin" / "dead-letters" / "delete")
        .then(dead_letters::delete_many)
        .boxed();
    let show = route!(get "api" / "v1" / "admin" / "dead-letters" / String)
        .then(dead_letters::show)
        .boxed();
    let requeue = route!(post "api" / "v1" / "admin" / "dead-letters" / String / "requeue")
        .then(dead_letters::requeue)
        .boxed();
    let delete = route!(delete "api" / "v1" / "admin" / "dead-letters" / String)
        .then(dead_letters::delete)
        .boxed();
    let stats = route!(get "api" / "v1" / "admin" / "stats").then(stats::show).boxed();
    let nodes = route!(get "api" / "v1" / "admin" / "nodes").then(nodes::list).boxed();
    let drain =
        route!(post "api" / "v1" / "admin" / "nodes" / String / "drain").then(nodes::drain).boxed();
    list.or(requeue_many)
        .unify()
        .or(delete_many)
        .unify()
        .or(show)
        .unify()
        .or(requeue)
        .unify()
        .or(delete)
        .unify()
        .boxed()
        .or(stats)
        .unify()
        .or(nodes)
        .unify()
        .or(drain)
        .unify()
        .boxed()
}

/// People and their tokens, for administrators.
fn people() -> BoxedFilter<(Response,)> {
    let users = route!(get "api" / "v1" / "admin" / "users").then(users::list).boxed();
    let add_user = route!(post "api" / "v1" / "admin" / "users").then(users::add).boxed();
    let user = route!(get "api" / "v1" / "admin" / "users" / String).then(users::show).boxed();
    let change =
        route!(patch "api" / "v1" / "admin" / "users" / String).then(users::change).boxed();
    let mobiles = route!(get "api" / "v1" / "admin" / "mobile-users").then(mobiles::list).boxed();
    let add_mobiles =
        route!(post "api" / "v1" / "admin" / "mobile-users").then(mobiles::add).boxed();
    let mobile =
        route!(get "api" / "v1" / "admin" / "mobile-users" / String).then(mobiles::show).boxed();
    let export = route!(get "api" / "v1" / "admin" / "mobile-users" / String / "export")
        .then(personal::export)
        .boxed();
    let erase = route!(post "api" / "v1" / "admin" / "mobile-users" / String / "erase")
        .then(personal::erase)
        .boxed();
    let check = route!(get "api" / "v1" / "admin" / "number-check").then(numbers::check).boxed();
    let import_messages =
        route!(post "api" / "v1" / "admin" / "import" / "messages").then(imports::messages).boxed();
    let import_users =
        route!(post "api" / "v1" / "admin" / "import" / "users").then(imports::users).boxed();
    let tokens = route!(get "api" / "v1" / "admin" / "tokens").then(tokens::list).boxed();
    let create = route!(post "api" / "v1" / "admin" / "tokens").then(tokens::create).boxed();
    let rotate = route!(post "api" / "v1" / "admin" / "tokens" / String / "rotate")
        .then(tokens::rotate)
        .boxed();
    let revoke =
        route!(delete "api" / "v1" / "admin" / "tokens" / String).then(tokens::revoke).boxed();
    users
        .or(add_user)
        .unify()
        .or(user)
        .unify()
        .or(change)
        .unify()
        .boxed()
        .or(mobiles)
        .unify()
        .or(add_mobiles)
        .unify()
        .or(mobile)
        .unify()
        .or(export)
        .unify()
        .or(erase)
        .unify()
        .or(check)
        .unify()
        .boxed()
        .or(import_messages)
        .unify()
        .or(import_users)
        .unify()
        .boxed()
        .or(tokens)
        .unify()
        .or(create)
        .unify()
        .or(rotate)
        .unify()
        .or(revoke)
        .unify()
        .boxed()
}

/// Everybody's messages and conversations, and who looked at them, for administrators.
fn talk() -> BoxedFilter<(Response,)> {
    use admin::{audit, conversations, messages};
    let all = route!(get "api" / "v1" / "admin" / "messages").then(messages::list).boxed();
    let send = route!(post "api" / "v1" / "admin" / "messages").then(messages::send).boxed();
    let message =
        route!(get "api" / "v1" / "admin" / "messages" / String).then(messages::show).boxed();
    let delete =
        route!(delete "api" / "v1" / "admin" / "messages" / String).then(messages::delete).boxed();
    let explain = route!(get "api" / "v1" / "admin" / "messages" / String / "explain")
        .then(messages::explain)
        .boxed();
    let list =
        route!(get "api" / "v1" / "admin" / "conversations").then(conversations::list).boxed();
    let show = route!(get "api" / "v1" / "admin" / "conversations" / String)
        .then(conversations::show)
        .boxed();
    let history = route!(get "api" / "v1" / "admin" / "conversations" / String / "messages")
        .then(conversations::history)
        .boxed();
    let archive = route!(post "api" / "v1" / "admin" / "conversations" / String / "archive")
        .then(conversations::archive)
        .boxed();
    let close = route!(post "api" / "v1" / "admin" / "conversations" / String / "close")
        .then(conversations::close)
        .boxed();
    let access = route!(get "api" / "v1" / "admin" / "audit").then(audit::access).boxed();
    let books = route!(get "api" / "v1" / "admin" / "books").then(audit::books).boxed();
    all.or(send)
        .unify()
        .or(message)
        .unify()
        .or(delete)
        .unify()
        .or(explain)
        .unify()
        .boxed()
        .or(list)
        .unify()
        .or(show)
        .unify()
        .or(history)
        .unify()
        .or(archive)
        .unify()
        .or(close)
        .unify()
        .boxed()
        .or(access)
        .unify()
        .or(books)
        .unify()
        .boxed()
}

/// Every route with its method, for the tests that must try each of them with the wrong caller.
pub const ALL: &[(&str, &str)] = &[
    ("POST", "/api/v1/messages"),
    ("POST", "/api/v1/messages/batch"),
    ("POST", "/api/v1/messages/acknowledge"),
    ("GET", "/api/v1/messages"),
    ("GET", "/api/v1/messages/pending"),
    ("GET", "/api/v1/messages/{id}"),
    ("GET", "/api/v1/messages/{id}/timeline"),
    ("POST", "/api/v1/messages/{id}/delivered"),
    ("POST", "/api/v1/messages/{id}/read"),
    ("POST", "/api/v1/conversations"),
    ("GET", "/api/v1/conversations"),
    ("GET", "/api/v1/conversations/unread-count"),
    ("GET", "/api/v1/conversations/{id}"),
    ("POST", "/api/v1/conversations/{id}/messages"),
    ("GET", "/api/v1/conversations/{id}/messages"),
    ("POST", "/api/v1/conversations/{id}/read"),
    ("POST", "/api/v1/conversations/{id}/archive"),
    ("POST", "/api/v1/conversations/{id}/close"),
    ("GET", "/api/v1/admin/dead-letters"),
    ("POST", "/api/v1/admin/dead-letters/requeue"),
    ("POST", "/api/v1/admin/dead-letters/delete"),
    ("GET", "/api/v1/admin/dead-letters/{id}"),
    ("POST", "/api/v1/admin/dead-letters/{id}/requeue"),
    ("DELETE", "/api/v1/admin/dead-letters/{id}"),
    ("GET", "/api/v1/admin/stats"),
    ("GET", "/api/v1/admin/nodes"),
    ("POST", "/api/v1/admin/nodes/{id}/drain"),
    ("GET", "/api/v1/admin/users"),
    ("POST", "/api/v1/admin/users"),
    ("GET", "/api/v1/admin/users/{id}"),
    ("PATCH", "/api/v1/admin/users/{id}"),
    ("GET", "/api/v1/admin/mobile-users"),
    ("POST", "/api/v1/admin/mobile-users"),
    ("GET", "/api/v1/admin/mobile-users/{phone}"),
    ("GET", "/api/v1/admin/mobile-users/{phone}/export"),
    ("POST", "/api/v1/admin/mobile-users/{phone}/erase"),
    ("GET", "/api/v1/admin/number-check"),
    ("POST", "/api/v1/admin/import/messages"),
    ("POST", "/api/v1/admin/import/users"),
    ("GET", "/api/v1/admin/tokens"),
    ("POST", "/api/v1/admin/tokens"),
    ("POST", "/api/v1/admin/tokens/{id}/rotate"),
    ("DELETE", "/api/v1/admin/tokens/{id}"),
    ("GET", "/api/v1/admin/messages"),
    ("POST", "/api/v1/admin/messages"),
    ("GET", "/api/v1/admin/messages/{id}"),
    ("DELETE", "/api/v1/admin/messages/{id}"),
    ("GET", "/api/v1/admin/messages/{id}/explain"),
    ("GET", "/api/v1/admin/conversations"),
    ("GET", "/api/v1/admin/conversations/{id}"),
    ("GET", "/api/v1/admin/conversations/{id}/messages"),
    ("POST", "/api/v1/admin/conversations/{id}/archive"),
    ("POST", "/api/v1/admin/conversations/{id}/close"),
    ("GET", "/api/v1/admin/audit"),
    ("GET", "/api/v1/admin/books"),
];

async fn rejected(rejection: Rejection) -> Result<Response, Infallible> {
    let problem = if rejection.is_not_found() {
        Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this address")
    } else if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "this address does not take this method",
        )
    } else {
        tracing::warn!(?rejection, "a request was rejected for an unforeseen reason");
        Problem::bad_request("bad_request", "the request cannot be understood")
    };
    Ok(problem.into_response())
}
