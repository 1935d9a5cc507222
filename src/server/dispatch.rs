//! From an address to the answer of its route: first whether there is one, then whether the caller may, and
//! only then what it asks. The table runs inside a filter of warp.

use std::convert::Infallible;

use ::http::{HeaderValue, Method, Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::Empty;
use tower_service::Service as _;
use warp::{Filter, Rejection, filters::BoxedFilter, reply::Response};

pub use super::route::NoRoute;
use super::{
    context::{Shared, unknown_parameter},
    reply::{Problem, code},
    route::{Route, Who},
    routes,
};

/// A request that its route may answer.
#[derive(Clone)]
struct Admitted {
    route: &'static Route,
    captured: Vec<String>,
    context: Shared,
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

impl NoRoute {
    /// Whether everybody may know that.
    pub fn is_open(&self) -> bool {
        matches!(self, NoRoute::Method { is_open: true, .. })
    }

    /// The answer.
    pub fn into_response(self) -> Response {
        let NoRoute::Method { allowed, .. } = self else { return nothing().into_response() };
        let allowed = Vec::from_iter(allowed).join(", ");
        let text = format!("method not allowed; use {allowed}");
        let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", text);
        let mut response = problem.into_response();
        if let Ok(allowed) = HeaderValue::from_str(&allowed) {
            response.headers_mut().insert(header::ALLOW, allowed);
        }
        response
    }
}

fn nothing() -> Problem {
    let detail = "no such route";
    Problem::new(StatusCode::NOT_FOUND, code::ROUTE_NOT_FOUND, detail)
}

/// Whether a route knows each parameter of a query: one that is misspelt would else be a condition that does not
/// hold.
///
/// # Errors
/// It does not know one.
pub fn check_query(route: &Route, query: &str) -> Result<(), Problem> {
    // What the existing programs send is theirs, and what watches health may add anything.
    let is_free = route.is_existing || route.who == Who::Anyone && route.query.is_empty();
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
    context: Shared,
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
