//! The description of the HTTP API (OpenAPI 3.1) at `/openapi.json`: the routes by a table that is held
//! against the real one, the shapes from the very types that are read and written.

mod table;
mod written;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};
use utoipa::{PartialSchema as _, ToSchema as _};
use warp::reply::Response;

use super::{
    http::{
        admin::{imports, messages as of_all, mobiles, nodes, personal, tokens, users},
        conversations, dead_letters, messages,
    },
    reply::{self, Problem},
    view::{self, admin},
};

pub use table::ROUTES;

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Whoever asks, without a token.
    Anyone,
    /// A business user with the permission for it.
    Business,
    /// A mobile user.
    Mobile,
    /// Either of them, of its own.
    Either,
    /// A business user with the permission Admin.
    Administrator,
}

impl Who {
    const fn tag(self) -> &'static str {
        match self {
            Who::Anyone => "anyone",
            Who::Business => "business users",
            Who::Mobile => "mobile users",
            Who::Either => "both sides",
            Who::Administrator => "administrators",
        }
    }
}

/// A route as it is described.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// The method.
    pub method: &'static str,
    /// The path, with what varies in braces.
    pub path: &'static str,
    who: Who,
    summary: &'static str,
    /// The status of success.
    status: u16,
    /// The shape of the answer; `[Shape]` is a page of them, empty is none.
    answer: &'static str,
    /// Whether the answer is many of them, a line each.
    lines: bool,
    /// The shape of the body; empty is none.
    body: &'static str,
    /// Parameters of the query, as `name: what`.
    query: &'static [&'static str],
}

/// The whole description.
pub fn description() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.to_ascii_lowercase()] = route.operation();
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "esh3ar",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Messages from a business to its users' phones, and conversations between them. \
                            Times are RFC 3339 in UTC, ids UUIDs. Failures are problems of RFC 9457 with a \
                            stable `code`.",
        },
        "paths": paths,
        "components": {
            "schemas": shapes(),
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
        "security": [{ "token": [] }],
    })
}

/// `GET /openapi.json`.
pub fn page() -> Bytes {
    description().to_string().into()
}

/// The answer to a request for it.
pub fn answer(page: &Bytes, method: &http::Method) -> Response {
    if method != http::Method::GET && method != http::Method::HEAD {
        let text = "the description is read with GET";
        return Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", text)
            .into_response();
    }
    let mut response = reply::raw(StatusCode::OK, page.clone());
    let day = HeaderValue::from_static("public, max-age=300");
    response.headers_mut().insert(header::CACHE_CONTROL, day);
    response
}

/// The parameters that the query of an address may have; `None` where there is nothing.
pub fn parameters_at(method: &http::Method, path: &str) -> Option<Vec<&'static str>> {
    // Of two that fit, the one without an id stands first in the table.
    let route = ROUTES.iter().find(|route| route.method == method.as_str() && route.is_at(path))?;
    Some(route.query.iter().filter_map(|text| Some(text.split_once(": ")?.0)).collect())
}

impl Described {
    fn is_at(&self, path: &str) -> bool {
        let (mut words, mut given) = (self.path.split('/'), path.split('/'));
        loop {
            match (words.next(), given.next()) {
                (None, None) => return true,
                (Some(word), Some(given)) if word == given => {}
                (Some(word), Some(given)) if word.starts_with('{') && !given.is_empty() => {}
                _ => return false,
            }
        }
    }

    fn operation(&self) -> Value {
        let success = match self.answer {
            "" => json!({ "description": "done" }),
            shape if self.lines => json!({
                "description": "a JSON document a line, each of this shape",
                "content": { "application/jsonl": { "schema": answered(shape) } },
            }),
            shape => json!({
                "description": "done",
                "content": { "application/json": { "schema": answered(shape) } },
            }),
        };
        let mut operation = json!({
            "summary": self.summary,
            "operationId": self.name(),
            "tags": [self.who.tag()],
            "parameters": self.parameters(),
            "responses": {
                self.status.to_string(): success,
                "default": {
                    "description": "it was not done",
                    "content": { "application/problem+json": { "schema": reference("Problem") } },
                },
            },
        });
        if !self.body.is_empty() {
            operation["requestBody"] = json!({
                "content": { "application/json": { "schema": reference(self.body) } },
            });
        }
        if self.who == Who::Anyone {
            operation["security"] = json!([]);
        }
        operation
    }

    /// The method and the words of the path.
    fn name(&self) -> String {
        let words = self.path.trim_start_matches("/api/v1").split(['/', '-', '.']);
        let words = words.map(|word| word.trim_matches(['{', '}'])).filter(|word| !word.is_empty());
        words.fold(self.method.to_ascii_lowercase(), |name, word| format!("{name}_{word}"))
    }

