//! The description of the API: every route there is, no other, and answers of the shapes it says.

use std::collections::BTreeSet;

use esh3ar::server::{openapi, routes};
use serde_json::{Value, json};

use crate::support::Server;

#[test]
fn it_describes_the_routes_that_there_are() {
    let described = openapi::description(routes::all());
    let paths = described["paths"].as_object().unwrap();
    let of_it: BTreeSet<(String, &str)> = paths
        .iter()
        .flat_map(|(path, of)| {
            of.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.as_str()))
        })
        .collect();
    let rows = routes::all().iter().filter(|route| !route.is_legacy);
    let real: Vec<(String, &str)> = rows.map(|row| (row.method.to_string(), row.path)).collect();
    assert_eq!(real.iter().cloned().collect::<BTreeSet<_>>(), of_it);
    assert_eq!(real.len(), of_it.len(), "each once");
}

/// What is wrong with a value by its shape; objects may have nothing that is not described.
fn faults(api: &Value, schema: &Value, value: &Value, place: &str, out: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let shape = &api["components"]["schemas"][name.rsplit('/').next().unwrap()];
        assert!(shape.is_object(), "{name} is not described");
        return faults(api, shape, value, place, out);
    }
    if let Some(parts) = schema["allOf"].as_array() {
        // Of several parts each field must be in one.
        let mut whole = json!({ "type": "object", "properties": {}, "required": [] });
        for part in parts {
            let part = match part["$ref"].as_str() {
                Some(name) => &api["components"]["schemas"][name.rsplit('/').next().unwrap()],
                None => part,
            };
            let part = flat(api, part);
            for (name, field) in part["properties"].as_object().unwrap() {
                whole["properties"][name] = field.clone();
            }
            let required = part["required"].as_array().cloned().unwrap_or_default();
            whole["required"].as_array_mut().unwrap().extend(required);
        }
        return faults(api, &whole, value, place, out);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let fits = choices.iter().any(|choice| {
            let mut wrong = Vec::new();
            faults(api, choice, value, place, &mut wrong);
            wrong.is_empty()
        });
        if !fits {
            out.push(format!("{place}: {value} is none of {schema}"));
        }
        return;
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let allowed = |wanted: &Value| wanted == kind || (wanted == "number" && kind == "integer");
    let fits = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().any(allowed),
        Value::Null => true,
        one => allowed(one),
    };
    if !fits {
        return out.push(format!("{place}: {kind} where {} is described", schema["type"]));
    }
    if let Value::Array(items) = value {
        for (n, item) in items.iter().enumerate() {
            faults(api, &schema["items"], item, &format!("{place}[{n}]"), out);
        }
    }
    let (Value::Object(fields), Some(known)) = (value, schema["properties"].as_object()) else {
        return;
    };
    for name in schema["required"].as_array().into_iter().flatten() {
        if !fields.contains_key(name.as_str().unwrap()) {
            out.push(format!("{place} has no {name}"));
        }
    }
    for (name, field) in fields {
        match known.get(name) {
            Some(schema) => faults(api, schema, field, &format!("{place}.{name}"), out),
            None => out.push(format!("{place}.{name} is not described")),
        }
    }
}

/// A shape that may itself be of parts.
fn flat(api: &Value, schema: &Value) -> Value {
    let Some(parts) = schema["allOf"].as_array() else { return schema.clone() };
    let mut whole = json!({ "type": "object", "properties": {}, "required": [] });
    for part in parts {
        let part = match part["$ref"].as_str() {
            Some(name) => {
                flat(api, &api["components"]["schemas"][name.rsplit('/').next().unwrap()])
            }
            None => flat(api, part),
        };
        for (name, field) in part["properties"].as_object().unwrap() {
            whole["properties"][name] = field.clone();
        }
        let required = part["required"].as_array().cloned().unwrap_or_default();
        whole["required"].as_array_mut().unwrap().extend(required);
    }
    whole
}

