//! The JSON encoding: one object per record, properties in any order, unknown ones skipped.

use std::fmt;

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;

use super::{ClientMessage, CompletionResult, Data, EncodeError, ParseError, RECORD_END};

/// All properties of all message types. Absent is `None`, null is `Some(Value::Null)`: a completion
/// distinguishes "no result" from "null". Values are validated after parsing, because `type` may come last
/// and decides which are required. `headers` is skipped like unknown properties.
#[derive(Default)]
struct Fields {
    r#type: Option<Value>,
    invocation_id: Option<Value>,
    target: Option<Value>,
    arguments: Option<Value>,
    stream_ids: Option<Value>,
    item: Option<Value>,
    result: Option<Value>,
    error: Option<Value>,
    allow_reconnect: Option<Value>,
    sequence_id: Option<Value>,
}

/// By hand, because a derived reader refuses a duplicate property. The last one counts, as in the official
/// server.
impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Name {
    Type,
    InvocationId,
    Target,
    Arguments,
    StreamIds,
    Item,
    Result,
    Error,
    AllowReconnect,
    SequenceId,
    #[serde(other)]
    Other,
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key::<Name>()? {
            let field = match name {
                Name::Type => &mut fields.r#type,
                Name::InvocationId => &mut fields.invocation_id,
                Name::Target => &mut fields.target,
                Name::Arguments => &mut fields.arguments,
                Name::StreamIds => &mut fields.stream_ids,
                Name::Item => &mut fields.item,
                Name::Result => &mut fields.result,
                Name::Error => &mut fields.error,
                Name::AllowReconnect => &mut fields.allow_reconnect,
                Name::SequenceId => &mut fields.sequence_id,
                Name::Other => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *field = Some(map.next_value()?);
        }
        Ok(fields)
    }
}

pub(super) fn parse(payload: &[u8]) -> Result<ClientMessage, ParseError> {
    // Validated as a whole, since the reader does not look into strings that it skips.
    let text = std::str::from_utf8(payload).map_err(|_| ParseError::Json)?;
    // serde accepts an array for a struct, by position.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(not_an_object(text));
    }
    let fields: Fields = match serde_json::from_str(text) {
        Ok(fields) => fields,
        Err(_) => {
            serde_json::from_str(&replace_lone_surrogates(text)).map_err(|_| ParseError::Json)?
        }
    };
    fields.into_message()
}

/// Replaces escaped halves of surrogate pairs by U+FFFD. A JavaScript client that cuts a text within an emoji
/// sends such a half, and must not lose its connection for it.
fn replace_lone_surrogates(text: &str) -> String {
    let mut replaced = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        replaced.push_str(before);
        let length = match (utf16_unit(escape), escape.get(6..).and_then(utf16_unit)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
            (Some(0xD800..=0xDFFF), _) => {
                replaced.push(char::REPLACEMENT_CHARACTER);
                rest = escape.get(6..).unwrap_or_default();
                continue;
            }
            // An escaped backslash does not begin another escape.
            _ => escape.char_indices().nth(2).map_or(escape.len(), |(end, _)| end),
        };
        let (kept, after) = escape.split_at(length);
        replaced.push_str(kept);
        rest = after;
    }
    replaced.push_str(rest);
    replaced
}

/// The UTF-16 unit that a text begins with in escaped form.
fn utf16_unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    u16::from_str_radix(digits, 16).ok()
}

impl Fields {
    fn into_message(self) -> Result<ClientMessage, ParseError> {
        let number = |property| ParseError::WrongType { property, expected: "Number" };
        let kind = self.r#type.ok_or(ParseError::Missing("type"))?;
        if !(kind.is_i64() || kind.is_u64()) {
            return Err(number("type"));
        }
        let id = |id| required_text("invocationId", id);
        let sequence = |id: Option<Value>| {
            let id = id.ok_or(ParseError::Missing("sequenceId"))?;
            id.as_u64().ok_or(number("sequenceId"))
        };
        Ok(match kind.as_u64() {
            Some(1) => ClientMessage::Invocation {
                invocation_id: text("invocationId", self.invocation_id)?,
                target: required_text("target", self.target)?,
                arguments: arguments(self.arguments)?,
                stream_ids: stream_ids(self.stream_ids)?,
            },
            Some(2) => ClientMessage::StreamItem {
                invocation_id: id(self.invocation_id)?,
                item: Data::Json(self.item.ok_or(ParseError::Missing("item"))?),
            },
            Some(3) => ClientMessage::Completion {
                invocation_id: id(self.invocation_id)?,
                outcome: outcome(self.result, self.error)?,
            },
            Some(4) => ClientMessage::StreamInvocation {
                invocation_id: id(self.invocation_id)?,
                target: required_text("target", self.target)?,
                arguments: arguments(self.arguments)?,
                stream_ids: stream_ids(self.stream_ids)?,
            },
            Some(5) => ClientMessage::CancelInvocation { invocation_id: id(self.invocation_id)? },
            Some(6) => ClientMessage::Ping,
            Some(7) => ClientMessage::Close {
                error: text("error", self.error)?,
                allow_reconnect: flag("allowReconnect", self.allow_reconnect)?,
            },
            Some(8) => ClientMessage::Ack { sequence_id: sequence(self.sequence_id)? },
            Some(9) => ClientMessage::Sequence { sequence_id: sequence(self.sequence_id)? },
            _ => ClientMessage::Unknown,
        })
    }
}

/// Null and the empty string count as absent.
fn text(property: &'static str, value: Option<Value>) -> Result<Option<String>, ParseError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
        Some(_) => Err(ParseError::WrongType { property, expected: "String" }),
    }
}

fn required_text(property: &'static str, value: Option<Value>) -> Result<String, ParseError> {
    text(property, value)?.ok_or(ParseError::Missing(property))
}

