//! A route: path, callers, input, output and handler. The rows are in [`super::routes`]; dispatch,
//! authorisation, size limits, metric labels, the OpenAPI description and the tests with wrong callers follow
//! from them.

use std::{borrow::Cow, collections::BTreeSet, pin::Pin};

use http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Map, Value};
use utoipa::{
    ToSchema,
    openapi::{RefOr, schema::Schema},
};
use warp::reply::Response;

pub use super::allowed_callers::{Who, Writes};
use super::{
    context::SharedContext,
    pagination,
    reply::{Problem, code},
    size_limits::{DOCUMENT_LEN, MAX_BATCH_LEN, MAX_JSON_LEN, MAX_UNREAD_LINES_LEN, RECEIPT_LEN},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// None. A body that is sent is discarded.
    None,
    /// JSON of at most this many bytes.
    Json(usize),
    /// A stream of at most this many bytes, which the handler reads.
    Stream(usize),
}

/// The schema of a body or response, by its name in the OpenAPI description.
pub struct BodySchema {
    pub name: Cow<'static, str>,
    collect: fn(&mut Map<String, Value>),
}

impl BodySchema {
    pub fn of<T: ToSchema>() -> BodySchema {
        BodySchema { name: T::name(), collect: collect::<T> }
    }

    /// A schema of `openapi/handwritten.rs`.
    pub fn handwritten(name: &'static str) -> BodySchema {
        BodySchema { name: Cow::Borrowed(name), collect: |_| {} }
    }

    pub fn collect(&self, shapes: &mut Map<String, Value>) {
        (self.collect)(shapes);
    }
}

/// Adds the schema of a type and those that it refers to.
pub fn collect<T: ToSchema>(shapes: &mut Map<String, Value>) {
    let mut parts: Vec<(String, RefOr<Schema>)> = Vec::new();
    T::schemas(&mut parts);
    parts.push((T::name().into_owned(), T::schema()));
    for (name, schema) in parts {
        shapes.entry(name).or_insert_with(|| serde_json::to_value(schema).unwrap_or_default());
    }
}

pub enum RouteResponse {
    Empty,
    One(BodySchema),
    /// A page of a list: `items` and `next`.
    Page(BodySchema),
    /// A document per line.
    Lines(BodySchema),
}

type HandlerFuture = Pin<Box<dyn Future<Output = Response> + Send>>;
type Handler = Box<dyn Fn(SharedContext, Vec<String>) -> HandlerFuture + Send + Sync>;

/// An async function of the request, and of the variable part of its path.
pub trait IntoHandler<Captured> {
    fn handler(self) -> Handler;
}

impl<F, R> IntoHandler<()> for F
where
    F: Fn(SharedContext) -> R + Send + Sync + 'static,
    R: Future<Output = Response> + Send + 'static,
{
    fn handler(self) -> Handler {
        Box::new(move |context, _| Box::pin(self(context)))
    }
}

impl<F, R> IntoHandler<(String,)> for F
where
    F: Fn(String, SharedContext) -> R + Send + Sync + 'static,
    R: Future<Output = Response> + Send + 'static,
{
    fn handler(self) -> Handler {
        Box::new(move |context, captured| {
            Box::pin(self(captured.into_iter().next().unwrap_or_default(), context))
        })
    }
}

pub struct Route {
    pub method: Method,
    /// The path, with variables in braces. Also the label in metrics.
    pub path: &'static str,
    pub who: Who,
    pub body: Body,
    /// The schema of the body.
    pub takes: Option<BodySchema>,
    /// The status of a successful response.
    pub status: u16,
    pub answer: RouteResponse,
    pub summary: &'static str,
    /// Parameters of the query, as `name: what`.
    pub query: &'static [&'static str],
    /// Whether it takes an `Idempotency-Key`.
    pub is_keyed: bool,
    pub writes: Writes,
    /// Bytes that are reserved for the response: wanted, and the least that will do. Unset: the default of its
    /// kind.
    room: Option<(usize, usize)>,
    /// Part of the API of the existing system: matched without case, answered in its format, and not in the
    /// description.
    pub is_legacy: bool,
    words: Vec<&'static str>,
    handler: Handler,
}

pub fn get<C>(path: &'static str, who: Who, handler: impl IntoHandler<C>) -> Route {
    Route::new(Method::GET, path, who, handler)
}

