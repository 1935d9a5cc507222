//! From an address to the answer of its route: first whether there is one, then whether the caller may, and
//! only then what it asks. The table runs inside a filter of warp.

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

/// A request that its route may answer.
#[derive(Clone)]
struct Admitted {
    route: &'static Route,
    captured: Vec<String>,
    context: SharedContext,
}

/// The filter. It takes requests that carry what [`answer`] gives them.
pub fn filter() -> BoxedFilter<(Response,)> {
    warp::ext::get::<Admitted>()
        .then(|admitted: Admitted| async move {
            admitted.route.answer(admitted.context, admitted.captured).await
        })
        .recover(rejected)
        .unify()
        .boxed()
}

/// The route at an address, and what varies in its path.
///
/// # Errors
/// There is none, or not with this method.
pub fn route_at(method: &Method, path: &str) -> Result<(&'static Route, Vec<String>), NoRoute> {
    routes::table().find(method, path)
}

/// Whether a route knows each parameter of a query: one that is misspelt would else be a condition that does not
/// hold.
///
/// # Errors
/// It does not know one.
pub fn check_query(route: &Route, query: &str) -> Result<(), Problem> {
    // What the existing programs send is theirs, and what watches health may add anything.
    let is_free = route.is_legacy || route.who == Who::Anyone && route.query.is_empty();
    if is_free || query.is_empty() {
        return Ok(());
    }
    let known: Vec<&str> = route.parameters().collect();
    unknown_parameter(query, &known).map_or(Ok(()), Err)
}

/// What a route answers to a request that it may answer.
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
    tracing::warn!(?rejection, "a request was rejected for an unforeseen reason");
    Ok(Problem::bad_request("bad_request", "the request cannot be understood").into_response())
}
