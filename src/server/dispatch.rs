//! From a path to the response of its route: first the route, then the caller, only then the query and body.
//! The table runs inside a warp filter.

use std::convert::Infallible;

use ::http::{Method, Request};
use bytes::Bytes;
use http_body_util::Empty;
use tower_service::Service as _;
use warp::{Filter, Rejection, filters::BoxedFilter, reply::Response};

use super::{
    context::{SharedContext, unknown_parameter},
    reply::Problem,
    route::{NoRoute, Route, Who},
    routes,
};

/// An authorised request.
#[derive(Clone)]
struct Admitted {
    route: &'static Route,
    captured: Vec<String>,
    context: SharedContext,
}

/// The warp filter. Expects the extension that [`answer`] adds.
pub fn filter() -> BoxedFilter<(Response,)> {
    warp::ext::get::<Admitted>()
        .then(|admitted: Admitted| async move {
            admitted.route.answer(admitted.context, admitted.captured).await
        })
        .recover(rejected)
        .unify()
        .boxed()
}

/// The route of a path, and the variable parts of the path.
///
/// # Errors
/// No route has this path and method.
pub fn route_at(method: &Method, path: &str) -> Result<(&'static Route, Vec<String>), NoRoute> {
    routes::table().find(method, path)
}

/// Checks that a route knows every query parameter: a misspelt one would otherwise be ignored.
///
/// # Errors
/// It does not know a parameter.
pub fn check_query(route: &Route, query: &str) -> Result<(), Problem> {
    // Programs of the existing system may send anything, and so may health checks.
    let is_free = route.is_legacy || route.who == Who::Anyone && route.query.is_empty();
    if is_free || query.is_empty() {
        return Ok(());
    }
    let known: Vec<&str> = route.parameters().collect();
    unknown_parameter(query, &known).map_or(Ok(()), Err)
}

/// Runs the handler of an authorised request.
pub async fn answer(
    filter: BoxedFilter<(Response,)>,
    route: &'static Route,
    captured: Vec<String>,
    context: SharedContext,
) -> Response {
    let mut request = Request::new(Empty::<Bytes>::new());
    request.extensions_mut().insert(Admitted { route, captured, context });
    match warp::service(filter).call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

async fn rejected(rejection: Rejection) -> Result<Response, Infallible> {
    tracing::warn!(?rejection, "request rejected for an unexpected reason");
    Ok(Problem::bad_request("bad_request", "malformed request").into_response())
}