pub fn post<C>(path: &'static str, who: Who, handler: impl IntoHandler<C>) -> Route {
    Route::new(Method::POST, path, who, handler)
}

pub fn patch<C>(path: &'static str, who: Who, handler: impl IntoHandler<C>) -> Route {
    Route::new(Method::PATCH, path, who, handler)
}

pub fn delete<C>(path: &'static str, who: Who, handler: impl IntoHandler<C>) -> Route {
    Route::new(Method::DELETE, path, who, handler)
}

impl Route {
    fn new<C>(method: Method, path: &'static str, who: Who, handler: impl IntoHandler<C>) -> Route {
        let reads = method == Method::GET && who != Who::Admin;
        Route {
            method,
            path,
            who,
            body: Body::None,
            takes: None,
            status: 200,
            answer: RouteResponse::Empty,
            summary: "",
            query: &[],
            is_keyed: false,
            writes: if reads { Writes::Nothing } else { Writes::Other },
            room: None,
            is_legacy: false,
            words: path.split('/').collect(),
            handler: handler.handler(),
        }
    }

    pub fn summary(self, summary: &'static str) -> Route {
        Route { summary, ..self }
    }

    /// Takes a JSON document.
    pub fn takes<T: ToSchema>(self) -> Route {
        Route { body: Body::Json(MAX_JSON_LEN), takes: Some(BodySchema::of::<T>()), ..self }
    }

    /// Takes a JSON document of up to 500 items.
    pub fn takes_many<T: ToSchema>(self) -> Route {
        Route { body: Body::Json(MAX_BATCH_LEN), takes: Some(BodySchema::of::<T>()), ..self }
    }

    /// Takes a JSON document without a schema.
    pub fn reads(self, limit: usize) -> Route {
        Route { body: Body::Json(limit), ..self }
    }

    /// Returns one document, with this status.
    pub fn gives<T: ToSchema>(self, status: u16) -> Route {
        Route { status, answer: RouteResponse::One(BodySchema::of::<T>()), ..self }
    }

    /// Returns a document with a handwritten schema.
    pub fn gives_handwritten(self, status: u16, name: &'static str) -> Route {
        Route { status, answer: RouteResponse::One(BodySchema::handwritten(name)), ..self }
    }

    /// Returns a page of a list.
    pub fn gives_page<T: ToSchema>(self) -> Route {
        Route { answer: RouteResponse::Page(BodySchema::of::<T>()), ..self }.paged()
    }

    /// Returns a list that is cut at the reserved size.
    pub fn paged(self) -> Route {
        self.reserves(pagination::MAX_PAGE_LEN, pagination::MIN_PAGE_LEN)
    }

    /// Reserves `wanted` bytes for the response, or `least`.
    pub fn reserves(self, wanted: usize, least: usize) -> Route {
        Route { room: Some((wanted, least)), ..self }
    }

    /// Returns a document per line.
    pub fn gives_lines(self, shape: BodySchema) -> Route {
        Route { answer: RouteResponse::Lines(shape), ..self }
    }

    /// Returns no body.
    pub fn gives_nothing(self) -> Route {
        Route { status: 204, ..self }
    }

    pub fn query(self, query: &'static [&'static str]) -> Route {
        Route { query, ..self }
    }

    /// Sends messages, which the use case counts.
    pub fn sends(self) -> Route {
        self.writes(Writes::Messages)
    }

    /// What it stores. The default is nothing for a `GET`, apart from the audit log, and [`Writes::Other`] for
    /// other methods.
    pub fn writes(self, writes: Writes) -> Route {
        Route { writes, ..self }
    }

    pub fn keyed(self) -> Route {
        Route { is_keyed: true, ..self }
    }

    pub fn legacy(self) -> Route {
        Route { is_legacy: true, ..self }
    }

    /// Bytes to reserve for the response: wanted, and the least that will do.
    pub fn answer_room(&self) -> (usize, usize) {
        self.room.unwrap_or(match self.answer {
            RouteResponse::Lines(_) => (MAX_UNREAD_LINES_LEN, MAX_UNREAD_LINES_LEN),
            _ if self.method == Method::GET => (DOCUMENT_LEN, RECEIPT_LEN),
            _ => (RECEIPT_LEN, RECEIPT_LEN),
        })
    }

    pub fn parameters(&self) -> impl Iterator<Item = &'static str> {
        self.query.iter().filter_map(|text| Some(text.split_once(": ")?.0))
    }

    /// The variable parts of a path, if it matches.
    fn captures(&self, given: &[&str]) -> Option<Vec<String>> {
        let is_variable = |word: &str| word.starts_with('{');
        let fits = self.words.len() == given.len()
            && self
                .words
                .iter()
                .zip(given)
                .all(|(word, given)| word == given || is_variable(word) && !given.is_empty());
        let pairs = self.words.iter().zip(given).filter(|(word, _)| is_variable(word));
        fits.then(|| pairs.map(|(_, given)| (*given).to_owned()).collect())
    }

    pub async fn answer(&self, context: SharedContext, captured: Vec<String>) -> Response {
        (self.handler)(context, captured).await
    }
}