fn arguments(value: Option<Value>) -> Result<Vec<Data>, ParseError> {
    match value {
        None => Err(ParseError::Missing("arguments")),
        Some(Value::Array(arguments)) => Ok(arguments.into_iter().map(Data::Json).collect()),
        Some(_) => Err(ParseError::WrongType { property: "arguments", expected: "Array" }),
    }
}

fn stream_ids(value: Option<Value>) -> Result<Vec<String>, ParseError> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(ids)) => {
            ids.into_iter().map(|id| required_text("streamIds", Some(id))).collect()
        }
        Some(_) => Err(ParseError::WrongType { property: "streamIds", expected: "Array" }),
    }
}

fn flag(property: &'static str, value: Option<Value>) -> Result<bool, ParseError> {
    match value {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(_) => Err(ParseError::NotAFlag(property)),
    }
}

fn outcome(result: Option<Value>, error: Option<Value>) -> Result<CompletionResult, ParseError> {
    // An empty error is still an error, so this does not use `text`.
    let error = match error {
        None | Some(Value::Null) => None,
        Some(Value::String(error)) => Some(error),
        Some(_) => return Err(ParseError::WrongType { property: "error", expected: "String" }),
    };
    match (result, error) {
        (Some(_), Some(_)) => Err(ParseError::ResultAndError),
        (None, Some(error)) => Ok(CompletionResult::Error(error)),
        (Some(result), None) => Ok(CompletionResult::Value(Data::Json(result))),
        (None, None) => Ok(CompletionResult::Void),
    }
}

fn not_an_object(text: &str) -> ParseError {
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Null) => ParseError::NotAnObject("Null"),
        Ok(Value::Bool(true)) => ParseError::NotAnObject("True"),
        Ok(Value::Bool(false)) => ParseError::NotAnObject("False"),
        Ok(Value::Number(_)) => ParseError::NotAnObject("Number"),
        Ok(Value::String(_)) => ParseError::NotAnObject("String"),
        Ok(Value::Array(_)) => ParseError::NotAnObject("Array"),
        Ok(Value::Object(_)) | Err(_) => ParseError::Json,
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InvocationOut<'a, T: Serialize> {
    r#type: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    invocation_id: Option<&'a str>,
    target: &'a str,
    arguments: [&'a T; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CompletionOut<'a> {
    r#type: u8,
    invocation_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a Data>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CloseOut<'a> {
    r#type: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    allow_reconnect: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StreamItemOut<'a> {
    r#type: u8,
    invocation_id: &'a str,
    item: &'a Data,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NumberedOut {
    r#type: u8,
    sequence_id: u64,
}

pub(super) fn invocation<T: Serialize>(
    invocation_id: Option<&str>,
    target: &str,
    argument: &T,
) -> Result<Bytes, EncodeError> {
    record(&InvocationOut { r#type: 1, invocation_id, target, arguments: [argument] })
}

/// A call with an encoded argument: these parts, separated by commas, between `begin` and `end`.
pub(super) fn call<'a>(
    target: &str,
    begin: &[u8],
    parts: impl IntoIterator<Item = &'a [u8], IntoIter: Clone>,
    end: &[u8],
) -> Bytes {
    const HEAD: &[u8] = b"{\"type\":1,\"target\":\"";
    const ARGUMENTS: &[u8] = b"\",\"arguments\":[";
    let parts = parts.into_iter();
    let length: usize = parts.clone().map(|part| part.len() + 1).sum();
    let mut bytes = Vec::with_capacity(length + HEAD.len() + target.len() + ARGUMENTS.len() + 8);
    // Method names contain nothing that JSON escapes.
    for piece in [HEAD, target.as_bytes(), ARGUMENTS, begin] {
        bytes.extend_from_slice(piece);
    }
    for (n, part) in parts.enumerate() {
        if n > 0 {
            bytes.push(b',');
        }
        bytes.extend_from_slice(part);
    }
    bytes.extend_from_slice(end);
    bytes.extend_from_slice(b"]}");
    bytes.push(RECORD_END);
    bytes.into()
}

pub(super) fn stream_item(invocation_id: &str, item: &Data) -> Bytes {
    plain_record(&StreamItemOut { r#type: 2, invocation_id, item })
}

pub(super) fn numbered(kind: u8, sequence_id: u64) -> Bytes {
    plain_record(&NumberedOut { r#type: kind, sequence_id })
}

pub(super) fn completion(id: &str, outcome: &CompletionResult) -> Bytes {
    let (result, error) = match outcome {
        CompletionResult::Void => (None, None),
        CompletionResult::Value(value) => (Some(value), None),
        CompletionResult::Error(error) => (None, Some(error.as_str())),
    };
    plain_record(&CompletionOut { r#type: 3, invocation_id: id, result, error })
}

pub(super) fn ping() -> Bytes {
    Bytes::from_static(b"{\"type\":6}\x1e")
}

pub(super) fn close(error: Option<&str>, allow_reconnect: bool) -> Bytes {
    plain_record(&CloseOut { r#type: 7, error, allow_reconnect })
}

/// JSON escapes control characters within strings, so the end byte cannot occur inside.
fn record<T: Serialize>(message: &T) -> Result<Bytes, EncodeError> {
    let mut bytes = serde_json::to_vec(message)?;
    bytes.push(RECORD_END);
    Ok(bytes.into())
}

/// A record of strings and JSON values only: serialising them to memory cannot fail. If it does, the client
/// is told to reconnect instead of waiting.
fn plain_record<T: Serialize>(message: &T) -> Bytes {
    record(message)
        .unwrap_or_else(|_| Bytes::from_static(b"{\"type\":7,\"allowReconnect\":true}\x1e"))
}
