//! The shapes of answers that no type of their own stands for.

use serde_json::{Map, Value, json};

use super::reference;

/// An object that has all of these.
fn object(fields: Value) -> Value {
    let required: Vec<&String> = fields.as_object().into_iter().flat_map(Map::keys).collect();
    json!({ "type": "object", "required": required, "properties": fields })
}

/// Objects of a shape, all there are.
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

/// Each with its name.
pub(super) fn shapes() -> Map<String, Value> {
    let text = json!({ "type": "string" });
    let state = json!({
        "type": "object", "required": ["status", "latencyMs"],
        "properties": {
            "status": { "type": "string", "enum": ["up", "down"] },
            "latencyMs": { "type": "number" },
            "fault": text,
        },
    });
    let mut earlier = state.clone();
    earlier["required"] = json!(["at", "status", "latencyMs"]);
    earlier["properties"]["at"] = json!({ "type": "string", "format": "date-time" });
    let replica = json!({
        "type": "object", "required": ["name", "status"],
        "properties": {
            "name": text, "status": text, "lagSeconds": { "type": "number" }, "fault": text,
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
        ("Changed", object(json!({ "changed": count("How many it changed") }))),
        (
            "DeadLettersChanged",
            json!({
                "type": "object",
                "required": ["matched", "skipped", "failed", "more", "next"],
                "properties": {
                    "matched": count("How many were looked at"),
                    "requeued": count("How many were put back; where they were to be"),
                    "deleted": count("How many were deleted; where they were to be"),
                    "skipped": ids("Those that somebody else had changed, or whose message moved on"),
                    "failed": ids("Those that could not be changed now"),
                    "more": { "type": "boolean", "description": "Whether there may be more" },
                    "next": { "type": ["string", "null"], "description": "as `after` goes on" },
                },
            }),
        ),
        (
            "DeadLettersMatched",
            object(json!({
                "dryRun": { "type": "boolean" }, "matched": count("How many it would be"),
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
                "read": count("Messages that were read now"),
                "conversation": reference("Conversation"),
            })),
        ),
        (
            "History",
            json!({ "type": "object", "required": ["items"], "properties": {
                "items": { "type": "array", "items": reference("Message") },
                "next": { "type": ["integer", "null"], "description": "a seq, for `after` or `before`" },
            } }),
        ),
        (
            "Health",
            json!({
                "type": "object",
                "required": ["status"],
                "description": "All but the status is for administrators",
                "properties": {
                    "status": {
                        "type": "string", "enum": ["healthy", "unhealthy", "stopping", "draining"],
                    },
                    "dependencies": { "type": "object", "additionalProperties": state },
                    "backpressure": object(json!({
                        "level": text, "deliveriesInHand": { "type": "integer" },
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