    fn parameters(&self) -> Vec<Value> {
        let within = self.path.split('/').filter_map(|word| {
            let name = word.strip_prefix('{')?.strip_suffix('}')?;
            Some(json!({
                "name": name, "in": "path", "required": true, "schema": { "type": "string" },
            }))
        });
        let asked = self.query.iter().filter_map(|text| {
            let (name, what) = text.split_once(": ")?;
            Some(json!({
                "name": name, "in": "query", "description": what, "schema": { "type": "string" },
            }))
        });
        let mut all: Vec<Value> = within.chain(asked).collect();
        if self.who == Who::Administrator {
            all.push(json!({
                "name": "X-Reason", "in": "header", "schema": { "type": "string", "maxLength": 500 },
                "description": "Why this is done; kept in the audit log",
            }));
        }
        if self.body.starts_with("NewMessage") {
            all.push(json!({
                "name": "Idempotency-Key", "in": "header",
                "schema": { "type": "string", "minLength": 1, "maxLength": 255 },
                "description": "The same key and body within 24 h: the first answer again",
            }));
        }
        all
    }
}

fn reference(shape: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{shape}") })
}

fn answered(shape: &str) -> Value {
    if shape == "Object" {
        return json!({ "type": "object" });
    }
    let Some(item) = shape.strip_prefix('[').and_then(|shape| shape.strip_suffix(']')) else {
        return reference(shape);
    };
    json!({
        "type": "object",
        "required": ["items", "next"],
        "properties": {
            "items": { "type": "array", "items": reference(item) },
            "next": { "type": ["string", "null"], "description": "for `after`; null at the end" },
        },
    })
}

/// The shapes by name, and those that they are made of.
fn shapes() -> Map<String, Value> {
    let mut shapes = Map::new();
    let mut parts = Vec::new();
    macro_rules! keep {
        ($($shape:ty,)*) => {$(
            let schema = serde_json::to_value(<$shape>::schema()).unwrap_or_default();
            shapes.insert(<$shape>::name().into_owned(), schema);
            <$shape>::schemas(&mut parts);
        )*};
    }
    keep! {
        messages::SendBody,
        messages::BatchBody,
        messages::IdsBody,
        messages::Receipt,
        conversations::OpenBody,
        conversations::SayBody,
        conversations::ReadBody,
        dead_letters::BulkBody,
        users::AddBody,
        users::ChangeBody,
        mobiles::AddBody,
        personal::EraseBody,
        nodes::DrainBody,
        view::stats::StatsView,
        imports::MessagesBody,
        imports::UsersBody,
        imports::ImportedView,
        tokens::CreateBody,
        tokens::RotateBody,
        of_all::SendAsBody,
        view::MessageView<'static>,
        view::MessageStoryView<'static>,
        view::ExplanationView,
        view::ConversationView<'static>,
        view::WholeConversationView<'static>,
        view::DeadLetterView<'static>,
        admin::UserView<'static>,
        admin::MobileView<'static>,
        admin::DoubtedView<'static>,
        view::personal::Record<'static>,
        view::personal::ProgressView,
        view::personal::ErasureView<'static>,
        admin::TokenView<'static>,
        admin::IssuedView,
        admin::RotatedView,
        admin::ConversationOverviewView<'static>,
        admin::AuditView<'static>,
        admin::BooksView<'static>,
        reply::ProblemBody<'static>,
    }
    for (name, schema) in parts {
        shapes.entry(name).or_insert_with(|| serde_json::to_value(schema).unwrap_or_default());
    }
    shapes.extend(written::shapes());
    shapes
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn an_address_has_the_parameters_of_its_own_route() {
        let at = |path| parameters_at(&Method::GET, path);
        assert_eq!(at("/api/v1/messages/pending").unwrap(), ["limit", "after"]);
        assert_eq!(at("/api/v1/messages/some-id").unwrap(), Vec::<&str>::new());
        assert_eq!(at("/api/v1/conversations/x/messages").unwrap(), ["limit", "before", "after"]);
        assert_eq!(at("/api/v1/admin/stats").unwrap(), ["numbers", "watch"]);
        assert_eq!(at("/api/v1/messages/"), None);
        assert_eq!(at("/elsewhere"), None);
        assert_eq!(parameters_at(&Method::PUT, "/api/v1/messages"), None);
    }

    #[test]
    fn each_parameter_has_a_name_and_a_meaning() {
        for route in ROUTES {
            for text in route.query {
                let (name, what) = text.split_once(": ").unwrap_or_default();
                let plain = name.chars().all(|c| c.is_ascii_alphanumeric());
                assert!(plain && !name.is_empty() && !what.is_empty(), "{}: {text}", route.path);
            }
        }
    }
}
