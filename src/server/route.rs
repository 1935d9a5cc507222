//! A route: its address, who may call it, what it takes and gives, and what answers it. The rows are in
//! [`super::routes`]; dispatch, authorisation, limits of bodies, metric labels, the API's description and the
//! tests with wrong callers follow from them.

use std::{borrow::Cow, collections::BTreeSet, pin::Pin};

use http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Map, Value};
use utoipa::{
    ToSchema,
    openapi::{RefOr, schema::Schema},
};
use warp::reply::Response;

pub use super::audience::{Who, Writes};
use super::{
    context::SharedContext,
    pagination,
    reply::{Problem, code},
    size_limits::{DOCUMENT_LEN, MAX_BATCH_LEN, MAX_JSON_LEN, MAX_UNREAD_LINES_LEN, RECEIPT_LEN},
};

/// What body a route takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// None. One that is sent is thrown away.
    None,
    /// JSON of at most so many bytes, read whole.
    Json(usize),
    /// Chunks, of at most so many bytes in all, which the handler takes one after the other.
    Stream(usize),
}

/// The shape of a body or an answer, by its name in the description.
pub struct BodySchema {
    /// The name.
    pub name: Cow<'static, str>,
    collect: fn(&mut Map<String, Value>),
}

impl BodySchema {
    /// That of a type.
    pub fn of<T: ToSchema>() -> BodySchema {
        BodySchema { name: T::name(), collect: collect::<T> }
    }

    /// One that is written by hand in `openapi/handwritten.rs`.
    pub fn handwritten(name: &'static str) -> BodySchema {
        BodySchema { name: Cow::Borrowed(name), collect: |_| {} }
    }

    /// Adds it and those that it is made of.
    pub fn collect(&self, shapes: &mut Map<String, Value>) {
        (self.collect)(shapes);
    }
}

/// Adds the shape of a type, and those that it is made of.
pub fn collect<T: ToSchema>(shapes: &mut Map<String, Value>) {
    let mut parts: Vec<(String, RefOr<Schema>)> = Vec::new();
    T::schemas(&mut parts);
    parts.push((T::name().into_owned(), T::schema()));
    for (name, schema) in parts {
        shapes.entry(name).or_insert_with(|| serde_json::to_value(schema).unwrap_or_default());
    }
}

/// What an answer is made of.
pub enum RouteResponse {
    /// Nothing.
    Empty,
    /// One document.
    One(BodySchema),
    /// A page of a list: `items` and `next`.
    Page(BodySchema),
    /// A document a line.
    Lines(BodySchema),
}

type HandlerFuture = Pin<Box<dyn Future<Output = Response> + Send>>;
type Handler = Box<dyn Fn(SharedContext, Vec<String>) -> HandlerFuture + Send + Sync>;

/// What can answer a route: a function of the request, and of what varies in its path.
pub trait IntoHandler<Captured> {
    /// The same for all.
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

/// A row of the table.
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, with what varies in braces. It is the label in metrics, too.
    pub path: &'static str,
    /// Who may call it.
    pub who: Who,
    /// What it takes.
    pub body: Body,
    /// The shape of what it takes.
    pub takes: Option<BodySchema>,
    /// The status of success.
    pub status: u16,
    /// What it gives.
    pub answer: RouteResponse,
    /// What it is for.
    pub summary: &'static str,
    /// Parameters of the query, as `name: what`.
    pub query: &'static [&'static str],
    /// Whether it takes an `Idempotency-Key`.
    pub is_keyed: bool,
    /// What it stores, and with that what limits it.
    pub writes: Writes,
    /// The bytes that are reserved for its answer before that is known, and how few will do when there is no room for
    /// as many; unset: as usual for its kind.
    room: Option<(usize, usize)>,
    /// Whether it is part of the existing system's API: found in any case, answered in its form, and not in
    /// the description.
    pub is_legacy: bool,
    words: Vec<&'static str>,
    handler: Handler,
}

/// `GET`.
pub fn get<C>(path: &'static str, who: Who, handler: impl IntoHandler<C>) -> Route {
    Route::new(Method::GET, path, who, handler)
}

/// `POST`.
pub fn post<C>(path: &'static str, who: Who, handler: impl IntoHandler<C>) -> Route {
    Route::new(Method::POST, path, who, handler)
}

/// `PATCH`.
pub fn patch<C>(path: &'static str, who: Who, handler: impl IntoHandler<C>) -> Route {
    Route::new(Method::PATCH, path, who, handler)
}

