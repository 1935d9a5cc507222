//! The OpenAPI 3.1 document at `/openapi.json`, built from the route table and the request and response types.

mod handwritten;

use serde_json::{Map, Value, json};

use super::{
    reply,
    route::{self, BodySchema, Route, RouteResponse, Who, Writes},
    view::{self, privacy},
};

impl Who {
    const fn tag(self) -> &'static str {
        match self {
            Who::Anyone => "anyone",
            Who::Business(_) => "business users",
            Who::Mobile => "mobile users",
            Who::Either(_) => "both sides",
            Who::Admin => "administrators",
        }
    }
}

/// The routes in the document: all but those of the legacy API.
pub fn described(routes: &[Route]) -> impl Iterator<Item = &Route> {
    routes.iter().filter(|route| !route.is_legacy)
}

pub fn description(routes: &[Route]) -> Value {
    let mut paths = Map::new();
    for route in described(routes) {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = route.operation();
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "esh3ar",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Messages from businesses to mobile users, and conversations between them. \
                            Times are RFC 3339 in UTC; ids are UUIDs. Errors are RFC 9457 problem documents with \
                            a stable `code`.",
        },
        "paths": paths,
        "components": {
            "schemas": shapes(routes),
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
        "security": [{ "token": [] }],
    })
}

impl Route {
    fn operation(&self) -> Value {
        let content = |media: &str, schema: Value, what: &str| {
            json!({
                "description": what, "content": { media: { "schema": schema } },
            })
        };
        let success = match &self.answer {
            RouteResponse::Empty => json!({
            "description":"success"}
            ),
            RouteResponse::Lines(shape) => content(
                "application/jsonl",
                reference(&shape.name),
                "one JSON document per line, each of this schema",
            ),
            RouteResponse::One(shape) => content("application/json", answered(shape), "success"),
            RouteResponse::Page(shape) => content("application/json", page_of(shape), "success"),
        };
        let mut operation = json!({
            "summary": self.summary,
            "operationId": self.name(),
            "tags": [self.who.tag()],
            "parameters": self.described_parameters(),
            "responses": {
                self.status.to_string(): success,
                "default": {
                    "description": "error",
                    "content": { "application/problem+json": { "schema": reference("Problem") } },
                },
            },
        });
        if let Some(shape) = &self.takes {
            operation["requestBody"] = json!({
                "content": { "application/json": { "schema": reference(&shape.name) } },
            });
        }
        if let Some(more) = self.refused_by_rate() {
            let problem = reference("Problem");
            let text = format!("{more}; retry after `Retry-After` seconds");
            let mut limited = content("application/problem+json", problem, &text);
            limited["headers"]["Retry-After"] = json!({ "schema": { "type": "integer" } });
            operation["responses"]["429"] = limited;
        }
        if self.who == Who::Anyone {
            operation["security"] = json!([]);
        }
        operation
    }

    /// The description of a 429 response.
    fn refused_by_rate(&self) -> Option<&'static str> {
        Some(match (self.writes, self.who) {
            (Writes::Messages, _) => "message rate limit exceeded",
            (Writes::Nothing, _) => return None,
            (_, Who::Admin) => "admin request rate limit exceeded",
            (Writes::Conversations, _) => "conversation rate limit exceeded",
            (Writes::Receipts, _) => "rate limit for receipts without effect exceeded",
            (Writes::Registrations, _) => "registration limit exceeded",
            (Writes::Other, _) => "write rate limit exceeded",
        })
    }

    /// The operation id: the method and the words of the path.
    fn name(&self) -> String {
        let words = self.path.trim_start_matches("/api/v1").split(['/', '-', '.']);
        let words = words.map(|word| word.trim_matches(['{', '}'])).filter(|word| !word.is_empty());
        words.fold(self.method.as_str().to_ascii_lowercase(), |name, word| format!("{name}_{word}"))
    }

    fn described_parameters(&self) -> Vec<Value> {
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
        if self.who == Who::Admin {
            all.push(json!({
                "name": "X-Reason", "in": "header", "schema": { "type": "string", "maxLength": 500 },
                "description": "Reason for this request, recorded in the audit log",
            }));
        }
        if self.is_keyed {
            all.push(json!({
                "name": "Idempotency-Key", "in": "header",
                "schema": { "type": "string", "minLength": 1, "maxLength": 255 },
                "description": "A request with the same key and body within 24 h (retention.idempotency_keys) gets the first response again",
            }));
        }
        all
    }
}

fn reference(shape: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{shape}") })
}

fn answered(shape: &BodySchema) -> Value {
    if shape.name == "Object" { json!({ "type": "object" }) } else { reference(&shape.name) }
}

fn page_of(shape: &BodySchema) -> Value {
    json!({
        "type": "object",
        "required": ["items", "next"],
        "properties": {
            "items": { "type": "array", "items": reference(&shape.name) },
            "next": { "type": ["string", "null"], "description": "pass as `after` to get the next page; null on the last page" },
        },
    })
}

fn shapes(routes: &[Route]) -> Map<String, Value> {
    let mut shapes = Map::new();
    for route in described(routes) {
        let answer = match &route.answer {
            RouteResponse::Empty => None,
            RouteResponse::One(shape)
            | RouteResponse::Page(shape)
            | RouteResponse::Lines(shape) => Some(shape),
        };
        route.takes.iter().chain(answer).for_each(|shape| shape.collect(&mut shapes));
    }
    // Components of the schemas that are written by hand.
    route::collect::<reply::ProblemBody<'static>>(&mut shapes);
    route::collect::<privacy::ProgressView>(&mut shapes);
    route::collect::<privacy::ErasureView<'static>>(&mut shapes);
    route::collect::<view::admin::MobileView<'static>>(&mut shapes);
    shapes.extend(handwritten::shapes());
    shapes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::server::routes;

    #[test]
    fn each_route_is_described_once_with_a_summary_and_what_its_parameters_mean() {
        let mut names = BTreeSet::new();
        for route in described(routes::all()) {
            assert!(names.insert(route.name()), "{} twice", route.name());
            assert!(!route.summary.is_empty(), "{} has no summary", route.path);
            for text in route.query {
                let (name, what) = text.split_once(": ").unwrap_or_default();
                let plain = name.chars().all(|c| c.is_ascii_alphanumeric());
                assert!(plain && !name.is_empty() && !what.is_empty(), "{}: {text}", route.path);
            }
        }
    }

    #[test]
    fn every_shape_that_is_named_is_there() {
        fn names(value: &Value, found: &mut BTreeSet<String>) {
            match value {
                Value::Object(fields) => {
                    for (name, value) in fields {
                        if let (true, Some(target)) = (name == "$ref", value.as_str()) {
                            found.insert(target.to_owned());
                        }
                        names(value, found);
                    }
                }
                Value::Array(items) => items.iter().for_each(|item| names(item, found)),
                _ => {}
            }
        }
        let description = description(routes::all());
        let mut named = BTreeSet::new();
        names(&description, &mut named);
        for name in &named {
            let shape = name.strip_prefix('#').and_then(|path| description.pointer(path));
            assert!(shape.is_some_and(Value::is_object), "{name}");
        }
    }
}
