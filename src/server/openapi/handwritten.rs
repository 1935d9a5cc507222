//! Schemas of responses that have no Rust type.

use serde_json::{Map, Value, json};

use super::reference;

/// An object with all fields required.
fn object(fields: Value) -> Value {
    let required: Vec<&String> = fields.as_object().into_iter().flat_map(Map::keys).collect();
    json!({ "type": "object", "required": required, "properties": fields })
}

/// A list without pages.
fn items(shape: &str) -> Value {
    object(json!({ "items": { "type": "array", "items": reference(shape) } }))
}

fn count(what: &str) -> Value {
    json!({ "type": "integer", "minimum": 0, "description": what })
}

fn ids(what: &str) -> Value {
    let id = json!({ "type": "string", "format": "uuid" });
    json!({ "type": "array", "items": id, "description": what })
}

pub(super) fn shapes() -> Map<String, Value> {
    let text = json!({ "type": "string" });
    let state = json!({
        "type": "object", "required": ["status", "latencyMs"],
        "properties": {
            "status": { "type": "string", "enum": ["up", "down"] },
            "latencyMs": { "type": "number", "description": "Milliseconds" },
            "fault": text,
        },
    });
    let mut earlier = state.clone();
    earlier["required"] = json!(["at", "status", "latencyMs"]);
    earlier["properties"]["at"] = json!({ "type": "string", "format": "date-time" });
    let replica = json!({
        "type": "object", "required": ["name", "status"],
        "properties": {
            "name": text, "status": text, "lagSeconds": { "type": "number", "description": "Replication lag in seconds" }, "fault": text,
        },
    });
    let whole = [
        (
            "BatchResults",
            json!({ "type": "object", "required": ["results"], "properties": { "results": {
                "type": "array",
                "items": { "type": "object", "properties": {
                    "id": { "type": "string", "format": "uuid" }, "error": reference("Problem"),
                } },
            } } }),
        ),
        (
            "ErasureLine",
            json!({ "oneOf": [
                reference("ErasureProgress"), reference("Erasure"), reference("Problem"),
            ] }),
        ),
        ("Nodes", items("Node")),
        ("MobileUsers", items("MobileUser")),
        ("Changed", object(json!({ "changed": count("Number of messages whose status changed") }))),
        (
            "DeadLettersChanged",
            json!({
                "type": "object",
                "required": ["matched", "skipped", "failed", "more", "next"],
                "properties": {
                    "matched": count("Number of dead letters matched"),
                    "requeued": count("Number of dead letters requeued; only in the response to a requeue"),
                    "deleted": count("Number of dead letters deleted; only in the response to a delete"),
                    "skipped": ids("Ids of dead letters skipped because another request changed them or their message has since moved on"),
                    "failed": ids("Ids of dead letters that could not be changed; retry later"),
                    "more": { "type": "boolean", "description": "Whether more dead letters may match" },
                    "next": { "type": ["string", "null"], "description": "pass as `after` to continue" },
                },
            }),
        ),
        (
            "DeadLettersMatched",
            object(json!({
                "dryRun": { "type": "boolean", "description": "Always true" }, "matched": count("Number of dead letters that would change"),
            })),
        ),
        (
            "DeadLettersOutcome",
            json!({ "oneOf": [reference("DeadLettersChanged"), reference("DeadLettersMatched")] }),
        ),
        (
            "UnreadConversations",
            object(json!({ "count": count("Conversations with unread messages") })),
        ),
        (
            "ReadReceipt",
            object(json!({
                "read": count("Number of messages marked as read by this request"),
                "conversation": reference("Conversation"),
            })),
        ),
        (
            "History",
            json!({ "type": "object", "required": ["items"], "properties": {
                "items": { "type": "array", "items": reference("Message") },
                "next": { "type": ["integer", "null"], "description": "a seq: pass as `after` or `before` to get the next page; null on the last page" },
            } }),
        ),
        (
            "Health",
            json!({
                "type": "object",
                "required": ["status"],
                "description": "Fields other than `status` are shown to administrators only",
                "properties": {
                    "status": {
                        "type": "string", "enum": ["healthy", "unhealthy", "stopping", "draining"],
                    },
                    "dependencies": { "type": "object", "additionalProperties": state },
                    "backpressure": object(json!({
                        "level": text, "deliveriesInHand": count("Deliveries in flight or due"),
                    })),
                    "replicas": { "type": "array", "items": replica },
                    "history": {
                        "type": "object",
                        "description": "The last 50 results of each dependency, newest first",
                        "additionalProperties": { "type": "array", "items": earlier },
                    },
                },
            }),
        ),
    ];
    whole.into_iter().map(|(name, shape)| (name.to_owned(), shape)).collect()
}