pub struct RouteTable {
    rows: Vec<Route>,
}

/// Why no route matches.
#[derive(Debug)]
pub enum NoRoute {
    /// The path is unknown.
    Nothing,
    /// The path has other methods.
    Method {
        allowed: BTreeSet<String>,
        /// Whether the path is public.
        is_open: bool,
    },
}

impl NoRoute {
    /// Whether this may be told without a token.
    pub fn is_open(&self) -> bool {
        matches!(self, NoRoute::Method { is_open: true, .. })
    }

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

impl RouteTable {
    /// Of two rows that match a path, the first one counts.
    pub fn new(rows: Vec<Route>) -> RouteTable {
        RouteTable { rows }
    }

    pub fn rows(&self) -> &[Route] {
        &self.rows
    }

    /// The route of a path, and the variable parts of the path. A trailing slash is ignored.
    ///
    /// # Errors
    /// No route has this path and method.
    pub fn find(&self, method: &Method, path: &str) -> Result<(&Route, Vec<String>), NoRoute> {
        let path = path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path);
        let words: Vec<&str> = path.split('/').collect();
        let (mut allowed, mut is_open) = (BTreeSet::new(), false);
        for route in &self.rows {
            let Some(captured) = route.captures(&words) else { continue };
            // Health checks use HEAD.
            let takes_head = route.who == Who::Anyone && route.method == Method::GET;
            if route.method == method || takes_head && method == Method::HEAD {
                return Ok((route, captured));
            }
            is_open |= route.who == Who::Anyone;
            allowed.insert(route.method.to_string());
            if takes_head {
                allowed.insert("HEAD".to_owned());
            }
        }
        Err(if allowed.is_empty() {
            NoRoute::Nothing
        } else {
            NoRoute::Method { allowed, is_open }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn nothing(_: SharedContext) -> Response {
        Response::default()
    }

    async fn of_one(_: String, _: SharedContext) -> Response {
        Response::default()
    }

    #[test]
    fn an_address_is_that_of_the_first_row_that_fits() {
        let table = RouteTable::new(vec![
            get("/a/pending", Who::Mobile, nothing),
            get("/a/{id}", Who::Mobile, of_one),
            delete("/a/{id}", Who::Mobile, of_one),
            get("/open", Who::Anyone, nothing),
        ]);
        let at = |method: Method, path: &str| match table.find(&method, path) {
            Ok((route, captured)) => format!("{} {captured:?}", route.path),
            Err(NoRoute::Method { allowed, .. }) => Vec::from_iter(allowed).join(" "),
            Err(NoRoute::Nothing) => "nothing".to_owned(),
        };
        for (path, expected) in [
            ("/a/pending", "/a/pending []"),
            ("/a/pending/", "/a/pending []"),
            ("/a/x%2Fy", "/a/{id} [\"x%2Fy\"]"),
            ("/a/", "nothing"),
            ("/a//", "nothing"),
            ("/a/x/y", "nothing"),
            ("/", "nothing"),
            ("", "nothing"),
        ] {
            assert_eq!(at(Method::GET, path), expected, "{path}");
        }
        assert_eq!(at(Method::DELETE, "/a/x"), "/a/{id} [\"x\"]");
        assert_eq!(at(Method::PUT, "/a/x"), "DELETE GET");
        assert_eq!(at(Method::HEAD, "/open"), "/open []");
        assert_eq!(at(Method::PUT, "/open"), "GET HEAD");
        assert_eq!(at(Method::HEAD, "/a/x"), "DELETE GET");
    }
}