#[tokio::test]
async fn answers_are_of_the_shapes_that_it_says() {
    let server = Server::start().await;
    let root = server.user("root", "Admin,SendMessages,Chat");
    let phone = server.phone("+967771234567");
    let (status, api) = server.request("GET", "/openapi.json", None, None).await;
    assert_eq!((status, &api["openapi"]), (200, &json!("3.1.0")));
    assert_eq!(server.request("POST", "/openapi.json", None, None).await.0, 405);
    // Every reference leads somewhere.
    let text = api.to_string();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(api["components"]["schemas"][name].is_object(), "{name} is not described");
    }
    let id = server.send(&root, "+967771234567", "x").await;
    server.run_json(&["user", "set", "root", "--phone", "+967770000001", "--reason", "for a test"]);
    let (_, nodes) = server.request("GET", "/api/v1/admin/nodes", Some(&root), None).await;
    let node = nodes["items"][0]["id"].as_str().unwrap();
    let mut talk = String::new();
    let mut token = String::new();
    let mut wrong = Vec::new();
    let chat = json!({ "phone": "+967771234567" });
    for (who, method, path, body) in [
        (&root, "GET", "/messages", None),
        (&root, "GET", "/messages/{id}", None),
        (&root, "GET", "/messages/{id}/timeline", None),
        (&root, "POST", "/messages", Some(json!({ "to": "+967771234567", "content": "x" }))),
        (
            &root,
            "POST",
            "/messages/batch",
            Some(json!({ "messages": [{ "to": "1", "content": "x" }] })),
        ),
        (&root, "POST", "/conversations", Some(chat)),
        (&root, "POST", "/conversations/{talk}/messages", Some(json!({ "content": "y" }))),
        (&root, "GET", "/conversations", None),
        (&root, "GET", "/conversations/{talk}", None),
        (&root, "GET", "/conversations/{talk}/messages", None),
        (&root, "GET", "/conversations/unread-count", None),
        (&phone, "GET", "/messages/pending", None),
        (&phone, "POST", "/messages/{id}/delivered", None),
        (&phone, "POST", "/messages/acknowledge", Some(json!({ "ids": [] }))),
        (&root, "GET", "/admin/users", None),
        (&root, "GET", "/admin/users/{user}", None),
        (&root, "POST", "/admin/users", Some(json!({ "name": "new" }))),
        (&root, "GET", "/admin/mobile-users", None),
        (&root, "GET", "/admin/mobile-users/{phone}", None),
        (&root, "GET", "/admin/number-check?region=us", None),
        (&root, "POST", "/admin/mobile-users", Some(json!({ "phones": ["+967770000002"] }))),
        (&root, "GET", "/admin/tokens", None),
        (&root, "POST", "/admin/tokens/revoke", Some(json!({ "mobile": "+967770000002" }))),
        (&root, "POST", "/admin/mobile-users/+967770000002/block", Some(json!({}))),
        (&root, "POST", "/admin/mobile-users/+967770000002/unblock", None),
        (&root, "POST", "/admin/tokens", Some(json!({ "user": "new", "expiresIn": 60 }))),
        (&root, "GET", "/admin/tokens/{token}", None),
        (&root, "POST", "/admin/tokens/{token}/rotate", Some(json!({ "overlap": 5 }))),
        (&root, "GET", "/admin/messages", None),
        (&root, "GET", "/admin/messages/{id}", None),
        (&root, "GET", "/admin/messages/{id}/explain", None),
        (&root, "GET", "/admin/conversations", None),
        (&root, "GET", "/admin/conversations/{talk}", None),
        (&root, "GET", "/admin/conversations/{talk}/messages", None),
        (&root, "POST", "/admin/conversations/{talk}/archive", None),
        (&root, "GET", "/admin/dead-letters", None),
        (&root, "GET", "/admin/audit", None),
        (&root, "GET", "/admin/books", None),
        (&root, "GET", "/admin/stats", None),
        (&root, "GET", "/admin/stats?numbers=true&watch=true", None),
        (&root, "GET", "/admin/nodes", None),
        (&root, "POST", "/admin/nodes/{node}/drain", Some(json!({ "undo": true }))),
        (&root, "POST", "/admin/import/messages", Some(json!({ "rows": [{ "Id": "x" }] }))),
        (&root, "POST", "/admin/import/users", Some(json!({ "rows": [{ "Id": "x" }] }))),
        (&root, "GET", "/admin/mobile-users/{phone}/export", None),
        (
            &root,
            "POST",
            "/admin/mobile-users/{phone}/erase",
            Some(json!({ "dryRun": true, "reason": "a test" })),
        ),
        (&root, "POST", "/admin/mobile-users/{phone}/erase", None),
        (
            &root,
            "POST",
            "/admin/dead-letters/requeue",
            Some(json!({ "all": true, "dryRun": true })),
        ),
        (&root, "POST", "/admin/dead-letters/delete", Some(json!({ "all": true }))),
        (&root, "POST", "/conversations/{talk}/read", None),
        (&root, "GET", "/admin/users/nobody", None),
        (&root, "GET", "/messages?limit=0", None),
    ] {
        let asked = path
            .replace("{id}", &id)
            .replace("{talk}", &talk)
            .replace("{token}", &token)
            .replace("{user}", "root")
            .replace("{node}", node)
            .replace("{phone}", "+967771234567");
        let body = body.map(|body| body.to_string());
        let asked = format!("/api/v1{asked}");
        let (status, answer) = server.request(method, &asked, Some(who), body.as_deref()).await;
        let known =
            path.replace("{talk}", "{id}").replace("{token}", "{id}").replace("{user}", "{id}");
        let known = known.replace("{node}", "{id}").replace("+967770000002", "{phone}");
        let known = known.split('?').next().unwrap().replace("users/nobody", "users/{id}");
        let described = &api["paths"][format!("/api/v1{known}")][method.to_lowercase()];
        assert!(described.is_object(), "{method} {known} is not described");
        let (response, media) = match status {
            200..300 if known == "/conversations" && status == 201 => {
                (&described["responses"]["200"], "application/json")
            }
            200..300 => (&described["responses"][status.to_string()], "application/json"),
            _ => (&described["responses"]["default"], "application/problem+json"),
        };
        assert!(response.is_object(), "{method} {known}: {status} is not described: {answer}");
        let place = format!("{method} {known} {status}");
        if response["content"]["application/jsonl"].is_object() {
            // A line each; one alone is read as what it is.
            let text = answer.as_str().map_or_else(|| answer.to_string(), str::to_owned);
            assert!(!text.is_empty(), "{place}");
            for line in text.lines() {
                let line: Value = serde_json::from_str(line).unwrap();
                let schema = &response["content"]["application/jsonl"]["schema"];
                faults(&api, schema, &line, &place, &mut wrong);
            }
            continue;
        }
        faults(&api, &response["content"][media]["schema"], &answer, &place, &mut wrong);
        match known.as_str() {
            "/conversations" if method == "POST" => {
                talk = answer["id"].as_str().unwrap().to_owned()
            }
            "/admin/tokens" if method == "POST" => {
                token = answer["id"].as_str().unwrap().to_owned()
            }
            _ => {}
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    for place in ["/health", "/health/live", "/health/ready"] {
        let (_, answer) = server.request("GET", place, Some(&root), None).await;
        let described = &api["paths"][place]["get"]["responses"]["200"]["content"];
        let schema = &described["application/json"]["schema"];
        faults(&api, schema, &answer, place, &mut wrong);
    }
    assert_eq!(wrong, Vec::<String>::new());
    // Nothing of the admin API is described as just any object.
    for (path, methods) in api["paths"].as_object().unwrap() {
        for (method, described) in methods.as_object().unwrap() {
            for (status, answer) in described["responses"].as_object().unwrap() {
                let vague = json!({ "type": "object" });
                let is_vague = answer["content"]["application/json"]["schema"] == vague;
                assert!(!is_vague || path == "/openapi.json", "{method} {path} {status}");
            }
        }
    }
}