/// `DELETE`.
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

    /// Says what it is for.
    pub fn summary(self, summary: &'static str) -> Route {
        Route { summary, ..self }
    }

    /// It takes a document of usual size.
    pub fn takes<T: ToSchema>(self) -> Route {
        Route { body: Body::Json(MAX_JSON_LEN), takes: Some(BodySchema::of::<T>()), ..self }
    }

    /// It takes a document of up to 500 items.
    pub fn takes_many<T: ToSchema>(self) -> Route {
        Route { body: Body::Json(MAX_BATCH_LEN), takes: Some(BodySchema::of::<T>()), ..self }
    }

    /// It takes a document that is not described.
    pub fn reads(self, limit: usize) -> Route {
        Route { body: Body::Json(limit), ..self }
    }

    /// It gives one document, with this status.
    pub fn gives<T: ToSchema>(self, status: u16) -> Route {
        Route { status, answer: RouteResponse::One(BodySchema::of::<T>()), ..self }
    }

    /// It gives a document whose shape is written by hand.
    pub fn gives_handwritten(self, status: u16, name: &'static str) -> Route {
        Route { status, answer: RouteResponse::One(BodySchema::handwritten(name)), ..self }
    }

    /// It gives a page of a list.
    pub fn gives_page<T: ToSchema>(self) -> Route {
        Route { answer: RouteResponse::Page(BodySchema::of::<T>()), ..self }.paged()
    }

    /// It gives a list that is cut at the room that there is for it.
    pub fn paged(self) -> Route {
        self.reserves(pagination::MAX_PAGE_LEN, pagination::MIN_PAGE_LEN)
    }

    /// So many bytes are reserved for its answer, or at least as many.
    pub fn reserves(self, wanted: usize, least: usize) -> Route {
        Route { room: Some((wanted, least)), ..self }
    }

    /// It gives a document a line.
    pub fn gives_lines(self, shape: BodySchema) -> Route {
        Route { answer: RouteResponse::Lines(shape), ..self }
    }

    /// It gives nothing but a status.
    pub fn gives_nothing(self) -> Route {
        Route { status: 204, ..self }
    }

    /// Its parameters.
    pub fn query(self, query: &'static [&'static str]) -> Route {
        Route { query, ..self }
    }

    /// It sends messages: within the sender's limit, and once for each `Idempotency-Key`.
    pub fn sends(self) -> Route {
        self.writes(Writes::Messages)
    }

    /// It stores this. Without it a `GET` stores nothing but an entry in the audit log, and all others
    /// [`Writes::Other`].
    pub fn writes(self, writes: Writes) -> Route {
        Route { writes, ..self }
    }

    /// It takes an `Idempotency-Key`.
    pub fn keyed(self) -> Route {
        Route { is_keyed: true, ..self }
    }

    /// It belongs to the existing system's API.
    pub fn legacy(self) -> Route {
        Route { is_legacy: true, ..self }
    }

    /// The bytes that are reserved for its answer before that is known, and how few will do when there is no room for
    /// as many.
    pub fn answer_room(&self) -> (usize, usize) {
        self.room.unwrap_or(match self.answer {
            RouteResponse::Lines(_) => (MAX_UNREAD_LINES_LEN, MAX_UNREAD_LINES_LEN),
            _ if self.method == Method::GET => (DOCUMENT_LEN, RECEIPT_LEN),
            _ => (RECEIPT_LEN, RECEIPT_LEN),
        })
    }

    /// The names of its parameters.
    pub fn parameters(&self) -> impl Iterator<Item = &'static str> {
        self.query.iter().filter_map(|text| Some(text.split_once(": ")?.0))
    }

    /// What varies in a path of these words, if it is one of this route.
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

    /// Answers a request that was admitted.
    pub async fn answer(&self, context: SharedContext, captured: Vec<String>) -> Response {
        (self.handler)(context, captured).await
    }
}

/// All routes.
pub struct RouteTable {
    rows: Vec<Route>,
}

/// Why no route answers.
#[derive(Debug)]
pub enum NoRoute {
    /// There is nothing at the address.
    Nothing,
    /// It takes other methods.
    Method {
        /// Those.
        allowed: BTreeSet<String>,
        /// Whether it is open to everybody.
        is_open: bool,
    },
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
        let text = format!("this address takes {allowed}");
        let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", text);
        let mut response = problem.into_response();
        if let Ok(allowed) = HeaderValue::from_str(&allowed) {
            response.headers_mut().insert(header::ALLOW, allowed);
        }
        response
    }
}

fn nothing() -> Problem {
    let detail = "there is nothing at this address";
    Problem::new(StatusCode::NOT_FOUND, code::ROUTE_NOT_FOUND, detail)
}

impl RouteTable {
    /// Of these rows. Of two that fit an address the first counts.
    pub fn new(rows: Vec<Route>) -> RouteTable {
        RouteTable { rows }
    }

    /// All rows.
    pub fn rows(&self) -> &[Route] {
        &self.rows
    }

    /// The route at an address, and what varies in its path; a slash at its end makes no difference.
    ///
    /// # Errors
    /// There is none, or not with this method.
    pub fn find(&self, method: &Method, path: &str) -> Result<(&Route, Vec<String>), NoRoute> {
        let path = path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path);
        let words: Vec<&str> = path.split('/').collect();
        let (mut allowed, mut is_open) = (BTreeSet::new(), false);
        for route in &self.rows {
            let Some(captured) = route.captures(&words) else { continue };
            // Health is looked at with HEAD by what watches it.
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
