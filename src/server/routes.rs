//! Every path of the HTTP API, on one page.
//!
//! Each route is boxed: unboxed, the type of the whole table grows past what the compiler bears. A
//! handler ends in an answer, never in a rejection, because a rejection means "try the next route".

use std::convert::Infallible;

use ::http::StatusCode;
use warp::{Filter, Rejection, filters::BoxedFilter, reply::Response};

use super::{
    context::Shared,
    http::{conversations, dead_letters, messages, stats},
    legacy,
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
        .or(admin())
        .unify()
        .boxed()
        .or(legacy::http::table())
        .unify()
        .boxed()
        .recover(rejected)
        .unify()
        .boxed()
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

/// What only administrators may.
fn admin() -> BoxedFilter<(Response,)> {
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
